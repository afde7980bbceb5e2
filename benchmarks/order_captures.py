"""Random captures of single orders that come and go, as Bitstamp and Coinbase's channel `full` send them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.times import MILLISECOND, SECOND

STANDING = 500
"""Orders in the book."""
Order = tuple[int, bool, str, str]
"""Number, whether it buys, price and size."""


def orders(messages: int, random: np.random.Generator) -> Iterator[tuple[str, Order]]:
    """What happens: an order is "open", "done" or, one in twenty, loses half of what it has: "match"."""
    standing = list[Order]()
    for number in range(messages):
        kind = (
            "open" if len(standing) < STANDING or number % 2 else "done" if random.random() < 0.9 else "match"
        )
        if kind == "open":
            buys, away = bool(random.integers(2)), int(random.integers(1, 200))
            price = f"{60 + (-1 if buys else 1) * away / 100:.2f}"
            standing.append((number, buys, price, f"{random.integers(2, 10**9) / 1e8:.8f}"))
            yield kind, standing[-1]
            continue
        at = int(random.integers(len(standing)))
        order = standing[at]
        if kind == "done":
            standing[at] = standing[-1]
            standing.pop()
        else:
            order = (*order[:3], f"{float(order[3]) / 2:.8f}")
            standing[at] = (*order[:3], f"{float(standing[at][3]) - float(order[3]):.8f}")
        yield kind, order


def bitstamp(path: Path, messages: int, start_ns: int) -> Path:
    """A log, one in eleven of whose messages is a book of 20 levels a side."""
    random = np.random.default_rng(0)
    book = json.dumps(
        {
            side: [[f"{60 + sign * (at + 1) / 100:.2f}", "3.00000000"] for at in range(20)]
            for side, sign in (("bids", -1), ("asks", 1))
        }
    )
    with path.open("w") as file:
        for place, (kind, (number, buys, price, size)) in enumerate(orders(messages, random)):
            stamp = f"{start_ns // MILLISECOND + place}"
            if place % 10 == 0:
                file.write(f"{stamp} order_book {book}\n")
            event = {"open": "order_created", "done": "order_deleted", "match": "order_changed"}[kind]
            told = {"price": price, "amount": size, "datetime": stamp[:-3], "id": number}
            file.write(f"{stamp} {event} {json.dumps(told | {'order_type': int(not buys)})}\n")
            if kind == "match":
                deal = {"price": float(price), "amount": float(size), "id": place}
                file.write(f"{stamp} trade {json.dumps(deal)}\n")
    return path


def coinbase_full(path: Path, messages: int, start_ns: int) -> Path:
    """A capture in which each order is received, and then open; the book before is that of level 3."""
    random = np.random.default_rng(0)
    names = random.bytes(16 * messages)
    with path.open("w") as file:
        book = {"bids": [["1.00", "1", "b"]], "asks": [["100.00", "1", "a"]]}
        file.write(f"{start_ns} {json.dumps({'sequence': 0} | book)}\n")
        sequence = 0

        def say(ns: int, message: dict[str, Any]) -> None:
            nonlocal sequence
            sequence += 1
            time = datetime.fromtimestamp(ns // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            message |= {"product_id": "BTC-USD", "time": f"{time}.{ns % SECOND // 1000:06d}Z"}
            text = json.dumps(message | {"sequence": sequence}, separators=(",", ":"))
            file.write(f"{ns + MILLISECOND} {text}\n")

        for place, (kind, (number, buys, price, size)) in enumerate(orders(messages, random)):
            name = str(uuid.UUID(bytes=names[16 * number : 16 * number + 16]))
            ns = start_ns + place * MILLISECOND
            told = {"type": kind, "side": "buy" if buys else "sell", "price": price}
            if kind == "match":
                say(
                    ns,
                    told | {"trade_id": place, "size": size, "maker_order_id": name, "taker_order_id": name},
                )
                continue
            told |= {"order_id": name}
            if kind == "open":
                say(ns, told | {"type": "received", "order_type": "limit", "size": size, "client_oid": name})
            say(ns, told | {"remaining_size": size} | ({"reason": "canceled"} if kind == "done" else {}))
    return path
