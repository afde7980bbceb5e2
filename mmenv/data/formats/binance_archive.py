"""Binance's daily archives (data.binance.vision): aggTrades, trades and bookTicker, and the depth files that
it gives on request (T_DEPTH, S_DEPTH).

https://github.com/binance/binance-public-data says the columns of trades, which files of spot do not name;
https://www.binance.com/en/support/faq/e707685b4e0f408fa7c1b9ccd8ea7aa9 those of depth. Times are the venue's
alone: milliseconds, of spot since 2025 microseconds. Where there is no depth, the book is that of the book
tickers, one level a side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmenv.data.columns import Series, Table, has_columns, scaled
from mmenv.data.decimals import INVALID, Places
from mmenv.data.formats.base import ALL, ImportOptions, head_of, register
from mmenv.data.formats.levels import Decoded, Files, LevelImporter, deal_rows
from mmenv.data.problems import Report
from mmenv.data.rows import BBO, BUY, DEPTH, RAW, SELL, SNAPSHOT, CaptureError
from mmenv.data.source import source_of
from mmenv.times import MICROSECOND, MILLISECOND

NAME: Final = re.compile(r"(.+?)[-_](aggTrades|trades|bookTicker|bookDepth|[TS]_DEPTH(?:_BACKFILL)?)[-_]")
AGGREGATES: Final = (
    *("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time"),
    *("is_buyer_maker", "is_best_match"),
)
TRADES: Final = ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match")
TICKERS: Final = (
    *("update_id", "best_bid_price", "best_bid_qty", "best_ask_price", "best_ask_qty", "transaction_time"),
)
DEPTHS: Final = ("symbol", "timestamp", "last_update_id", "side", "update_type", "price", "qty")
MOST_MILLISECONDS: Final = 10**14
"""Larger times are microseconds."""


def _times(table: Table, name: str) -> NDArray[np.int64]:
    values = table.integers(name)
    fine = values > MOST_MILLISECONDS
    return np.where(fine, scaled(values, MICROSECOND), scaled(np.where(fine, 0, values), MILLISECOND))


def decode_aggregates(table: Table, places: Places) -> Decoded:
    """Rows of `aggTrades`."""
    times, ids = _times(table, "transact_time"), table.integers("agg_trade_id")
    return _deals(table, places, times, ids, "quantity")


def decode_trades(table: Table, places: Places) -> Decoded:
    """Rows of `trades`."""
    return _deals(table, places, _times(table, "time"), table.integers("id"), "qty")


def _deals(
    table: Table, places: Places, times: NDArray[np.int64], ids: NDArray[np.int64], size: str
) -> Decoded:
    """Where the buyer was the maker, the aggressor sold. Files of spot write the word with a capital."""
    names = ("False", "True") if table.equals("is_buyer_maker", "True").any() else ("false", "true")
    if names[0] == "false" and table.equals("is_buyer_maker", "False").any():
        names = ("False", "True")
    return deal_rows(table, places, times, ids, ("price", size), names, "is_buyer_maker")


def decode_depth(table: Table, places: Places) -> Decoded:
    """Rows of `T_DEPTH` and `S_DEPTH`: "set" gives a level its size, "snap" is one of a whole book."""
    rows = np.zeros(len(table), RAW)
    snapshot = table.equals("update_type", "snap")
    rows["kind"] = np.where(snapshot, SNAPSHOT, DEPTH)
    rows["side"] = np.where(table.equals("side", "b"), BUY, np.where(table.equals("side", "a"), SELL, 0))
    rows["local_ns"] = rows["exch_ns"] = _times(table, "timestamp")
    rows["price"], rows["size"] = table.decimals("price", places.price), table.decimals("qty", places.size)
    update = table.integers("last_update_id")
    previous = table.integers("pu") if table.has("pu") else np.full(len(table), INVALID)
    # Files of USD-M may leave it empty, or 0.
    previous = np.where((previous <= 0) | snapshot, INVALID, previous)
    return Decoded(rows, update, update, previous)


class Tickers:
    """Rows of `bookTicker` as changes of a book of one level a side; or as tickers beside a book of depth."""

    def __init__(self, beside: bool) -> None:
        self.beside = beside
        self._last: NDArray[np.int64] = np.full((2, 1), INVALID, np.int64)  # the prices before
        self._begun = False

    def __call__(self, table: Table, places: Places) -> Decoded:
        prices = np.stack([table.decimals(f"best_{side}_price", places.price) for side in ("bid", "ask")])
        sizes = np.stack([table.decimals(f"best_{side}_qty", places.size) for side in ("bid", "ask")])
        update, times = table.integers("update_id"), _times(table, "transaction_time")
        count = len(table)
        rows = np.zeros((count, 4), RAW)  # what is no more, and what is, of bid and ask
        rows["local_ns"] = rows["exch_ns"] = times[:, None]
        rows["id"] = np.maximum(update, -1)[:, None]
        rows["line"], rows["file"] = table.lines[:, None], table.file
        before = np.concatenate([self._last, prices[:, :-1]], axis=1)
        kept = np.zeros((count, 4), np.bool_)
        for side, code in enumerate((BUY, SELL)):
            gone, now = rows[:, 2 * side], rows[:, 2 * side + 1]
            gone["side"] = now["side"] = code
            gone["price"], now["price"], now["size"] = before[side], prices[side], sizes[side]
            kept[:, 2 * side] = (before[side] != prices[side]) & (before[side] > 0) & (not self.beside)
            kept[:, 2 * side + 1] = True
        rows["kind"] = BBO if self.beside else DEPTH
        if not self._begun and not self.beside and count:
            rows["kind"][0] = SNAPSHOT
        self._begun = self._begun or count > 0
        self._last = prices[:, -1:] if count else self._last
        numbers = np.repeat(update[:, None], 4, axis=1)[kept]
        return Decoded(rows[kept], numbers, numbers)


class _Kind(NamedTuple):
    columns: Sequence[str]
    required: Sequence[str]


KINDS: Final = {
    "aggTrades": _Kind(AGGREGATES, AGGREGATES[:7]),
    "trades": _Kind(TRADES, ("id", "price", "qty", "time", "is_buyer_maker")),
    "bookTicker": _Kind(TICKERS, TICKERS),
    "depth": _Kind((), DEPTHS),
}


@register
class BinanceArchive(LevelImporter):
    """Archives of one symbol: trades, and a book or its best level."""

    name = "binance-archive"
    description = "Binance's daily archives: aggTrades, trades, bookTicker, and T_DEPTH"
    notes = (
        "named as Binance does; give trades with bookTicker or T_DEPTH; without depth the book has one "
        "level; the venue's time is the local one; bookDepth, sums by percentage, is no book"
    )

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        match = NAME.match(path.name)
        kind = _kind(match[2]) if match else ""
        named = any(has_columns(head, known.required) for known in KINDS.values())
        return named or (kind in ("aggTrades", "trades") and head[:1].isdigit())

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[BinanceArchive]:
        found: dict[tuple[str, str], dict[str, list[tuple[int, Path]]]] = {}
        for path in paths:
            symbol, kind, venue, first_ns = _identify(path)
            if options.symbol in (None, ALL, symbol):
                kinds = found.setdefault((options.venue or venue, symbol), {})
                kinds.setdefault(kind, []).append((first_ns, path))
        if not found:
            raise CaptureError(f"--symbol = {options.symbol!r} is not possible: no file is named so.")
        return [
            cls(source_of(venue, symbol), _series(kinds), options, _lacks(kinds, symbol))
            for (venue, symbol), kinds in found.items()
        ]


def _kind(name: str) -> str:
    return "depth" if "DEPTH" in name else name


def _identify(path: Path) -> tuple[str, str, str, int]:
    """Symbol, kind, venue and first time of a file."""
    match = NAME.match(path.name)
    if match is None:
        raise CaptureError(
            f"{path.name}: not named as Binance's archives are, such as BTCUSDT-aggTrades-2024-08-08.zip"
        )
    symbol, kind = match[1], _kind(match[2])
    if kind == "bookDepth":
        raise CaptureError(
            f"{path.name}: bookDepth holds sums of depth by percentage from the mid, which are no book;"
            " give bookTicker or T_DEPTH"
        )
    columns, required = KINDS[kind]
    table = Series([path], 0, required, columns).pull(Report())
    times = {"aggTrades": "transact_time", "trades": "time", "bookTicker": "transaction_time"}
    # Nothing may have happened on a day.
    first_ns = 0 if table is None else int(_times(table, times.get(kind, "timestamp"))[0])
    # Only spot says whether a trade was the best match; coins are margin of symbols such as BTCUSD_PERP.
    spot = (table is not None and table.has("is_best_match")) or (
        not head_of(path)[:1].isalpha() and b",True" in head_of(path)
    )
    return (
        symbol,
        kind,
        "binance-coinm" if "_" in symbol else "binance-spot" if spot else "binance-usdm",
        first_ns,
    )


def _lacks(kinds: dict[str, list[tuple[int, Path]]], symbol: str) -> str:
    """Why files of these kinds make no tape."""
    if "depth" in kinds or "bookTicker" in kinds:
        return ""
    [(_, path), *_] = next(iter(kinds.values()))
    return f"{path.name}: trades alone; give bookTicker or T_DEPTH of {symbol} with them"


def _series(kinds: dict[str, list[tuple[int, Path]]]) -> list[Files]:
    """What there is, trades before the change of the book that they caused."""
    deals = "trades" if "trades" in kinds else "aggTrades"
    readers: dict[str, Callable[[Table, Places], Decoded]] = {
        deals: decode_trades if deals == "trades" else decode_aggregates,
        "depth": decode_depth,
        "bookTicker": Tickers(beside="depth" in kinds),
    }
    return [
        Files(
            [path for _, path in sorted(kinds[kind])],
            KINDS[kind].required,
            read,
            columns=KINDS[kind].columns,
            own_numbers=kind in ("depth", "bookTicker"),
            apart=kind != "bookTicker",
        )
        for kind, read in readers.items()
        if kind in kinds
    ]
