"""Faults in the lines of a capture, and how an import must take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmenv.data.rows import CaptureError
from tests.helpers.imports import books, rows_of, run
from tests.helpers.orders import write_lines

Lines = dict[str, list[str]]
"""Lines of each file, by name."""
Fault = Callable[[Lines], tuple[str, int]]
"""Spoils lines; the file and line, from 1, at which that should be found."""


def edit(file: str, line: int, column: int, value: object) -> Fault:
    """Replace one value; lines count from 1."""

    def apply(files: Lines) -> tuple[str, int]:
        values = files[file][line - 1].split(",")
        values[column] = str(value)
        files[file][line - 1] = ",".join(values)
        return file, line

    return apply


def insert(file: str, line: int, text: str) -> Fault:
    """Put a line before this one."""

    def apply(files: Lines) -> tuple[str, int]:
        files[file].insert(line - 1, text)
        return file, line

    return apply


def drop(file: str, line: int, found: int = 0) -> Fault:
    """Leave out a line; what is wrong is found at line `found`, or where it was."""

    def apply(files: Lines) -> tuple[str, int]:
        del files[file][line - 1]
        return file, found or line

    return apply


def again(file: str, line: int) -> Fault:
    """Repeat a line."""

    def apply(files: Lines) -> tuple[str, int]:
        files[file].insert(line, files[file][line - 1])
        return file, line + 1

    return apply


def find(files: Lines, file: str, text: str, number: int = 0) -> int:
    """Line of the `number`-th line that has `text`."""
    return [place for place, line in enumerate(files[file], 1) if text in line][number]


def where(text: str, make: Callable[..., Fault], *rest: object, number: int = 30) -> Fault:
    """`make` at the `number`-th line of the first file that has `text`."""

    def apply(files: Lines) -> tuple[str, int]:
        file = next(iter(files))
        return make(file, find(files, file, text, number), *rest)(files)

    return apply


def everywhere(file: str, old: str, new: str) -> Fault:
    """Replace a text in all lines."""

    def apply(files: Lines) -> tuple[str, int]:
        files[file] = [line.replace(old, new) for line in files[file]]
        return file, 2

    return apply


def check_fault(name: str, files: Lines, kind: str, fault: Fault, folder: Path, **options: object) -> None:
    """Require that an import names a fault of this kind where it is, repairs it, and refuses it if strict."""
    file, line = fault(files)
    paths = [write_lines(folder / each, lines) for each, lines in files.items()]
    options |= {"tick_size": "0.01", "lot_size": "1"}
    tape, report = run(name, paths, folder / "store", **options)
    assert kind in report.counts, str(report)
    assert any(p.kind == kind and p.line == line and p.file == file for p in report.problems), str(report)
    assert tape.info.book_complete == (not {"sequence-gap", "missing-snapshot"} & set(report.counts))
    found = rows_of(tape)
    assert (np.diff(found["local_ns"]) >= 0).all()
    for _, book in books(found):
        bids, asks = ([tick for at, tick in book if at == side] for side in "BA")
        assert not bids or not asks or max(bids) < min(asks)
    with pytest.raises(CaptureError, match=rf"{file}:{line} .*{kind}.*--strict"):
        run(name, paths, folder / "strict", strict=True, **options)
    assert not (folder / "strict").exists()
