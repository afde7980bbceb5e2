"""Funding and borrowing in backtests: what is paid for positions, and the profit still its parts' sum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmenv.backtest import Entrant, Settings, backtest
from mmenv.backtest.loop import DECISION
from mmenv.backtest.play import Clock, Played
from mmenv.backtest.tables import FUNDING, PARTS, YEAR_SECONDS, Holding, Scale, equity_of
from mmenv.checks import ConfigError
from mmenv.config import make_config
from mmenv.data.funding import FundingRates, read_funding
from mmenv.data.importer import Import
from mmenv.data.tape import tapes
from mmenv.market.live import Live
from mmenv.market.replay import Replay
from mmenv.report import write_report
from mmenv.times import SECOND
from tests.helpers.captures import market, write
from tests.helpers.entrants import Make

START_NS = 1_723_100_000 * SECOND


def played(seed: int, decisions: int = 3_000) -> Played:
    """A market and fills at random, in decisions of a tenth of a second."""
    rng, rows = np.random.default_rng(seed), np.zeros(decisions, DECISION)
    rows["time_ns"] = START_NS + np.arange(decisions) * SECOND // 10
    rows["move"] = rng.integers(-3, 4, decisions)
    rows["mid"] = 120_000 + np.cumsum(rows["move"]) - rows["move"]
    for name in ("ask_fill", "bid_fill"):
        rows[name] = rng.integers(0, 3, decisions)
    net = np.cumsum(rows["bid_fill"] - rows["ask_fill"])
    rows["position"] = net - (rows["bid_fill"] - rows["ask_fill"])
    rows["ask_edge"], rows["bid_edge"] = rows["ask_fill"] * 2.0, rows["bid_fill"] * 3.0
    return Played(rows, np.zeros(decisions, np.int32), Clock())


@pytest.mark.parametrize("inverse", [False, True])
def test_the_identity_holds_with_funding_and_every_payment_counts_once(inverse: bool) -> None:
    """Paid for what is held at its time, at the mark that is given or else at the mid; a payment before or
    after the tape is none. Coin of an inverse contract is counted by its own formula."""
    config = make_config(Live(venue="v", symbol="s"), maker_fee_bp=1.5)
    scale = Scale(price=0.05, lot=100.0 if inverse else 0.001, currency="X", tick=0.1, inverse=inverse)
    made = played(7)
    times = START_NS + np.array([-5, 0, 40.05, 40.1, 123.456, 299.95, 400]) * SECOND
    rates = FundingRates(
        times.astype(np.int64),
        np.array([9.0, 1e-3, -2e-3, 5e-4, 1e-4, 3e-4, 9.0]),
        np.array([1.0, 6_010.0, np.nan, 5_990.0, np.nan, np.nan, 1.0]),
    )
    equity = equity_of(made, config, scale, Holding(rates, borrow=0.3))
    expected = 0.0
    for at, rate, mark in zip(rates.times_ns[1:-1], rates.rates[1:-1], rates.marks[1:-1], strict=True):
        row = made.rows[(at - START_NS) // (SECOND // 10)]
        price = row["mid"] * scale.price if np.isnan(mark) else mark
        notional = scale.lot / price if inverse else scale.lot * price
        expected -= float(row["position"]) * notional * rate
    for row in made.rows:
        price = row["mid"] * scale.price
        value = scale.lot / price if inverse else scale.lot * price
        expected -= max(-float(row["position"]), 0.0) * value * 0.3 * 0.1 / YEAR_SECONDS
    assert equity["funding"][-1] == pytest.approx(expected, rel=1e-9)
    assert abs(expected) > 0
    gained = equity["spread_capture"] + equity["adverse_selection"] + equity["carry"]
    gained += equity["funding"] - equity["fees"]
    assert equity["profit"] == pytest.approx(gained, rel=1e-12, abs=1e-12)
    plain = equity_of(made, config, scale)
    assert "funding" not in plain
    assert equity["profit"] - equity["funding"] == pytest.approx(plain["profit"], rel=1e-12, abs=1e-12)


def test_funding_is_a_part_of_the_result_and_of_its_sheet(tmp_path: Path) -> None:
    """Recounted from the saved decisions; without a file there is no such part."""
    pytest.importorskip("hftbacktest")
    sent = market(seconds=60, seed=3)
    Import("binance", (write(tmp_path / "c.gz", sent.lines),), tmp_path / "store", progress=False).run()
    [tape] = tapes(tmp_path / "store")
    at_ms = (tape.info.first_ns + 30 * SECOND) // 1_000_000
    file = tmp_path / "rates.csv"
    file.write_text(f"time,rate\n{at_ms - 10_000},0.001\n{at_ms},-0.002\n")
    config = make_config(
        Replay(store=str(tmp_path / "store"), split="all"),
        horizon=200, maker_fee_bp=0.5, risk={"daily_loss_limit": 1e9, "position_limit": 6, "order_lots": 2},
    )  # fmt: skip
    entrants = [Entrant(Make("first"), config), Entrant(Make("second", "Wandering"), config)]
    settings = {"jobs": 1, "sensitivity": False}
    found = backtest(
        entrants, tmp_path / "with", Settings(funding=str(file), borrow=0.5, **settings), progress=False
    )
    for run in found.runs.values():
        figures, states = found.figures[run.name], run.states(0)
        parts = [figures[name].value for name in (*PARTS, FUNDING)]
        assert figures["profit"].value == pytest.approx(sum(parts[:3]) - parts[3] + parts[4], abs=1e-9)
        assert "funding" in run.equity
        times, held, mid = (states[name].to_numpy() for name in ("time_ns", "position_lots", "mid"))
        lot, expected = run.units[0]["scale"]["lot"], 0.0
        for time_ms, rate in ((at_ms - 10_000, 0.001), (at_ms, -0.002)):
            row = np.searchsorted(times, time_ms * 1_000_000, side="right") - 1
            expected -= held[row] * lot * mid[row] * rate
        short = np.maximum(-held, 0) * lot * mid * 0.5 * 0.1 / YEAR_SECONDS
        assert figures["funding"].value == pytest.approx(expected - short.sum(), rel=1e-6)
    write_report(found, tmp_path / "sheet.html")
    assert "Funding" in (tmp_path / "sheet.html").read_text()
    plain = backtest(entrants[:1], tmp_path / "without", Settings(**settings), progress=False)
    assert "funding" not in plain.figures["first"]
    with pytest.raises(ConfigError, match="cannot be read"):
        backtest(entrants, tmp_path / "no", Settings(funding="none.csv", **settings), progress=False)


WRITTEN = {
    "archive": "calc_time,funding_interval_hours,last_funding_rate\n1723104000000,8,0.0001\n"
    "1723132800001,8,-0.0002\n",
    "api": "symbol,fundingTime,fundingRate,markPrice\nBTCUSDT,1723104000000,0.0001,60000.5\n"
    "ETHUSDT,1723104000000,0.01,3000\nBTCUSDT,1723132800001,-0.0002,61000\n",
    "feed": "symbol,timestamp,local_timestamp,funding_timestamp,funding_rate,mark_price\n"
    "BTCUSDT,1723103990000000,1723103990000001,1723104000000000,0.0003,59000\n"
    "BTCUSDT,1723103999000000,1723103999000001,1723104000000000,0.0001,60000.5\n"
    "BTCUSDT,1723110000000000,1723110000000001,1723132800001000,-0.0002,61000\n",
    "plain": "time,rate\n2024-08-08T08:00:00Z,0.0001\n2024-08-08T16:00:00.001Z,-0.0002\n",
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_rates_are_read_as_venues_and_vendors_write_them(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "rates.csv"
    file.write_text(WRITTEN[kind])
    found = read_funding(file, "BTCUSDT")
    assert found.times_ns.tolist() == [1723104000 * SECOND, 1723132800 * SECOND + SECOND // 1000]
    assert found.rates.tolist() == [1e-4, -2e-4]
    if kind in ("api", "feed"):
        assert found.marks.tolist() == [60000.5, 61000.0]
    else:
        assert np.isnan(found.marks).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,price\n1723104000000,1\n", "no column last_funding_rate"),
        ("time,rate\n1723104000000,1.5\n", "a rate of 1.5"),
        ("time,rate\n12,0.1\n", "a time 12"),
        ("time,rate\nsoon,0.1\n", "cannot be read"),
        ("time,rate,symbol\n1723104000000,0.1,ETHUSDT\n", "no row of symbol 'BTCUSDT'"),
        ("time,rate\n1723104000000,0.1\n1723104000000,0.2\n", "two payments at one time"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "rates.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_funding(file, "BTCUSDT")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_funding(tmp_path / "none.csv", "BTCUSDT")
