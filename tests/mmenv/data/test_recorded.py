"""Recorded data, read a second time by pandas alone: trades, volumes, sides and the touch are equal.

Runs where NEURALMM_DATA names the folder `binance` of the recorded data; the others lie beside it.
"""

from __future__ import annotations

import json
import lzma
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmenv.data.rows import BBO, BUY, CLEAR, SELL, TRADE
from mmenv.data.tape import Tape
from tests.helpers.imports import rows_of, run

pytestmark = pytest.mark.skipif("NEURALMM_DATA" not in os.environ, reason="NEURALMM_DATA names no folder")


def recorded(*names: str) -> list[Path]:
    """Files beside or in the folder of captures; skips where one is missing."""
    folder = Path(os.environ.get("NEURALMM_DATA", "."))
    paths = [found for name in names for found in sorted(folder.parent.glob(name))]
    if not paths:
        pytest.skip(f"no {names[0]} beside NEURALMM_DATA")
    return paths


def touches(tape: Tape) -> pd.DataFrame:
    """Message, and best bid and ask in whole prices and sizes, after each book message of a tape."""
    tick, lot = float(tape.info.tick_size), float(tape.info.lot_size)
    rows = rows_of(tape)
    rows = rows[(rows["kind"] != TRADE) & (rows["kind"] != BBO)]
    ends = np.append((rows["id"][1:] != rows["id"][:-1]), True).tolist()
    found = []
    sides: dict[int, dict[int, int]] = {BUY: {}, SELL: {}}
    best: dict[int, int | None] = {BUY: None, SELL: None}
    columns = (rows[name].tolist() for name in ("kind", "side", "price", "size", "id"))
    for kind, side, price, size, number, end in zip(*columns, ends, strict=True):
        if kind == CLEAR:
            sides, best = {BUY: {}, SELL: {}}, {BUY: None, SELL: None}
        elif size:
            sides[side][price] = size
            best[side] = max(price * side, price * side if best[side] is None else best[side] * side) * side
        else:
            sides[side].pop(price, None)
            if price == best[side]:
                best[side] = max((p * side for p in sides[side]), default=None)
                best[side] = None if best[side] is None else best[side] * side
        bid, ask = best[BUY], best[SELL]
        if end and bid is not None and ask is not None:
            found.append((number, bid * tick, sides[BUY][bid] * lot, ask * tick, sides[SELL][ask] * lot))
    return pd.DataFrame(found, columns=["id", "bid", "bid_size", "ask", "ask_size"]).drop_duplicates(
        "id", keep="last"
    )


def traded(tape: Tape) -> pd.DataFrame:
    rows = rows_of(tape)
    rows = rows[rows["kind"] == TRADE]
    frame = pd.DataFrame({name: rows[name] for name in ("exch_ns", "side", "price", "size", "id")})
    frame["price"] *= float(tape.info.tick_size)
    frame["size"] *= float(tape.info.lot_size)
    return frame


@pytest.mark.parametrize(("symbol", "levels"), [("MSFT", 10), ("AMZN", 1)])
def test_lobster(symbol: str, levels: int, tmp_path: Path) -> None:
    paths = recorded(f"lobster/{symbol}_*_message_*", f"lobster/{symbol}_*_orderbook_*")
    tape, _ = run("lobster", paths, tmp_path / "store")
    names = ["time", "type", "order", "size", "price", "direction"]
    messages = pd.read_csv(paths[0], names=names, dtype={"time": str})
    sides = ["ask", "ask_size", "bid", "bid_size"]
    book = pd.read_csv(paths[1], usecols=range(4), names=[f"{name}" for name in sides], header=None)
    deals = messages[messages["type"].isin([4, 5])]
    found = traded(tape)
    midnight = pd.Timestamp("2012-06-21", tz="America/New_York").value
    seconds = deals["time"].str.partition(".")
    fraction = seconds[2].str.ljust(9, "0").replace("", "0").astype("int64")
    when = midnight + seconds[0].astype("int64") * 10**9 + fraction
    assert (found["exch_ns"].to_numpy() == when.to_numpy()).all()
    assert (found["side"].to_numpy() == -deals["direction"].to_numpy()).all()
    assert (found["size"].to_numpy() == deals["size"].to_numpy()).all()
    visible = (deals["type"] == 4).to_numpy()
    assert np.allclose(found["price"][visible], deals["price"][visible] / 10_000)
    # The touch after every line, by the line's number.
    seen = touches(tape).set_index("id").reindex(range(1, len(book) + 1)).ffill()
    both = (book["bid"] > 0) & (book["ask"] < 9_999_999_999) & seen["bid"].notna().to_numpy()
    assert both.sum() > 0.99 * len(book)
    for name, scale in (("bid", 10_000), ("ask", 10_000), ("bid_size", 1), ("ask_size", 1)):
        assert np.allclose(seen[name].to_numpy()[both], book[name].to_numpy()[both] / scale), name
    assert levels in (1, 10)


