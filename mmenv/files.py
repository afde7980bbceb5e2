"""Files that are never half-written, and pickles that earlier versions wrote."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmenv.checks import ConfigError

MOVED = {
    "policies.recurrent": "policies.network.recurrent",
    "train.control_variate": "train.learner.control_variate",
    "train.parallel": "train.learner.parallel",
    "train.ppo:Falling": "train.run:LinearDecay",
}
"""Where modules, or single names of them, are that files of version 0.1.0 (commit 616e95f) name."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and else is removed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unpickle(data: bytes) -> Any:
    """What was pickled, by this version or by 0.1.0; raises `ConfigError` where it names what is not here.

    Like every pickle, read it only if you trust its origin.
    """
    return _Unpickler(io.BytesIO(data)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        there = MOVED.get(f"{module}:{name}") or f"{MOVED.get(module, module)}:{name}"
        try:
            return super().find_class(*there.split(":"))
        except (ImportError, AttributeError) as error:
            if module.partition(".")[0] not in ("mmenv", "policies", "train"):
                raise
            raise ConfigError(
                f"the file names {module}.{name}, which this version does not have: read it with the version "
                "that wrote it (0.1.0, commit 616e95f, reads all that came before), or make it anew."
            ) from error
