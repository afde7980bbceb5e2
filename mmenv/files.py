"""Files that are never half-written, and folders that two processes never write to at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and else is removed.

    The folder is made where there is none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class BusyError(RuntimeError):
    """Another process works in a folder."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep others that ask for it out of `folder`, which exists, until the block or its process ends.

    Raises `BusyError` where another is in it. On Windows nobody is kept out.
    """
    with (folder / ".lock").open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError:
            raise BusyError(
                f"{folder}: another process works in it; wait for it to end, or stop it."
            ) from None
        yield
