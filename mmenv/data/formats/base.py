"""What an importer is, under which names importers are known, and what the rows they give must be.

    from mmenv.data.formats.base import Importer, register

    @register
    class Kraken(Importer):
        name = "kraken"
        description = "..."

`neuralmm import kraken FILES -o STORE` then finds it; from another package also as `module:Kraken`, or under
its name by an entry point of the group `neuralmm.importers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from mmenv.data.decimals import Places
from mmenv.data.lines import BYTE_ORDER_MARK, read_blocks
from mmenv.data.problems import Report
from mmenv.data.rows import (
    ADD,
    BBO,
    CANCEL,
    CLEAR,
    DEPTH,
    FILL,
    MODIFY,
    RAW,
    SNAPSHOT,
    TRADE,
    UNKNOWN_NS,
    CaptureError,
)
from mmenv.data.source import SAFE, Source
from mmenv.registry import PluginError, Registry

PLACES: Final = Places()
ALL: Final = "all"
"""Stands for every symbol in the files."""


@dataclass(frozen=True)
class ImportOptions:
    """What the user says about files that do not say it themselves; None where nothing was said."""

    venue: str | None = None
    symbol: str | None = None
    places: Places = PLACES
    """Decimal places to read prices and sizes with; an importer that can has them as its own."""

    @property
    def one_symbol(self) -> str | None:
        """The symbol asked for; None where that is none in particular, or all."""
        return None if self.symbol == ALL else self.symbol


class Importer(ABC):
    """Reads the captures of one venue and symbol in one format. Subclass in one file and `register` it.

    Between two chunks an importer can be pickled; `chunks` of the copy goes on with the same rows.
    """

    name: ClassVar[str] = ""
    description: ClassVar[str] = ""
    """What its files are, in half a line: shown by `neuralmm import --help` and in docs/data.md."""
    notes: ClassVar[str] = ""
    """What a user should know about them."""

    source: Source
    names: Sequence[str]
    """File names; `RAW` rows refer to them by number."""
    places: Places = PLACES
    """Decimal places of the prices and sizes of its rows."""
    size: int = 0
    """Bytes to read."""
    done: int = 0
    """Bytes read."""
    readers: int = 1
    """Files that it may read at a time, if it can."""
    lacks: str = ""
    """Why its files make no tape, where that is known before they are read."""

    @classmethod
    @abstractmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> Sequence[Importer]:
        """One importer for each venue and symbol found in the files.

        Raises `CaptureError` for a file that is not of this format, or cannot be used with the others.
        """

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        """Whether a file is of this format, as far as its name and its first bytes (of Parquet: the names of
        columns) tell; what `neuralmm import auto` and messages about a wrong format go by."""
        return False

    @abstractmethod
    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        """Chunks of `RAW` rows in arrival order; memory is bounded whatever the length of the files.

        Raises `CaptureError` for files that cannot be used together, and for any problem if `report.strict`.
        """


Kind = TypeVar("Kind", bound=type[Importer])


def register(cls: Kind) -> Kind:
    """Class decorator: make the importer known under its `name`."""
    IMPORTERS.register(cls.name, cls)
    return cls


def _check(name: str, plugin: Any) -> None:
    """Raise `PluginError` unless `plugin` is an importer that can be used."""
    if not (isinstance(plugin, type) and issubclass(plugin, Importer)):
        raise PluginError(
            f"importer {name!r} is {plugin!r}: it must be a subclass of mmenv.data.formats.base.Importer."
        )
    for method in sorted(plugin.__abstractmethods__):
        raise PluginError(f"importer {name!r} has no method {method!r}: {plugin.__name__} must define it.")
    for field in ("name", "description"):
        if not (value := getattr(plugin, field)) or not isinstance(value, str):
            raise PluginError(
                f"{plugin.__name__}.{field} = {value!r} is not possible: it must be a text that says "
                f"{'how it is called' if field == 'name' else 'what its files are'}."
            )


IMPORTERS: Final[Registry[type[Importer]]] = Registry("importer", "mmenv.data.formats", _check)


def described(name: str) -> str:
    """What files of this format are, in half a line, or why its importer cannot be used."""
    try:
        return IMPORTERS.find(name).description
    except PluginError as error:
        return str(error)


HEAD_BYTES: Final = 1 << 16
AUTO: Final = "auto"
"""Stands for whatever format each file looks like."""


def head_of(path: Path) -> bytes:
    """The first uncompressed bytes of a file; of Parquet the names of its columns, comma between them.

    Raises `CaptureError` where there is no file.
    """
    head = b""
    try:
        with suppress(EOFError):  # a damaged file has a head as far as it goes
            for block, _ in read_blocks(path):
                head = (head + block)[:HEAD_BYTES]
                if len(head) == HEAD_BYTES:
                    break
        if head.startswith(b"PAR1"):
            head = ",".join(pq.read_schema(path).names).encode() + b"\n"
    except (OSError, UnicodeDecodeError, pa.ArrowException):
        return b""
    return head.removeprefix(BYTE_ORDER_MARK)


def formats_of(path: Path) -> list[str]:
    """Names of the formats that a file looks like."""
    head = head_of(path)
    found = []
    for name in sorted(IMPORTERS):
        try:
            if IMPORTERS.find(name).looks_like(head, path):
                found.append(name)
        except PluginError:
            continue
    return found


def _by_format(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the format they look like. Raises `CaptureError` for one that looks like none."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        names = formats_of(path)
        if not names:
            raise CaptureError(
                f"{path.name}: it looks like no format that can be read; name one of "
                f"{', '.join(sorted(IMPORTERS))}"
            )
        found.setdefault(names[0], []).append(path)
    return found


def open_importers(name: str, paths: Sequence[Path], options: ImportOptions) -> list[Importer]:
    """As `open_format`; with the name `AUTO` each file is of the format that it looks like.

    A file that is of another format than named is told with the format that it looks like.
    """
    if name == AUTO:
        found = _by_format(paths).items()
        return [each for format, files in found for each in open_format(format, files, options)]
    try:
        return open_format(name, paths, options)
    except CaptureError as error:
        other = {other for path in paths if path.is_file() for other in formats_of(path)} - {name}
        if not other or any(name in formats_of(path) for path in paths if path.is_file()):
            raise
        raise CaptureError(f"{error}; it looks like {' or '.join(sorted(other))}: give that format") from None


def open_format(name: str, paths: Sequence[Path], options: ImportOptions) -> list[Importer]:
    """The importers of the files, one for each venue and symbol; `name` is registered, or "module:name".

    Raises `PluginError` where there is no such importer or it opens something else, and `CaptureError` for
    files that cannot be imported.
    """
    found = list(IMPORTERS.find(name, "format").open(paths, options))
    for each in found:
        if not isinstance(each, Importer):
            raise PluginError(f"importer {name!r} opened {each!r}: `open` must give importers.")
        source = getattr(each, "source", None)
        if not isinstance(source, Source) or not source.venue or not source.symbol:
            raise PluginError(
                f"importer {name!r}: source = {source!r} is not possible: it must name a venue and a symbol."
            )
        for field, value in (("venue", source.venue), ("symbol", source.symbol)):
            if not SAFE.fullmatch(value) or value in (".", ".."):
                raise CaptureError(
                    f"{field} {value!r:.80} is not possible: it becomes the name of a folder, so it must be "
                    f"1 to 100 letters without blanks or slashes; give --{field}"
                )
        if not getattr(each, "names", ()):
            raise PluginError(f"importer {name!r}: names is not set: it must name the files.")
    return found


# What rows must be ------------------------------------------------------------------------------------------

_RULES: Final = (
    ("local_ns", "at least 0 and no less than that of the row before: sort rows by arrival"),
    ("exch_ns", "at least 0, or UNKNOWN_NS where the message carries none"),
    ("kind", "DEPTH, TRADE, CLEAR, SNAPSHOT, BBO, ADD, CANCEL, MODIFY or FILL of mmenv.data.rows"),
    ("price", "above 0, in units of the importer's `places`; only a CLEAR has none"),
    ("size", "at least 0, in units of the importer's `places`, and above 0 for a trade"),
    ("side", "BUY or SELL, or 0 for a trade whose aggressor is unknown"),
    ("file", "the number of a file in `names`"),
)
"""Fields of a `RAW` row, and what they must be."""
_LOCAL, _EXCHANGE, _KIND, _PRICE, _SIZE, _SIDE, _FILE = range(len(_RULES))


def check_rows(name: str, rows: Any, report: Report, last_ns: int) -> None:
    """Refuse what an importer's `chunks` gave unless it is `RAW` rows [n] that can be.

    `last_ns` is the local time of the row before the first. Raises `PluginError`, which names the importer,
    the field, its value and what it must be.
    """
    if not isinstance(rows, np.ndarray) or rows.ndim != 1 or rows.dtype.names is None:
        raise PluginError(f"importer {name!r} gave {rows!r:.80}: `chunks` must yield arrays [n] of RAW rows.")
    if rows.dtype != RAW:
        _refuse_dtype(name, rows)
    at, rule = first_unsound(rows, len(report.names), last_ns)
    if at >= 0:
        field, allowed = _RULES[rule]
        row = rows[at]
        raise PluginError(
            f"importer {name!r}: {field} = {row[field]} is not possible: it must be {allowed} "
            f"({report.name(row['file'])}, line {row['line']})."
        )


def _refuse_dtype(name: str, rows: NDArray[np.void]) -> None:
    """Name the first field that is missing or of another type than in `RAW`."""
    for field in RAW.names or ():
        if field not in (rows.dtype.names or ()):
            raise PluginError(f"importer {name!r}: rows have no field {field!r}: they must be RAW rows.")
        if rows.dtype[field] != RAW[field]:
            values = rows[field]
            odd = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), np.bool_)
            shown = f" = {values[np.argmax(odd)]}" if len(values) else ""
            raise PluginError(
                f"importer {name!r}: {field}{shown} ({values.dtype}) is not possible: it must be "
                f"{RAW[field]}, as in mmenv.data.rows.RAW."
            )
    raise PluginError(f"importer {name!r}: rows have fields {rows.dtype.names}: they must be RAW rows.")


@njit(cache=True, nogil=True)
def first_unsound(rows, files, last_ns):
    """The first of `RAW` rows [n] that cannot be, -1 where all can, and which of `_RULES` says so."""
    for at in range(len(rows)):
        row = rows[at]
        kind = row.kind
        if row.local_ns < max(last_ns, 0):
            return at, _LOCAL
        last_ns = row.local_ns
        if row.exch_ns < 0 and row.exch_ns != UNKNOWN_NS:
            return at, _EXCHANGE
        if kind not in (DEPTH, TRADE, CLEAR, SNAPSHOT, BBO, ADD, CANCEL, MODIFY, FILL):
            return at, _KIND
        if row.price <= 0 and kind != CLEAR:
            return at, _PRICE
        if row.size < 0 or (row.size == 0 and kind == TRADE):
            return at, _SIZE
        if row.side != 1 and row.side != -1 and (row.side != 0 or kind != TRADE):
            return at, _SIDE
        if row.file < 0 or row.file >= files:
            return at, _FILE
    return -1, 0
