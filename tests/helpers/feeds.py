"""The market by order as the websockets of venues would tell it, by their published specifications."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmenv.times import MILLISECOND
from tests.helpers.orders import Book, Event, Market, changes, price

Levels = list[tuple[str, str]]


def market(events: int = 400, seed: int = 1) -> Market:
    """A market whose exchange counts milliseconds."""
    found = Market(events=events, seed=seed)
    for event in found.events:
        event.exch_ns -= event.exch_ns % MILLISECOND
    return found


def sides(before: Book, after: Book) -> tuple[Levels, Levels]:
    """New sizes of bids and asks."""
    found = changes(before, after)
    bids, asks = ([(price(tick), str(size)) for at, tick, size in found if at == side] for side in "BA")
    return bids, asks


def iso(ns: int) -> str:
    return f"{np.datetime64(ns, 'ns')}Z"


def bybit(event: Event, number: int, first: bool, bids: Levels, asks: Levels, deals: list) -> Iterator[Any]:
    ms = event.exch_ns // MILLISECOND
    if deals:
        data = [
            {
                "T": ms,
                "s": "BTCUSDT",
                "S": "Buy" if buy else "Sell",
                "v": size,
                "p": text,
                "i": f"a-{id}",
                "BT": False,
            }
            for id, buy, text, size in deals
        ]
        yield {"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": ms + 1, "data": data}
    if bids or asks:
        book = {"s": "BTCUSDT", "b": bids, "a": asks, "u": number, "seq": 7 * number}
        kind = "snapshot" if first else "delta"
        yield {"topic": "orderbook.500.BTCUSDT", "type": kind, "ts": ms + 1, "data": book, "cts": ms}


def okx(event: Event, number: int, first: bool, bids: Levels, asks: Levels, deals: list) -> Iterator[Any]:
    ms = str(event.exch_ns // MILLISECOND)
    for id, buy, text, size in deals:
        deal = {"instId": "BTC-USDT", "tradeId": str(id), "px": text, "sz": size, "ts": ms, "count": "1"}
        deal["side"] = "buy" if buy else "sell"
        yield {"arg": {"channel": "trades", "instId": "BTC-USDT"}, "data": [deal]}
    if bids or asks:
        levels = {
            name: [[*level, "0", "1"] for level in side] for name, side in (("bids", bids), ("asks", asks))
        }
        book = levels | {
            "ts": ms,
            "checksum": 0,
            "seqId": 3 * number,
            "prevSeqId": -1 if first else 3 * number - 3,
        }
        arg = {"channel": "books", "instId": "BTC-USDT"}
        yield {"arg": arg, "action": "snapshot" if first else "update", "data": [book]}


def hyperliquid(
    event: Event, number: int, first: bool, bids: Levels, asks: Levels, deals: list
) -> Iterator[Any]:
    ms = event.exch_ns // MILLISECOND
    if deals:
        data = [
            {
                "coin": "BTC",
                "side": "B" if buy else "A",
                "px": text,
                "sz": size,
                "time": ms,
                "hash": "0x",
                "tid": id,
            }
            for id, buy, text, size in deals
        ]
        yield {"channel": "trades", "data": data}
    if bids or asks:
        levels = []
        for side, sign in (("B", -1), ("A", 1)):
            whole = sorted((sign * tick, size) for (at, tick), size in event.book.items() if at == side)
            levels.append([{"px": price(sign * tick), "sz": str(size), "n": 1} for tick, size in whole])
        yield {"channel": "l2Book", "data": {"coin": "BTC", "time": ms, "levels": levels}}


def kraken(event: Event, number: int, first: bool, bids: Levels, asks: Levels, deals: list) -> Iterator[Any]:
    for id, buy, text, size in deals:
        deal = {
            "symbol": "BTC/USD",
            "side": "buy" if buy else "sell",
            "price": float(text),
            "qty": float(size),
        }
        deal |= {"ord_type": "market", "trade_id": id, "timestamp": iso(event.exch_ns)}
        yield {"channel": "trade", "type": "update", "data": [deal]}
    if bids or asks:
        book: dict[str, Any] = {"symbol": "BTC/USD", "checksum": 1, "timestamp": iso(event.exch_ns)}
        for name, side in (("bids", bids), ("asks", asks)):
            book[name] = [{"price": float(text), "qty": float(size)} for text, size in side]
        yield {"channel": "book", "type": "snapshot" if first else "update", "data": [book]}


def coinbase(
    event: Event, number: int, first: bool, bids: Levels, asks: Levels, deals: list
) -> Iterator[Any]:
    time = iso(event.exch_ns)
    for id, buy, text, size in deals:
        deal = {"type": "match", "trade_id": id, "product_id": "BTC-USD", "price": text, "size": size}
        yield deal | {"side": "sell" if buy else "buy", "time": time, "sequence": id}
    if first:
        yield {"type": "snapshot", "product_id": "BTC-USD", "bids": bids, "asks": asks, "time": time}
    elif bids or asks:
        both = [["buy", *level] for level in bids] + [["sell", *level] for level in asks]
        yield {"type": "l2update", "product_id": "BTC-USD", "changes": both, "time": time}


VENUES: dict[str, Callable[..., Iterator[Any]]] = {
    "bybit": bybit,
    "okx": okx,
    "hyperliquid": hyperliquid,
    "kraken": kraken,
    "coinbase": coinbase,
}


def capture(found: Market, venue: str, local: bool = True) -> list[str]:
    """Lines of local time and message, or of messages alone."""
    lines: list[str] = []
    before: Book = {}
    number, deal = 1, 7_000
    for place, event in enumerate(found.events):
        deals = []
        for step in event.steps:
            if step.action == "T":
                deal += 1
                deals.append((deal, step.side == "B", price(step.tick), str(step.size)))
        bids, asks = sides(before, event.book)
        number += bool(bids or asks)
        for message in VENUES[venue](event, number, place == 0, bids, asks, deals):
            lines.append(f"{event.local_ns} {json.dumps(message)}" if local else json.dumps(message))
        before = event.book
    return lines
