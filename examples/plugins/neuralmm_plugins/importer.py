"""An importer: trades as CSV of two columns, `time` (nanoseconds or ISO 8601) and `price`, a lot each.

The aggressor is not recorded; the tick rule of Lee and Ready (1991) stands for it: a trade above the last
other price was bought, one below it sold. Trades before the first change of price are left out. Nor is there
a book, which a tape needs: the last price bought at is taken for the best ask, the last one sold at for the
best bid, a lot each. By the tick rule these never cross.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmenv.data.columns import Series
from mmenv.data.decimals import ONE
from mmenv.data.formats.base import Importer, ImportOptions, register
from mmenv.data.problems import Report, valid
from mmenv.data.rows import BUY, DEPTH, RAW, SELL, TRADE, UNKNOWN_NS, CaptureError
from mmenv.data.sequence import Arrival
from mmenv.data.source import Source


@register
class TimeAndPrice(Importer):
    """Trades of one symbol, in files in the order of time."""

    name = "time-and-price"
    description = "trades as CSV of two columns, `time` and `price`"

    def __init__(self, source: Source, paths: Sequence[Path]) -> None:
        self.source, self.names = source, [path.name for path in paths]
        self.series, self.arrival = Series(paths, 0, ("time", "price")), Arrival()
        self.size = self.series.size
        self.last_price = self.last_side = self.messages = 0
        self.best: dict[int, int] = {}
        """Prices of the best bid and ask, by side."""

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[TimeAndPrice]:
        if options.symbol is None:
            raise CaptureError(f"{paths[0].name}: the symbol is not known; give --symbol")
        return [cls(Source(options.venue or "unknown", options.symbol), paths)]

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        while (table := self.series.pull(report)) is not None:
            rows = np.zeros(len(table), RAW)
            rows["file"], rows["line"] = table.file, table.lines
            rows["kind"], rows["exch_ns"], rows["size"], rows["id"] = TRADE, UNKNOWN_NS, ONE, -1
            rows["local_ns"], rows["price"] = table.times("time"), table.decimals("price")
            rows = rows[valid(rows, report)]
            self.arrival.set(rows, report, self.series.new_file)
            self._set_sides(rows)
            self.done = self.series.done
            known = rows["side"] != 0
            report.note("trade whose aggressor is unknown, left out", int((~known).sum()))
            yield self._with_book(rows[known])

    def _set_sides(self, trades: NDArray[np.void]) -> None:
        """The aggressors by the tick rule; 0 where it has nothing to go by."""
        for trade in trades:
            price = int(trade["price"])
            if self.last_price and price != self.last_price:
                self.last_side = BUY if price > self.last_price else SELL
            trade["side"], self.last_price = self.last_side, price

    def _with_book(self, trades: NDArray[np.void]) -> NDArray[np.void]:
        """The trades, each followed by the levels that it changes."""
        rows = []
        for trade in trades:
            rows.append(trade)
            side, price = -int(trade["side"]), int(trade["price"])
            before = self.best.get(side, price)
            if side not in self.best or before != price:
                self.messages += 1
                sizes = {before: 0, price: ONE}  # one level where there was none before
                rows += [self._level(trade, side, *level) for level in sizes.items()]
            self.best[side] = price
        return np.array(rows, RAW)

    def _level(self, trade: np.void, side: int, price: int, size: int) -> np.void:
        level = trade.copy()
        level["kind"], level["side"], level["id"] = DEPTH, side, self.messages
        level["price"], level["size"] = price, size
        return level
