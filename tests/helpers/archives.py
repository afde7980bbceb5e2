"""The market by order as public archives and recorders of others would tell it, by their specifications."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmenv.times import MILLISECOND, SECOND
from tests.helpers import feeds
from tests.helpers.orders import Book, Event, Market, changes, price, write_lines

Deal = tuple[Event, int, bool, str, int]
"""Event, number, whether the aggressor buys, price and size."""


def deals(market: Market) -> list[Deal]:
    found = [
        (event, step.side == "B", price(step.tick), step.size)
        for event in market.events
        for step in event.steps
        if step.action == "T"
    ]
    return [(event, 7_000 + number, *rest) for number, (event, *rest) in enumerate(found)]


def at_venue(market: Market) -> Market:
    """The same, told by someone whose clock is the venue's."""
    for event in market.events:
        event.local_ns = event.exch_ns
    return market


def zipped(path: Path, lines: list[str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.stem}.csv", "".join(line + "\n" for line in lines))
    return path


def binance_deals(market: Market, spot: bool = False, aggregated: bool = False) -> list[str]:
    """Rows of `trades` or `aggTrades`; those of spot have no header and times in microseconds."""
    unit = 1_000 if spot else MILLISECOND
    rows = []
    for event, number, buys, text, size in deals(market):
        time, maker = event.exch_ns // unit, str(not buys) if spot else str(not buys).lower()
        middle = f"{number},{number},{time}" if aggregated else f"{float(text) * size:.4f},{time}"
        rows.append(f"{number},{text},{size},{middle},{maker}" + (",True" if spot else ""))
    names = "id,price,qty,quote_qty,time,is_buyer_maker"
    if aggregated:
        names = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
    return rows if spot else [names, *rows]


def binance_depth(market: Market) -> list[str]:
    """Rows of `T_DEPTH`."""
    rows, before, number = (
        ["symbol,timestamp,first_update_id,last_update_id,side,update_type,price,qty,pu"],
        {},
        10,
    )
    for place, event in enumerate(market.events):
        found = changes(before, event.book)
        for side, tick, size in found:
            kind = "set" if place else "snap"
            rows.append(
                f"BTCUSDT,{event.exch_ns // MILLISECOND},{number + 1},{number + 5},"
                f"{'b' if side == 'B' else 'a'},{kind},{price(tick)},{size},{number if place else ''}"
            )
        number += 5 * bool(found)
        before = event.book
    return rows


def binance_tickers(market: Market) -> list[str]:
    """Rows of `bookTicker`."""
    rows = ["update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time"]
    for number, event in enumerate(market.events):
        (_, bid), (_, ask) = touch(event.book)
        sizes = event.book["B", bid], event.book["A", ask]
        ms = event.exch_ns // MILLISECOND
        rows.append(f"{number},{price(bid)},{sizes[0]},{price(ask)},{sizes[1]},{ms},{ms}")
    return rows


def touch(book: Book) -> tuple[tuple[str, int], tuple[str, int]]:
    """The best levels."""
    return ("B", max(p for s, p in book if s == "B")), ("A", min(p for s, p in book if s == "A"))


def bybit_deals(market: Market) -> list[str]:
    return [
        "timestamp,symbol,side,size,price,tickDirection,trdMatchID,grossValue,homeNotional,foreignNotional"
    ] + [
        f"{event.exch_ns / SECOND:.4f},BTCUSDT,{'Buy' if buys else 'Sell'},{size},{text},"
        f"PlusTick,a-{number},0,0,0"
        for event, number, buys, text, size in deals(market)
    ]


def okx_deals(market: Market) -> list[str]:
    return ["instrument_name,trade_id,side,price,size,created_time"] + [
        f"BTC-USDT,{number},{'buy' if buys else 'sell'},{text},{size},{event.exch_ns // MILLISECOND}"
        for event, number, buys, text, size in deals(market)
    ]


def okx_books(market: Market, path: Path) -> Path:
    """An archive of books, a tar file of one member."""
    lines = []
    for line in feeds.capture(market, "okx", local=False):
        message = json.loads(line)
        if message["arg"]["channel"] == "books":
            [book] = message["data"]
            levels = {side: [[p, s, n] for p, s, _, n in book[side]] for side in ("asks", "bids")}
            lines.append(
                json.dumps({"instId": "BTC-USDT", "action": message["action"], "ts": book["ts"]} | levels)
            )
    data = "".join(line + "\n" for line in lines).encode()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("BTC-USDT-L2orderbook-400lv-2012-06-21.data")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path


def cryptofeed(lines: list[str], venue: str) -> list[str]:
    """A capture of a venue as cryptofeed writes it."""
    found = [
        f"configuration: {{'exchange': '{venue.upper()}'}}",
        "wss://x <-> 1340285399.5",
        "wss://x <- 1340285399.6: {'op': 'subscribe'}",
    ]
    for line in lines:
        stamp, _, message = line.partition(" ")
        found.append(f"{stamp[:-9]}.{stamp[-9:]}: {message}")
    return found


def coinbase_full(market: Market) -> list[str]:
    """The channel `full` and REST's book of level 3, which arrives after messages that it holds."""
    found: list[tuple[int, dict]] = []
    number, deal, makers = 0, 7_000, {}
    sizes: dict[int, int] = {}
    for event in market.events:
        for step in event.steps:
            side = {"B": "buy", "A": "sell"}[step.side]
            told = {"time": feeds.iso(event.exch_ns), "product_id": "BTC-USD", "side": side}
            told |= {"order_id": f"o-{step.order}", "price": price(step.tick)}
            before = sizes.get(step.order, 0)
            if step.action == "T":
                makers = told | {"taker_order_id": "t", "size": str(step.size)}
                continue
            if step.action == "F":
                deal += 1
                told |= {"type": "match", "trade_id": deal, "maker_order_id": f"o-{step.order}"}
                told |= {"size": makers["size"]}
            elif step.action == "A":
                told |= {"type": "open", "remaining_size": str(step.size)}
                sizes[step.order] = step.size
            elif step.action == "M":
                told |= {"type": "change", "new_size": str(step.size), "new_price": price(step.tick)}
                sizes[step.order] = step.size
            else:
                filled = bool(found) and found[-1][1].get("maker_order_id") == told["order_id"]
                sizes[step.order] = before - step.size
                if sizes[step.order] and filled:
                    continue
                kind = "change" if sizes[step.order] else "done"
                told |= {"type": kind, "new_size": str(sizes[step.order]), "price": "1.00"}
                told |= {} if kind == "done" else {"price": price(step.tick)}
            number += 1
            found.append((event.local_ns, told | {"sequence": number}))
    first = len(market.events[0].steps)
    orders = [(m["side"], m["price"], m["remaining_size"], m["order_id"]) for _, m in found[: first - 4]]
    book = {
        name: [[p, s, o] for at, p, s, o in orders if at == side]
        for name, side in (("bids", "buy"), ("asks", "sell"))
    }
    found.insert(first, (market.events[0].local_ns, {"sequence": first - 4} | book))
    return [f"{ns} {json.dumps(message)}" for ns, message in found]


def nautilus(market: Market, folder: Path, width: int = 16) -> list[Path]:
    """Deltas and trades of NautilusTrader's catalog."""
    scale = Decimal(10) ** {8: 9, 16: 16}[width]

    def fixed(values: list[str]) -> pa.Array:
        raw = [int(Decimal(value) * scale).to_bytes(width, "little", signed=True) for value in values]
        return pa.array(raw, pa.binary(width))

    meta = {"instrument_id": "BTCUSDT-PERP.BINANCE", "price_precision": "2", "size_precision": "0"}
    rows: list[tuple[int, int, str, str, int, int, int]] = []
    before: Book = {}
    for place, event in enumerate(market.events):
        times = event.exch_ns, event.local_ns
        if place == 0:
            rows.append((4, 0, "0", "0", 32, *times))
        for side, tick, size in changes(before, event.book):
            action = 3 if not size else 2 if (side, tick) in before else 1
            text = "0" if not size else str(size)
            rows.append((action, 1 if side == "B" else 2, price(tick), text, 32 if not place else 0, *times))
        before = event.book
    action, side, prices, sizes, flags, exch, local = (list(each) for each in zip(*rows, strict=True))
    columns: dict[str, pa.Array] = {
        "action": pa.array(action, pa.uint8()),
        "side": pa.array(side, pa.uint8()),
        "price": fixed(prices),
        "size": fixed(sizes),
        "order_id": pa.array([0] * len(rows), pa.uint64()),
        "flags": pa.array(flags, pa.uint8()),
        "sequence": pa.array([0] * len(rows), pa.uint64()),
        "ts_event": pa.array(exch, pa.uint64()),
        "ts_init": pa.array(local, pa.uint64()),
    }
    pq.write_table(pa.table(columns).replace_schema_metadata(meta), folder / "deltas.parquet")
    told = deals(market)
    columns = {
        "price": fixed([text for *_, text, _ in told]),
        "size": fixed([str(size) for *_, size in told]),
        "aggressor_side": pa.array([1 if buys else 2 for _, _, buys, _, _ in told], pa.uint8()),
        "trade_id": pa.array([str(number) for _, number, *_ in told]),
        "ts_event": pa.array([event.exch_ns for event, *_ in told], pa.uint64()),
        "ts_init": pa.array([event.local_ns for event, *_ in told], pa.uint64()),
    }
    pq.write_table(pa.table(columns).replace_schema_metadata(meta), folder / "trades.parquet")
    return [folder / "deltas.parquet", folder / "trades.parquet"]


def bybit_books(market: Market, path: Path) -> Path:
    """An archive of books, `ob500`."""
    lines = feeds.capture(market, "bybit", local=False)
    return zipped(path, [line for line in lines if "orderbook" in line])


ARCHIVES: dict[str, tuple[str, Callable[[Market, Path], list[Path]]]] = {
    "binance-archive": (
        "binance-archive",
        lambda market, folder: [
            zipped(folder / "BTCUSDT-trades-2012-06-21.zip", binance_deals(market)),
            zipped(folder / "BTCUSDT_T_DEPTH_2012-06-21.zip", binance_depth(market)),
        ],
    ),
    "bybit-archive": (
        "bybit",
        lambda market, folder: [
            bybit_books(market, folder / "2012-06-21_BTCUSDT_ob500.data.zip"),
            write_lines(folder / "BTCUSDT2012-06-21.csv.gz", bybit_deals(market)),
        ],
    ),
    "okx-archive": (
        "okx",
        lambda market, folder: [
            okx_books(market, folder / "BTC-USDT-L2orderbook-400lv-2012-06-21.tar.gz"),
            zipped(folder / "BTC-USDT-trades-2012-06-21.zip", okx_deals(market)),
        ],
    ),
    "cryptofeed": (
        "cryptofeed",
        lambda market, folder: [
            write_lines(folder / "OKX-1.0", cryptofeed(feeds.capture(market, "okx"), "okx"))
        ],
    ),
    "coinbase-full": (
        "coinbase",
        lambda market, folder: [write_lines(folder / "full.raw", coinbase_full(market))],
    ),
    "nautilus": ("nautilus", nautilus),
}
"""By name, the format and how to write its files."""
VENUES_TIME = ("binance-archive", "bybit-archive", "okx-archive")
"""Those that have the venue's times alone."""
