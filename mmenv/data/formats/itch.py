"""NASDAQ TotalView-ITCH 5.0, binary: every order of a day, each message after two bytes that give its length.

https://www.nasdaqtrader.com/content/technicalsupport/specifications/dataproducts/NQTVITCHspecification.pdf:
times are nanoseconds after midnight in New York, of the day in the file's name (01302019.NASDAQ_ITCH50,
S013019-v50.txt); prices are dollars x 10,000. An execution names the resting order, so its aggressor is
known; that of a hidden order (P) is not. Crosses (Q), and executions that are part of them, are told in the
report and are no trades.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.formats.base import ALL, Importer, ImportOptions, register
from mmenv.data.lines import FilesInTurn, read_blocks
from mmenv.data.orders import LOTS, SIDE, SIZE, TICK
from mmenv.data.problems import Report
from mmenv.data.rows import ADD, BUY, CANCEL, CLEAR, DEPTH, FILL, RAW, SELL, TRADE, CaptureError
from mmenv.data.sequence import Arrival
from mmenv.data.source import Source, source_of
from mmenv.data.table import add_to, empty, find, full, larger, put, remove
from mmenv.times import SECOND

NAME: Final = re.compile(r"(?:(\d\d)(\d\d)(\d{4})\.NASDAQ_ITCH50|S(\d\d)(\d\d)(\d\d)-v50)")
DIRECTORY: Final = ord("R")
ORDER_FIELDS: Final = 3
UNIT: Final = 10**4
"""`RAW` units, of 1e-8, in a unit of their prices."""
SHARE: Final = 10**8
NUMBERS: Final = (1 << 62) - 1
"""Numbers of orders and matches are taken up to here."""
COUNTS: Final = ("change of an order that was never added, left out", "cross, or execution in one, left out")
_STRAYS, _CROSSES = range(len(COUNTS))
_LENGTHS: Final = np.zeros(256, np.int64)
"""Least length by type of those that are read."""
for _type, _length in zip(b"AFECXDUPQ", (36, 40, 31, 36, 23, 19, 35, 44, 40), strict=True):
    _LENGTHS[_type] = _length
_A, _F, _E, _C, _X, _D, _U, _P, _Q, _N, _BID = b"AFECXDUPQNB"
# Not literals, for each of which numba would compile the functions that take them.
_ADD, _CANCEL, _FILL, _TRADE, _DEPTH = (np.int64(kind) for kind in (ADD, CANCEL, FILL, TRADE, DEPTH))
_NO_SIDE: Final = np.int64(0)


@register
class Itch(Importer):
    """Consecutive days of one stock."""

    name = "itch"
    description = "NASDAQ TotalView-ITCH 5.0, binary, as named by NASDAQ"
    notes = "give `--symbol`; single orders are kept; halts and imbalances of auctions are not"

    def __init__(self, source: Source, paths: Sequence[Path]) -> None:
        self.source, self.names = source, [path.name for path in paths]
        self._files = FilesInTurn(paths)
        self.size = self._files.size
        self._skip, self._number, self._locate = 0, 0, -1
        self._orders, self._levels = empty(ORDER_FIELDS), empty(1)
        self._arrival = Arrival()

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Itch]:
        for path in paths:
            _midnight_ns(path)
        if options.symbol in (None, ALL):
            known = sorted({symbol for path in paths for symbol in _symbols(path)})
            if len(known) != 1:
                held = f"{len(known)} stocks, such as {', '.join(known[:5])}" if known else "no stock"
                raise CaptureError(f"{paths[0].name}: it holds {held}; choose one with --symbol")
            symbol = known[0]
        else:
            symbol = str(options.symbol)
        source = source_of(options.venue or "nasdaq", symbol)
        return [cls(source, sorted(paths, key=_midnight_ns))]

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        return NAME.search(path.name) is not None

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        files = self._files
        while files.at < len(files.paths):
            if self._skip == 0:
                self._locate, self._number = -1, 0
                self._orders, self._levels = empty(ORDER_FIELDS), empty(1)
            try:
                yield from self._blocks(report)
            except EOFError as error:
                told = f"the file ends early ({error}); what came before is kept"
                report.add(files.path.name, self._number, 0, "truncated", told)
            files._go_on()
            self.done, self._skip = files.done, 0

    def _blocks(self, report: Report) -> Iterator[NDArray[np.void]]:
        """The rows of what is left of a file."""
        files, held, symbol = self._files, b"", self.source.symbol.encode().ljust(8)
        wanted, midnight = np.frombuffer(symbol, np.uint8), _midnight_ns(files.path)
        for block, position in read_blocks(files.path, self._skip):
            text = np.frombuffer(held + block, np.uint8)
            rows, counts, end, self._number, self._locate, self._orders, self._levels = scan_stock(
                text, wanted, midnight, files.at, self._number, self._locate, self._orders, self._levels
            )
            held = text[end:].tobytes()
            self._skip += end
            files._count(position)
            self.done = files.done
            for what, count in zip(COUNTS, counts, strict=True):
                report.note(what, int(count))
            if len(rows):
                self._arrival.set(rows, report, False)
                rows["exch_ns"] = rows["local_ns"]
                yield rows
        if held:
            raise EOFError("within a message")


def _midnight_ns(path: Path) -> int:
    match = NAME.search(path.name)
    if not match:
        raise CaptureError(f"{path.name}: not named as NASDAQ does, such as 01302019.NASDAQ_ITCH50")
    month, day, year = match.groups()[:3] if match[1] else match.groups()[3:]
    try:
        date = datetime(int(year) + (0 if int(year) > 1900 else 2000), int(month), int(day), 12)
    except ValueError:
        raise CaptureError(f"{path.name}: {month}-{day} is no day; name it as NASDAQ does") from None
    noon = date.replace(tzinfo=ZoneInfo("America/New_York"))
    return (int(noon.timestamp()) - 12 * 3_600) * SECOND


def _symbols(path: Path) -> set[str]:
    """Stocks of the directory at the beginning of a file."""
    found: set[str] = set()
    held = b""
    try:
        for block, _ in read_blocks(path):
            held += block
            while len(held) >= 2 and len(held) >= 2 + (size := int.from_bytes(held[:2])):
                message, held = held[2 : 2 + size], held[2 + size :]
                if message[:1] == b"R" and size >= 19:
                    found.add(message[11:19].decode(errors="replace").strip())
                elif (
                    message[:1] not in (b"S", b"R", b"H", b"Y", b"L", b"V", b"W", b"K", b"J", b"h")
                    or not size
                ):
                    return found
    except EOFError:
        pass
    return found


@njit(cache=True, nogil=True)
def _u16(text, at):
    """A whole number of two bytes, the first the larger; the next ones of four, six and eight."""
    return (np.int64(text[at]) << 8) | np.int64(text[at + 1])


@njit(cache=True, nogil=True)
def _u32(text, at):
    return (_u16(text, at) << 16) | _u16(text, at + 2)


@njit(cache=True, nogil=True)
def _u48(text, at):
    return (_u16(text, at) << 32) | _u32(text, at + 2)


@njit(cache=True, nogil=True)
def _u64(text, at):
    return (_u32(text, at) << 32) | _u32(text, at + 4)


@njit(cache=True, nogil=True)
def scan_stock(text, symbol, midnight_ns, file, number, locate, resting, levels):
    """Rows of one stock.

    Parameters
    ----------
    text
        Bytes [any] that begin with a message.
    symbol
        Its name, bytes [8].
    midnight_ns, file, number, locate
        Of the day; number of the file, of messages before, and of the stock, -1 where it is not known yet.
    resting, levels
        Tables of SIDE, TICK and LOTS by number of an order, and of lots by level, as in
        `mmenv.data.orders`; updated.

    Returns
    -------
    rows
        `RAW` [m].
    counts
        By `COUNTS`.
    end
        Where the last whole message ends.
    number, locate, resting, levels
        As above, after it.
    """
    out = np.empty(5 * (len(text) // 21) + 8, RAW)
    counts = np.zeros(len(COUNTS), np.int64)
    count = at = np.int64(0)
    while at + 2 <= len(text):
        size = _u16(text, at)
        if at + 2 + size > len(text):
            break
        begin, at = at + 2, at + 2 + size
        number += 1
        if size < 19:
            continue
        if full(resting):
            resting = larger(resting)
        if full(levels):
            levels = larger(levels)
        kind = text[begin]
        if kind == DIRECTORY:
            same = True
            for place in range(8):
                same = same and text[begin + 11 + place] == symbol[place]
            if same:
                # The day begins with an empty book.
                locate, row = _u16(text, begin + 1), out[count]
                row.exch_ns = row.local_ns = midnight_ns + _u48(text, begin + 5)
                row.kind, row.side, row.price, row.size, row.id = CLEAR, BUY, 0, 0, 0
                row.line, row.file = number, file
                count += 1
            continue
        if _LENGTHS[kind] == 0 or size < _LENGTHS[kind] or _u16(text, begin + 1) != locate:
            continue
        ns = midnight_ns + _u48(text, begin + 5)
        ref = _u64(text, begin + 11) & NUMBERS
        if kind == _Q:
            counts[_CROSSES] += 1
            continue
        if kind == _P:
            count = _put(out, count, _TRADE, _NO_SIDE, _u32(text, begin + 32), _u32(text, begin + 20), ns,
                         _u64(text, begin + 36), number, file)  # fmt: skip
            continue
        if kind in (_A, _F):
            side = BUY if text[begin + 19] == _BID else SELL
            count = _enter(out, count, ref, side, _u32(text, begin + 32), _u32(text, begin + 20), ns,
                           number, file, resting, levels)  # fmt: skip
            continue
        place = find(resting, ref)
        if place < 0:
            counts[_STRAYS] += 1
            continue
        side, tick, lots = resting[place, SIDE], resting[place, TICK], resting[place, LOTS]
        if kind not in (_D, _U):
            lots = min(_u32(text, begin + 19), lots)
        if kind in (_E, _C):
            printed = kind == _E or text[begin + 31] != _N
            price = tick if kind == _E else _u32(text, begin + 32)
            counts[_CROSSES] += not printed
            if printed:
                count = _put(out, count, _TRADE, -side, price, lots, ns, _u64(text, begin + 23),
                             number, file)  # fmt: skip
            count = _put(out, count, _FILL, side, tick, lots, ns, ref, number, file)
        count = _leave(out, count, place, lots, ns, number, file, resting, levels)
        if kind == _U:
            count = _enter(out, count, _u64(text, begin + 19) & NUMBERS, side, _u32(text, begin + 31),
                           _u32(text, begin + 27), ns, number, file, resting, levels)  # fmt: skip
    return out[:count].copy(), counts, at, number, locate, resting, levels


@njit(cache=True, nogil=True)
def _put(out, count, kind, side, tick, lots, ns, id, number, file):
    if (lots <= 0 and kind != DEPTH) or tick <= 0:
        return count
    row = out[count]
    row.exch_ns = row.local_ns = ns
    row.kind, row.side, row.price, row.size = kind, side, tick * UNIT, lots * SHARE
    row.id, row.line, row.file = id & NUMBERS, number, file
    return count + 1


@njit(cache=True, nogil=True)
def _enter(out, count, ref, side, tick, lots, ns, number, file, resting, levels):
    """An order comes into the book; how many rows there are then."""
    if lots <= 0 or tick <= 0:
        return count
    place = find(resting, ref)
    if place >= 0:
        count = _leave(out, count, place, resting[place, LOTS], ns, number, file, resting, levels)
    place = put(resting, ref)
    resting[place, SIDE], resting[place, TICK], resting[place, LOTS] = side, tick, lots
    level = add_to(levels, 2 * tick + (1 if side == BUY else 0), lots)
    count = _put(out, count, _ADD, side, tick, lots, ns, ref, number, file)
    return _put(out, count, _DEPTH, side, tick, levels[level, SIZE], ns, np.int64(number), number, file)


@njit(cache=True, nogil=True)
def _leave(out, count, place, lots, ns, number, file, resting, levels):
    """The order in a row of the table loses lots; how many rows there are then."""
    ref, side, tick = resting[place, 0], resting[place, SIDE], resting[place, TICK]
    resting[place, LOTS] -= lots
    if resting[place, LOTS] <= 0:
        remove(resting, place)
    level = find(levels, 2 * tick + (1 if side == BUY else 0))
    levels[level, SIZE] -= lots
    left = levels[level, SIZE]
    if left <= 0:
        remove(levels, level)
    count = _put(out, count, _CANCEL, side, tick, lots, ns, ref, number, file)
    return _put(out, count, _DEPTH, side, tick, max(left, 0), ns, np.int64(number), number, file)
