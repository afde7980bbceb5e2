"""Bitstamp: order events, trades and snapshots of the book as its websocket sends them, `<local ms> <event>
<JSON>`.

An order is created, changed (`amount` is what it has left) and deleted. Until the first `order_book` the
orders that stand are unknown: its levels, 20 a side, are then lots of unknown place. Later ones serve for
comparison alone: they are taken at another moment than the events around them. `datetime` counts whole
seconds, so local time stands for the exchange's. A trade does not say who took: its side is that of the order
that changed last at its price, and unknown where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from mmenv.data.decimals import INVALID, TOO_FINE, Places
from mmenv.data.formats.base import Importer, ImportOptions, register
from mmenv.data.lines import Lines
from mmenv.data.problems import Report, valid
from mmenv.data.rows import (
    ADD,
    BUY,
    CANCEL,
    CLEAR,
    DEPTH,
    FILL,
    MODIFY,
    RAW,
    SELL,
    SNAPSHOT,
    TRADE,
    UNKNOWN_NS,
    CaptureError,
)  # fmt: skip
from mmenv.data.sequence import Arrival, TradeIds
from mmenv.data.source import Source, source_of
from mmenv.times import MILLISECOND

BLOCK_BYTES: Final = 1 << 18
EVENTS: Final = ("order_created", "order_changed", "order_deleted", "trade", "order_book")
Said = tuple[int, int, int, int, int]
"""Kind, side, price, size and id of a row."""
_SIDES: Final = (BUY, SELL)
"""By `order_type`."""


@register
class Bitstamp(Importer):
    """Consecutive logs of one pair."""

    name = "bitstamp"
    description = "Bitstamp order events, trades and books, `<local ms> <event> <JSON>` a line"
    notes = (
        "single orders are kept; those from before the first `order_book` have no place, and beyond its 20 "
        "levels they are not known; a trade has the side of the order that lost its lots"
    )

    def __init__(self, source: Source, paths: Sequence[Path]) -> None:
        self.source, self.names = source, [path.name for path in paths]
        self._lines = Lines(paths)
        self.size = self._lines.size
        self._arrival, self._trade_ids = Arrival(), TradeIds(numbered=True)
        self._orders: dict[int, tuple[int, int, int]] = {}
        """Side, price and size by id."""
        self._levels: dict[tuple[int, int], int] = {}
        self._known: dict[tuple[int, int], int] = {}
        """Of the levels, what known orders have."""
        self._best: dict[int, int] = {}
        """Highest price times side of a side's levels, where it is known."""
        self._takers: dict[int, tuple[int, int, int]] = {}
        """Orders that meet others: they do not stand in the book yet."""
        self._begun, self._number = False, 0
        self._last: dict[int, int] = {}
        """Side of the order that lost lots last, by price."""

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Bitstamp]:
        firsts = []
        for path in paths:
            block = Lines([path]).pull()
            line = block.text.split(b"\n")[0] if block else b""
            if not cls.looks_like(line, path):
                raise CaptureError(
                    f"{path.name}: not lines of '<local ms> <event> <JSON>' as {cls.description}"
                )
            firsts.append((int(line.split(b" ")[0]), path))
        symbol = options.one_symbol or "BTCUSD"
        return [cls(source_of(options.venue or "bitstamp", symbol), [path for _, path in sorted(firsts)])]

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        stamp, _, rest = head.partition(b" ")
        return (
            stamp.isdigit() and len(stamp) < 18 and rest.partition(b" ")[0].decode(errors="replace") in EVENTS
        )

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        while (block := self._lines.pull(BLOCK_BYTES)) is not None:
            self.done = self._lines.done
            found: list[tuple[int, ...]] = []
            for number, line in enumerate(block.text.split(b"\n"), block.line):
                if line.strip():
                    self._line(line, number, block.file, report, found)
            rows = np.array(found, RAW)
            rows = rows[valid(rows, report)]
            self._arrival.set(rows, report, block.line == 1)
            trades = np.flatnonzero(rows["kind"] == TRADE)
            keep = np.ones(len(rows), np.bool_)
            keep[trades] = self._trade_ids.new(rows[trades], report)
            yield rows[keep]
            if self._lines.error:
                report.add(report.name(block.file), block.line, 0, "truncated", self._lines.error)
        self._trade_ids.settle(report)

    def _line(
        self, line: bytes, number: int, file: int, report: Report, found: list[tuple[int, ...]]
    ) -> None:
        try:
            stamp, event, payload = line.split(b" ", 2)
            local_ns, data = int(stamp) * MILLISECOND, orjson.loads(payload)
            if not 0 < local_ns < 1 << 62:
                raise ValueError("time")
            rows = self._rows(event.decode(), data, report)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, InvalidOperation) as error:
            told = f"without a usable {error}; skipped" if str(error) else "not as it should be; skipped"
            report.add(report.name(file), number, 0, "bad-message", told)
            return
        for kind, side, price, size, id in rows:
            found.append((UNKNOWN_NS, local_ns, price, size, id, number, file, kind, side))

    def _rows(self, event: str, data: Any, report: Report) -> list[Said]:
        """The rows of a message."""
        if event == "order_book":
            return self._book(data, report)
        if event == "trade":
            price, id = units(data["price"]), int(data["id"])
            if not 0 <= id < 1 << 62:
                raise ValueError("id")
            return [(TRADE, self._last.get(price, 0), price, units(data["amount"]), id)]
        if event not in EVENTS:
            report.note(f"{event} message, not used")
            return []
        number, side = int(data["id"]), _SIDES[int(data["order_type"])]
        price, size = units(data["price"]), units(data["amount"])
        if not 0 < price < 1 << 62 or size < 0 or not 0 <= number < 1 << 62:
            raise ValueError("price, amount or id")
        return self._order(event, number, (side, price, size))

    def _order(self, event: str, number: int, order: tuple[int, int, int]) -> list[Said]:
        side, price, size = order
        old = self._takers.pop(number, None) or self._orders.get(number)
        executed = old[2] - size if old is not None and old[:2] == order[:2] else 0
        if executed > 0 and (event == "order_changed" or size == 0):
            self._last[price] = -side
        # Deleted with what it had left; nothing if it was executed.
        left = 0 if event == "order_deleted" else size
        rows: list[Said] = []
        if number in self._orders:
            resting = self._orders[number]
            if executed > 0 and (event == "order_changed" or size == 0):
                rows.append((FILL, *resting[:2], executed, number))
            rows += self._rest(number, (side, price, left))
        elif left and self._crosses(side, price):
            # It takes what it meets first, and rests with what it has left then.
            self._takers[number] = (side, price, left)
        elif left:
            rows += self._rest(number, (side, price, left))
        elif old is None and event == "order_deleted" and size:
            rows += self._forget(side, price, size)
        for taker, waiting in list(self._takers.items()):
            if not self._crosses(*waiting[:2]):
                rows += self._rest(taker, self._takers.pop(taker))
        return rows if self._begun else []

    def _crosses(self, side: int, price: int) -> bool:
        """Whether an order would meet one of the other side."""
        if -side not in self._best:
            theirs = [theirs * -side for other, theirs in self._levels if other == -side]
            self._best[-side] = max(theirs, default=-(1 << 62))
        return price * side + self._best[-side] >= 0

    def _rest(self, number: int, order: tuple[int, int, int]) -> list[Said]:
        """Let an order stand with what it has left; the rows that say so."""
        old = self._orders.pop(number, None)
        rows: list[Said] = []
        if old is not None:
            self._shift(*old[:2], -old[2], self._known)
            self._shift(*old[:2], -old[2], self._levels)
        if order[2]:
            self._orders[number] = order
            self._shift(*order, self._known)
            self._shift(*order, self._levels)
            rows.append((ADD if old is None else MODIFY, *order, number))
        elif old is not None:
            rows.append((CANCEL, *old, number))
        self._number += 1
        changed = {order[:2], old[:2] if old else order[:2]}
        return rows + [(DEPTH, *level, self._levels.get(level, 0), self._number) for level in sorted(changed)]

    def _forget(self, side: int, price: int, size: int) -> list[Said]:
        """An order from before the first book is cancelled."""
        unknown = self._levels.get((side, price), 0) - self._known.get((side, price), 0)
        if not unknown:
            return []
        self._shift(side, price, -min(unknown, size), self._levels)
        self._number += 1
        return [(DEPTH, side, price, self._levels.get((side, price), 0), self._number)]

    def _shift(self, side: int, price: int, size: int, levels: dict[tuple[int, int], int]) -> None:
        left = levels.get((side, price), 0) + size
        if left > 0:
            levels[side, price] = left
        else:
            levels.pop((side, price), None)
        if levels is self._levels and side in self._best and price * side >= self._best[side]:
            if left > 0:
                self._best[side] = price * side
            else:
                del self._best[side]

    def _book(self, data: Any, report: Report) -> list[Said]:
        """The first book; later ones say what is left of orders from before it, and are compared."""
        told = {
            (side, units(price)): units(size)
            for side, levels in zip(_SIDES, (data["bids"], data["asks"]), strict=True)
            for price, size in levels
        }
        if any(not 0 < value < 1 << 62 for level, size in told.items() for value in (level[1], size)):
            raise ValueError("price or size")
        self._number += 1
        if not self._begun:
            self._begun = True
            self._best.clear()
            for level, size in told.items():
                self._levels[level] = max(size, self._known.get(level, 0))
            rows: list[Said] = [(CLEAR, BUY, 0, 0, self._number)]
            rows += [(ADD, *order, number) for number, order in self._orders.items()]
            return rows + [(SNAPSHOT, *level, size, self._number) for level, size in self._levels.items()]
        worst = {side: min((p * side for s, p in told if s == side), default=-(1 << 62)) for side in _SIDES}
        rows = []
        for level in [level for level in self._levels if level[1] * level[0] >= worst[level[0]]]:
            known = self._known.get(level, 0)
            wanted = min(self._levels[level], max(known, told.get(level, 0)))
            if self._levels[level] != wanted:
                self._shift(*level, wanted - self._levels[level], self._levels)
                rows.append((DEPTH, *level, wanted, self._number))
        same = sum(self._levels.get(level, 0) == size for level, size in told.items())
        report.note("level of an order_book that is as the orders say", same)
        report.note("level of an order_book that is another one by then", len(told) - same)
        return rows


@lru_cache(1 << 16, typed=True)
def units(value: Any) -> int:
    """A decimal in units of 1e-8; floats are rounded, as this venue sends some."""
    found = Decimal(str(value)).scaleb(Places().price)
    if not found.is_finite() or abs(found) >= 1 << 62:
        return INVALID
    whole = int(found.to_integral_value())
    return whole if whole == found or isinstance(value, float) else TOO_FINE
