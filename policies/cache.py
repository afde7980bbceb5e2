"""What was computed once is kept as arrays in a file, and computed again where the file is damaged."""

from __future__ import annotations

import logging
import zipfile
import zlib
from pathlib import Path

import numpy as np

from mmenv.files import replacing

log = logging.getLogger(__name__)


def read(path: Path | None, *names: str) -> dict[str, np.ndarray] | None:
    """The arrays of a file, those of `names` or all; None where there is no file, or, with a warning, where
    it is damaged."""
    if path is None or not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged (%s): computing it again.", path, error)
        return None


def write(path: Path | None, arrays: dict[str, np.ndarray]) -> None:
    """Keep the arrays, in a folder that is made where it is missing; nothing without a path, and with a
    warning where nothing can be written."""
    if path is None:
        return
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        log.warning("%s cannot be kept (%s): the next run computes it again.", path, error.strerror)