def test_databento(tmp_path: Path) -> None:
    [path] = recorded("databento/ARL_*_mbo.csv.gz")
    tape, report = run("databento", [path], tmp_path / "store", trade_side="quote")
    frame = pd.read_csv(path)
    deals = frame[frame["action"] == "T"]
    found = traded(tape)
    assert len(found) == len(deals) - report.tally["trade whose aggressor is unknown, left out"]
    known = deals["side"].isin(["A", "B"])
    if len(found) == len(deals):
        assert np.allclose(found["price"], deals["price"])
        assert (found["size"].to_numpy() == deals["size"].to_numpy()).all()
        sides = deals["side"].map({"B": 1, "A": -1})[known]
        assert (found["side"][known.to_numpy()].to_numpy() == sides.to_numpy()).all()
    # The touch at the end of every event, by the line of its last record.
    orders: dict[int, tuple[str, float, int]] = {}
    expected = {}
    for number, row in enumerate(frame.itertuples(), 2):
        if row.action == "R":
            orders = {}
        elif row.action in "AM":
            orders[row.order_id] = row.side, row.price, row.size
        elif row.action == "C" and row.order_id in orders:
            side, price, size = orders.pop(row.order_id)
            if size > row.size:
                orders[row.order_id] = side, price, size - row.size
        if row.flags & 128:
            bids = [(price, size) for side, price, size in orders.values() if side == "B"]
            asks = [(price, size) for side, price, size in orders.values() if side == "A"]
            if bids and asks:
                bid, ask = max(bids)[0], min(asks)[0]
                sizes = (sum(s for p, s in bids if p == bid), sum(s for p, s in asks if p == ask))
                expected[number] = bid, sizes[0], ask, sizes[1]
    wanted = pd.DataFrame.from_dict(expected, orient="index", columns=["bid", "bid_size", "ask", "ask_size"])
    seen = touches(tape).set_index("id").reindex(wanted.index).ffill()
    first = seen["bid"].first_valid_index()
    assert np.allclose(seen.loc[first:].astype(float), wanted.loc[first:].astype(float))
    assert len(seen) > 2_000


def test_bitstamp(tmp_path: Path) -> None:
    [path] = recorded("bitstamp/2015-05-01.log.xz")
    tape, report = run("bitstamp", [path], tmp_path / "store")
    with lzma.open(path, "rt") as file:
        lines = [line.split(" ", 2) for line in file]
    deals = pd.DataFrame([json.loads(text) for _, event, text in lines if event == "trade"])
    deals["ns"] = [int(ms) * 10**6 for ms, event, _ in lines if event == "trade"]
    left_out = report.tally["trade whose aggressor is unknown, left out"]
    found = traded(tape).merge(deals, on="id", validate="one_to_one")
    assert len(found) == len(deals) - left_out > 500
    assert np.allclose(found["price_x"], found["price_y"])
    assert np.allclose(found["size"], found["amount"], atol=1e-8)
    assert (found["exch_ns"] == found["ns"]).all()
    # The touch of the venue's own books, taken a moment before or after the events around them.
    rows = rows_of(tape)
    rows = rows[rows["kind"] != TRADE]
    tick, lot = float(tape.info.tick_size), float(tape.info.lot_size)
    sides: dict[int, dict[float, float]] = {BUY: {}, SELL: {}}
    place, compared, same = 0, 0, 0
    for ms, event, text in lines:
        while place < len(rows) and rows["local_ns"][place] <= int(ms) * 10**6:
            row = rows[place]
            if row["kind"] == CLEAR:
                sides = {BUY: {}, SELL: {}}
            sides[int(row["side"])][round(row["price"] * tick, 2)] = row["size"] * lot
            place += 1
        if event != "order_book" or not place:
            continue
        told = json.loads(text)
        compared += 1
        best = [
            max((price for price, size in sides[BUY].items() if size), default=0.0),
            min((price for price, size in sides[SELL].items() if size), default=0.0),
        ]
        first = [told["bids"][0], told["asks"][0]]
        same += all(
            abs(price - float(theirs[0])) < 1e-9 and abs(sides[side][price] - float(theirs[1])) < 1e-8
            for price, side, theirs in zip(best, (BUY, SELL), first, strict=True)
        )
    assert compared > 1_000
    assert same > 0.9 * compared


@pytest.mark.parametrize(
    "name",
    [
        *(f"usdm/{symbol}_20240808.gz" for symbol in ("btcusdt", "ethusdt")),
        *(f"cm/btcusd_perp_{day}.gz" for day in ("20240808", "20240809")),
        *(f"spot/btcusdt_{day}.gz" for day in ("20240808", "20240809")),
    ],
)
def test_binance(name: str, tmp_path: Path) -> None:
    """Trades after the book begins; the touch after every diff, beside the venue's own book tickers."""
    [path] = recorded(f"binance/{name}")
    tape, report = run("binance", [path], tmp_path / "store")
    lines = pd.read_csv(path, sep=" ", names=["ns", "text"], quoting=3)
    data = [message.get("data", message) for message in map(json.loads, lines["text"])]
    deals = pd.DataFrame([each for each in data if each.get("e") == "trade"])
    deals = deals[deals["X"] == "MARKET"] if "X" in deals else deals
    found = traded(tape)
    known = deals[deals["t"] >= found["id"].iloc[0]]
    assert (found["id"].to_numpy() == known["t"].to_numpy()).all()
    assert np.allclose(found["price"], known["p"].astype(float))
    assert np.allclose(found["size"], known["q"].astype(float))
    assert (found["side"].to_numpy() == np.where(known["m"], -1, 1)).all()
    # Where a ticker and a diff have the same number, they have the same touch.
    tickers = pd.DataFrame([each for each in data if "B" in each and "A" in each and "b" in each])
    tickers = tickers[["u", "b", "B", "a", "A"]].astype(dict.fromkeys("bBaA", float))
    both = touches(tape).merge(tickers.drop_duplicates("u"), left_on="id", right_on="u")
    # Without a snapshot the first diffs know few levels.
    both = both[len(both) // 2 :] if "missing-snapshot" in report.counts else both
    assert len(both) > 200
    for ours, theirs in (("bid", "b"), ("bid_size", "B"), ("ask", "a"), ("ask_size", "A")):
        assert np.allclose(both[ours], both[theirs]), ours
