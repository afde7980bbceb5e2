"""Backtests: the record is what the desk did, every figure follows from what is saved, bad input is said."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmenv import ConfigError, make_config
from mmenv.backtest import BacktestError, Entrant, Result, Settings, Tabulated, backtest
from mmenv.backtest.orders import columns_of, orders_of
from mmenv.backtest.play import play
from mmenv.backtest.result import FIGURES
from mmenv.backtest.run import units
from mmenv.backtest.tables import Scale, equity_of, fills_of, states_of
from mmenv.market.replay import Replay
from mmenv.measure import intervals, metrics
from mmenv.report.words import show
from policies.make import make_policy
from tests.helpers.captures import START_NS, market, write
from tests.helpers.commands import neuralmm
from tests.helpers.entrants import GLFT, Make, Steady, Wandering

pytest.importorskip("hftbacktest")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mmenv.data.importer import Import

    folder = tmp_path_factory.mktemp("store")
    for day in range(2):
        made = market(seconds=110, seed=3 + day, start_ns=START_NS + day * 86_400 * 10**9)
        path = write(folder / f"capture{day}.gz", made.lines)
        Import("binance", (path,), folder / "store", strict=True, progress=False).run()
    return folder / "store"


def recorded(store: Path, **more):
    return make_config(
        Replay(store=str(store), split="all"),
        horizon=200,
        maker_fee_bp=0.5,
        risk={"daily_loss_limit": 1e9, "position_limit": 6, "order_lots": 2},
        **more,
    )


@pytest.fixture(scope="module")
def result(store, tmp_path_factory) -> Result:
    """Two policies over two days of tape, with scenarios, in two processes."""
    config = recorded(store)
    entrants = [Entrant(Make("first"), config), Entrant(Make("second", "Wandering"), config)]
    chosen = Settings(jobs=2, tries=5, latencies_ms=(10.0, 30.0))
    return backtest(entrants, tmp_path_factory.mktemp("result") / "it", chosen, progress=False)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Result:
    config = make_config("hidden-regime", horizon=100)
    entrants = [Entrant(Make("first"), config), Entrant(Make("second", "Wandering"), config)]
    chosen = Settings(jobs=1, days=0.3)
    return backtest(entrants, tmp_path_factory.mktemp("simulated") / "it", chosen, progress=False)


# The record.


def test_the_record_is_what_the_desk_did(simulated, result):
    """Cash and position recounted from the saved fills give the profit, and the parts sum to it."""
    for found in (simulated, result):
        for run in found.runs.values():
            wealth = 0.0
            for path, fills in run.fills.groupby("path"):
                final = run.equity[run.equity["path"] == path]["mid"].iloc[-1]
                cash = -(fills["side"] * fills["size"] * fills["price"]).sum() - fills["fee"].sum()
                wealth += cash + (fills["side"] * fills["size"]).sum() * final
            figures = found.figures[run.name]
            assert len(run.fills) > 20
            assert figures["profit"].value == pytest.approx(wealth, rel=1e-9, abs=1e-9)
            parts = [figures[p].value for p in ("spread_capture", "adverse_selection", "carry", "fees")]
            assert sum(parts[:3]) - parts[3] == pytest.approx(wealth, rel=1e-9, abs=1e-9)


def test_market_orders_pay_their_own_fee():
    """Where quotes pay none, all fees are of market orders; and no quote has their fills."""
    quote = {"name": "taker", "taker_lots": 2, "taker_fee_bp": 4.0}
    config = make_config("brownian", horizon=300, quote=quote)
    played = play(Wandering((-1, -0.1, -1), (-0.6, 0.1, 1)), "it", config, seeds=range(2))
    rows, scale = played.rows, Scale(price=1 / config.market.price_scale, lot=1.0, currency="pu", tick=0.0)
    value = (rows["taken_ask"] + rows["taken_bid"]) * rows["mid"].astype(float)
    value += rows["taken_ask_edge"] - rows["taken_bid_edge"]
    fees = 4e-4 * value.sum() * scale.money
    assert fees > 0
    assert equity_of(played, config, scale)["fees"][-1] == pytest.approx(fees, rel=1e-9)
    assert fills_of(played, config, scale)["fee"].sum() == pytest.approx(fees, rel=1e-9)
    quoted = rows["ask_fill"] + rows["bid_fill"] - rows["taken_ask"] - rows["taken_bid"]
    orders = orders_of(played, config, scale)
    assert (orders["filled_lots"] <= orders["lots"]).all()
    assert 0 < orders["filled_lots"].sum() == quoted.sum()


def test_a_table_of_quotes_is_the_policy(store):
    """Looked-up quotes and asked-for ones make the same record, on a simulated market and on a tape."""
    entrant = Entrant(Make("it"), recorded(store))
    unit = units([entrant], Settings(sensitivity=False))[0]
    for config in (make_config("brownian", horizon=5000), unit.config):
        policy = make_policy("glft", config, **GLFT)
        looked = play(Tabulated(policy), "it", config, seeds=range(3))
        asked = play(policy, "it", config, seeds=range(3))
        assert (looked.rows == asked.rows).all()
        assert (looked.rows["bid_fill"] > 0).any()
    assert (np.diff(looked.rows["time_ns"]) == 100_000_000).all()


def test_a_session_goes_on_where_the_last_ended(store):
    """On a tape the position outlives the policy's episodes; it is what its fills sum to."""
    unit = units([Entrant(Make("it"), recorded(store))], Settings(sensitivity=False))[0]
    rows = play(make_policy("glft", unit.config, **GLFT), "it", unit.config).rows
    assert rows["session"].max() >= 5
    position = np.cumsum(rows["bid_fill"] - rows["ask_fill"])
    assert (rows["position"][1:] == position[:-1]).all()
    assert np.abs(rows["position"][np.flatnonzero(np.diff(rows["session"])) + 1]).max() > 0


def test_orders_are_the_quotes_that_stood(result):
    """Orders recounted from the states: one side after the other, decision by decision."""
    for run in result.runs.values():
        orders = run.table("orders")
        for name, side in (("bid", 1), ("ask", -1)):
            counted: list[list[float]] = []
            live = None
            path = -1
            for row in run.table("states").to_dict("records"):
                price, lots, filled = row[name], row[f"{name}_lots"], row[f"{name}_filled_lots"]
                live = None if row["path"] != path else live
                path = row["path"]
                if live is not None:
                    left = live[1] - live[2]
                    keeps = price == live[0] and left > 0 and lots in (live[1], left)
                    live = live if keeps else None
                if live is None and lots > 0:
                    live = [price, lots, 0]
                    counted.append(live)
                if live is not None:
                    live[2] += filled
            saved = orders[orders["side"] == side][["price", "lots", "filled_lots"]]
            assert len(counted) > 50
            assert saved.to_numpy() == pytest.approx(np.array(counted))


def test_losses_outlive_a_session(store):
    """The risk state of every decision follows from all profit before it, not from that of its session."""
    config = recorded(store)
    limits = dataclasses.replace(config.risk, daily_loss_limit=1e6, reducing_at=2e-5)
    unit = units(
        [Entrant(Make("it"), dataclasses.replace(config, risk=limits))], Settings(sensitivity=False)
    )[0]
    rows = play(make_policy("glft", unit.config, **GLFT), "it", unit.config).rows
    value = (rows["bid_fill"] + rows["ask_fill"]) * rows["mid"] + rows["ask_edge"] - rows["bid_edge"]
    net = rows["bid_fill"] - rows["ask_fill"]
    gain = rows["ask_edge"] + rows["bid_edge"] + (rows["position"] + net) * rows["move"] - 0.5e-4 * value
    before = np.concatenate([[0.0], np.cumsum(gain)[:-1]])
    reducing = -before >= 20.0 * unit.config.market.price_scale
    assert (rows["risk_state"] == reducing).all()
    first = int(np.argmax(reducing))
    assert rows["session"].max() > rows["session"][first]


def test_paths_are_shared_and_sizes_do_not_matter(simulated):
    """All policies face the same market; a day played in one batch or in two is the same."""
    mids = [run.table("states", ["mid", "market_buy_lots"]) for run in simulated.runs.values()]
    assert mids[0].equals(mids[1])
    config = make_config("hidden-regime", horizon=50)
    policy = make_policy("glft", config, **GLFT)
    whole = play(policy, "it", config, seeds=range(8)).rows
    parts = [play(policy, "it", config, seeds=range(k, k + 4)).rows for k in (0, 4)]
    for name in ("mid", "bid_fill", "ask_edge", "position"):
        assert (whole[name] == np.concatenate([part[name] for part in parts])).all()


# Every figure from what is saved, by an implementation that shares nothing with the first.


def recomputed(result: Result, name: str) -> dict[str, float]:
    """The figures of a policy from its Parquet files, row by row in plain Python."""
    run = result.runs[name]
    fills, states, orders = (run.table(kind) for kind in ("fills", "states", "orders"))
    limit = run.units[0]["position_limit"]
    step_ns = round(run.units[0]["step_seconds"] * 1e9)
    lot = run.units[0]["scale"]["lot"]
    by_time: dict[int, list[float]] = {}
    capture = adverse = fees = turnover = 0.0
    for _, path in states.groupby("path"):
        times, mids = path["time_ns"].tolist(), path["mid"].tolist()
        equity = run.equity
        final = equity[equity["path"] == path["path"].iloc[0]]["mid"].iloc[-1]
        mids.append(final)
        mine = fills[fills["path"] == path["path"].iloc[0]].to_dict("records")
        cash = position = 0.0
        wealth = 0.0
        for k, at in enumerate(times):
            while mine and mine[0]["time_ns"] == at + step_ns:
                fill = mine.pop(0)
                money = fill["size"] * fill["price"]
                cash -= fill["side"] * money + fill["fee"]
                position += fill["side"] * fill["size"]
                capture += fill["side"] * fill["size"] * (mids[k] - fill["price"])
                adverse += fill["side"] * fill["size"] * (mids[k + 1] - mids[k])
                fees += fill["fee"]
                turnover += money
                assert fill["position_lots"] == pytest.approx(position / lot)
            now = cash + position * mids[k + 1]
            cell = (at + step_ns - 1) // round(result.interval * 1e9)
            by_time.setdefault(cell, []).append(now - wealth)
            wealth = now
        assert not mine
    profits = [sum(by_time[cell]) for cell in sorted(by_time)]
    total = sum(profits)
    mean = total / len(profits)
    deviation = math.sqrt(sum((p - mean) ** 2 for p in profits) / (len(profits) - 1))
    downside = math.sqrt(sum(min(p, 0) ** 2 for p in profits) / len(profits))
    peak = low = value = 0.0
    fraction = 0.0
    for p in profits:
        value += p
        peak = max(peak, value)
        low = max(low, peak - value)
        fraction = max(fraction, (peak - value) / (result.capital + peak))
    worst = sorted(profits)[: max(int(0.05 * len(profits) + 1e-9), 1)]
    held = states["position_lots"] + states["bid_filled_lots"] - states["ask_filled_lots"]
    book = states[states["best_bid"].notna()]
    at_bid = book["bid"] >= book["best_bid"] - 1e-9
    at_ask = book["ask"] <= book["best_ask"] + 1e-9
    won, trips = _trips(fills)
    n = len(states)
    annual = math.sqrt(365 * 86_400 / result.interval)
    skew, kurtosis = stats.skew(profits), stats.kurtosis(profits, fisher=False)
    sharpe = mean / deviation
    tries, g = result.tries, 0.5772156649015329
    hurdle = (
        (1 - g) * stats.norm.ppf(1 - 1 / tries) + g * stats.norm.ppf(1 - 1 / tries / math.e)
    ) / math.sqrt(len(profits) - 1)
    z = (sharpe - hurdle) * math.sqrt(len(profits) - 1)
    found = {
        "profit": total,
        "total_return": total / result.capital,
        "spread_capture": capture,
        "adverse_selection": adverse,
        "carry": total + fees - capture - adverse,
        "fees": fees,
        "sharpe": sharpe,
        "sharpe_annual": sharpe * annual,
        "sortino": mean / downside,
        "deflated_sharpe": stats.norm.cdf(z / math.sqrt(1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2)),
        "max_drawdown": low,
        "max_drawdown_fraction": fraction,
        "value_at_risk": -np.percentile(profits, 5),
        "expected_shortfall": -sum(worst) / len(worst),
        "win_rate": won / trips,
        "trips": trips,
        "fills": len(fills),
        "turnover": turnover,
        "profit_bp": 1e4 * total / turnover,
        "captured_bp": 1e4 * capture / turnover,
        "fill_ratio": fills["lots"].sum() / orders["lots"].sum(),
        "no_bid": states["bid"].isna().mean(),
        "no_ask": states["ask"].isna().mean(),
        "quoted_both": (states["bid"].notna() & states["ask"].notna()).mean(),
        "touch_bid": at_bid.sum() / len(book) if len(book) else math.nan,
        "touch_ask": at_ask.sum() / len(book) if len(book) else math.nan,
        "touch_both": (at_bid & at_ask).sum() / len(book) if len(book) else math.nan,
        "mean_inventory": held.abs().mean(),
        "profit_to_inventory": total / held.abs().mean(),
        "participation": fills["lots"].sum() / (states["market_buy_lots"] + states["market_sell_lots"]).sum(),
        **{
            name: (states["risk_state"] == k).sum() / n
            for k, name in enumerate(("active", "reducing", "halted"))
        },
    }
    assert held.abs().max() <= limit
    assert orders["filled_lots"].sum() <= fills["lots"].sum()
    return found


def _trips(fills: pd.DataFrame) -> tuple[int, int]:
    """Round trips that won, and all: each lot is a fill of its own."""
    won = trips = 0
    for _, path in fills.groupby("path"):
        position, profit = 0, 0.0
        for fill in path.to_dict("records"):
            for _ in range(fill["lots"]):
                position += fill["side"]
                profit -= (
                    fill["side"] * fill["size"] / fill["lots"] * fill["price"] + fill["fee"] / fill["lots"]
                )
                if position == 0:
                    won, trips, profit = won + (profit > 0), trips + 1, 0.0
    return won, trips


UNTESTED = {"half_life", "trip_seconds"}
"""Checked against processes of known half-life and trips of known length below."""


@pytest.mark.parametrize("kind", ["recorded", "simulated"])
@pytest.mark.parametrize("name", ["first", "second"])
def test_every_figure_from_what_is_saved(request, monkeypatch, kind, name):
    monkeypatch.setattr(intervals, "RATIO_SECONDS", 0.0)  # so that figures of minutes are there to compare
    found = Result(request.getfixturevalue("result" if kind == "recorded" else "simulated").folder)
    ours, theirs = found.figures[name], recomputed(found, name)
    assert set(theirs) == set(ours) - UNTESTED
    for figure, value in theirs.items():
        assert ours[figure].value == pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True), figure


@pytest.mark.parametrize("kind", ["recorded", "simulated"])
def test_markouts_from_what_is_saved(request, kind):
    """A mark is the mid of the states that much later, where the path goes on that long."""
    found = request.getfixturevalue("result" if kind == "recorded" else "simulated")
    for run in found.runs.values():
        states, fills = run.table("states", ["path", "time_ns", "mid"]), run.fills
        mids = {(p, t): m for p, t, m in states[["path", "time_ns", "mid"]].itertuples(index=False)}
        known = 0
        for horizon in found.horizons:
            for fill in fills.to_dict("records"):
                # The mid after the last decision is in no state; a mark there is known all the same.
                later = mids.get((fill["path"], fill["time_ns"] + round(horizon * 1e9)))
                if later is not None:
                    assert fill[f"mid_after_{horizon:g}s"] == pytest.approx(later)
                    known += 1
            curve = found.markout(run, horizon, 1).value
            some = fills[(fills["side"] == 1) & fills[f"mid_after_{horizon:g}s"].notna()]
            by_hand = (some["size"] * (some[f"mid_after_{horizon:g}s"] - some["price"])).sum()
            money = (some["size"] * some["price"]).sum()
            assert curve == pytest.approx(1e4 * by_hand / money, rel=1e-9)
        assert known > 50


def test_against_an_independent_library(result):
    """Sharpe, Sortino, drawdown, value at risk and shortfall as empyrical computes them."""
    empyrical = pytest.importorskip("empyrical")
    profits = result.samples["second"].sums["profit"]
    capital = 10.0
    value = capital + np.concatenate([[0], np.cumsum(profits)])
    growth = np.diff(value) / value[:-1]
    drawdown = metrics.max_drawdown_fraction(np.cumsum(profits), capital)
    assert drawdown == pytest.approx(-empyrical.max_drawdown(growth))
    returns = profits / capital
    assert metrics.sharpe(profits) == pytest.approx(empyrical.sharpe_ratio(returns, annualization=1))
    assert metrics.sortino(profits) == pytest.approx(empyrical.sortino_ratio(returns, annualization=1))
    assert metrics.value_at_risk(profits) == pytest.approx(-capital * empyrical.value_at_risk(returns))
    ours = metrics.expected_shortfall(profits)
    theirs = -capital * empyrical.conditional_value_at_risk(returns)
    assert ours == pytest.approx(theirs, rel=0.15)  # its tail has one interval more, where n / 20 is whole


# Statistics of known value.


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from([-1, 1]), st.integers(1, 5), st.integers(90, 110)), min_size=1, max_size=60
    )
)
def test_round_trips_lot_by_lot(steps):
    side, lots, price = (np.array(column) for column in zip(*steps, strict=True))
    fills = pd.DataFrame({"side": side, "lots": lots, "size": lots * 0.5, "price": price * 1.0, "path": 0})
    fills["time_ns"], fills["fee"] = np.arange(len(fills)) * 10**9, lots * 0.01
    trips = metrics.round_trips(fills)
    won, count = _trips(fills)
    assert len(trips.profits) == count
    assert int((trips.profits > 0).sum()) == won
    position = np.cumsum(side * lots)
    if count and position[-1] == 0:
        cash = -(fills["side"] * fills["size"] * fills["price"]).sum() - fills["fee"].sum()
        assert trips.profits.sum() == pytest.approx(cash)


def test_half_life_of_a_known_process():
    random, rho = np.random.default_rng(0), 0.9
    x = np.zeros(100_000)
    for t in range(1, len(x)):
        x[t] = rho * x[t - 1] + random.normal()
    assert metrics.half_life(x, 2.0) == pytest.approx(-2 * math.log(2) / math.log(rho), rel=0.05)
    assert math.isnan(metrics.half_life(np.zeros(50), 1.0))


def test_intervals_cover_the_truth():
    """Blocks cover the mean of a dependent series about as often as they say; single draws do not."""
    random = np.random.default_rng(1)
    inside = blind = 0
    for k in range(200):
        noise = random.normal(size=1200)
        series = np.convolve(noise, [1, 0.7, 0.5, 0.3], "full")[:1200]
        found = intervals.bootstrap(lambda x: x.mean(axis=-1), [series], resamples=300, seed=k)
        inside += found.low <= 0 <= found.high
        alone = 1.96 * series.std() / math.sqrt(1200)
        blind += abs(series.mean()) <= alone
    assert 0.91 < inside / 200 < 0.99
    assert blind / 200 < 0.8


@pytest.mark.parametrize(
    ("rho", "n", "length"), [(0.0, 200, 4.92), (0.5, 500, 11.10), (0.9, 2000, 61.42), (-0.4, 300, 17.63)]
)
def test_block_lengths_are_those_of_the_library_arch(rho, n, length):
    """`arch.bootstrap.optimal_block_length`, version 8.0, of the same series (circular)."""
    noise = np.random.default_rng(1).normal(size=n + 100)
    series = np.zeros(n + 100)
    for k in range(1, n + 100):
        series[k] = rho * series[k - 1] + noise[k]
    assert intervals.block_length(series[100:]) == math.ceil(length)


def test_block_lengths_are_those_of_the_theory():
    """Politis and White (2004), AR(1) of coefficient r: (6 r^2 / (1 - r^2)^2 n)^(1/3) for circular blocks."""
    lengths = []
    for seed in range(20):
        noise, series = np.random.default_rng(seed).normal(size=20_000), np.zeros(20_000)
        for k in range(1, len(series)):
            series[k] = 0.7 * series[k - 1] + noise[k]
        lengths.append(intervals.block_length(series))
    assert np.median(lengths) == pytest.approx((6 * 0.49 / 0.51**2 * 20_000) ** (1 / 3), rel=0.1)


def test_a_ratio_needs_an_hour():
    """Minutes show one level of activity: they have an interval of the mean, none of mean over deviation."""
    profits = np.random.default_rng(0).normal(0.1, 1.0, 3600)
    assert math.isfinite(intervals.bootstrap(lambda x: x.mean(axis=-1), [profits[:3599]]).low)
    short, long = (intervals.bootstrap_ratio(metrics.sharpe, [profits[:n]], 1.0) for n in (3599, 3600))
    assert show(short, "").endswith("(too short)")
    assert long.low < 0.1 < long.high


def test_a_handful_of_fills_has_no_interval():
    """What two or nine fills earned per turnover says nothing of the next; nothing done earns 0 surely."""

    def earned(fills: int) -> intervals.Estimate:
        turnover = np.zeros(1000)
        turnover[np.arange(fills) * 100] = 1.0
        return intervals.bootstrap(
            lambda a, b: a.sum(axis=-1) / b.sum(axis=-1), [0.3 * turnover + 1e-9, turnover]
        )

    assert show(earned(2), "").endswith("(too short)")
    assert show(earned(9), "").endswith("(too short)")
    assert earned(10).low == pytest.approx(earned(10).high, rel=1e-3)
    assert intervals.bootstrap(lambda a: a.sum(axis=-1), [np.zeros(1000)]) == (0.0, 0.0, 0.0)


def test_fewer_than_thirty_blocks_are_too_short(store, tmp_path):
    """No interval, no annual ratio and no value at risk, and the tear sheet says so."""
    config = recorded(store)
    chosen = Settings(jobs=1, sensitivity=False, end="2024-08-09T01:00:20")
    entrants = [Entrant(Make("a"), config), Entrant(Make("b", "Wandering"), config)]
    few = backtest(entrants, tmp_path / "it", chosen, progress=False)
    figures = few.figures["a"]
    for name in ("sharpe_annual", "value_at_risk", "expected_shortfall", "deflated_sharpe"):
        assert show(figures[name], FIGURES[name][1]) == "too short"
    for found in (figures["profit"], few.difference("b")["profit"]):
        assert math.isfinite(found.value)
        assert math.isnan(found.low)
        assert show(found, "money").endswith("(too short)")


def test_deflated_sharpe_of_the_published_example():
    """Bailey and Lopez de Prado (2014), section "A numerical example": 0.9004 for 100 tries."""
    # Annual 2.5, 5 years of 250 days, skewness -3, kurtosis 10, variance of the tries 1/2 (annual).
    ratio, n = 2.5 / math.sqrt(250), 1250
    hurdle = metrics.best_of(100, math.sqrt(0.5 / 250))
    assert hurdle == pytest.approx(0.1132, abs=1e-4)
    z = (ratio - hurdle) * math.sqrt(n - 1) / math.sqrt(1 + 3 * ratio + (10 - 1) / 4 * ratio**2)
    assert stats.norm.cdf(z) == pytest.approx(0.9004, abs=2e-4)
    profits = np.random.default_rng(0).normal(0.1, 1, 500)
    chances = [metrics.deflated_sharpe(profits, tries) for tries in (1, 10, 1000)]
    assert chances[0] > chances[1] > chances[2]


# Resuming, bad input.


def test_what_is_done_is_not_done_again(store, tmp_path):
    config = recorded(store)
    chosen = Settings(jobs=1, sensitivity=False)
    entrants = [Entrant(Make("it"), config)]
    whole = backtest(entrants, tmp_path / "a", chosen, progress=False)
    # One unit is missing, as if the run had been killed in it; another folder for what is compared with.
    lost = sorted((tmp_path / "a" / "units").glob("*.json"))[1]
    kept = sorted((tmp_path / "a" / "units").glob("*.json"))[0]
    before = whole.summary()
    lost.unlink()
    (tmp_path / "a" / "plan.json").unlink()
    with pytest.raises(ConfigError, match="no finished backtest"):
        Result(tmp_path / "a")
    old = kept.stat().st_mtime_ns
    again = backtest(entrants, tmp_path / "a", chosen, progress=False)
    assert again.summary() == before
    assert kept.stat().st_mtime_ns == old
    assert lost.exists()
    with pytest.raises(ConfigError, match="holds another backtest"):
        backtest([Entrant(Make("it", parameters=(*GLFT.items(),)[:0]), config)], tmp_path / "a", chosen)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("Raises", "raised KeyError: 'no such thing' at decision 0"),
        ("Misshapen", r"must return \(actions, state\) with actions of shape \(144, 2\)"),
        ("Endless", "took more than 0.2 s at decision 0"),
    ],
)
def test_a_policy_that_cannot_be_played_is_a_sentence(tmp_path, kind, said):
    config = make_config("hidden-regime", horizon=60)
    chosen = Settings(jobs=1, days=0.1, patience=0.2)
    with pytest.raises(BacktestError, match=said):
        backtest([Entrant(Make("it", kind), config)], tmp_path, chosen, progress=False)
    assert not list((tmp_path / "units").glob("*"))


def test_ranges_and_settings_are_checked(store, tmp_path):
    entrant = Entrant(Make("it"), recorded(store))
    for given_, said in (
        ({"start": "2031-01-01"}, "holds no decision.*2024-08-09"),
        ({"start": "soon"}, "must be a time"),
        ({"start": "2024-08-10", "end": "2024-08-09"}, "after start"),
    ):
        with pytest.raises(ConfigError, match=said):
            units([entrant], Settings(**given_))
    for bad, said in (({"days": 0.0}, "days"), ({"tries": 0}, "tries"), ({"jobs": 0}, "jobs")):
        with pytest.raises(ConfigError, match=said):
            Settings(**bad)
    with pytest.raises(ConfigError, match="named twice"):
        units([entrant, entrant], Settings())
    other = Entrant(Make("other"), make_config("brownian"))
    with pytest.raises(ConfigError, match="markets differ"):
        units([entrant, other], Settings())
    with pytest.raises(ConfigError, match="not observed"):
        backtest([entrant], tmp_path, Settings(signal="luck", jobs=1), progress=False)


def test_a_range_is_kept(store):
    entrant = Entrant(Make("it"), recorded(store))
    found = units([entrant], Settings(start="2024-08-10T01:00:30", end="2024-08-10T01:01", sensitivity=False))
    assert [unit.labels["day"] for unit in found] == ["2024-08-10"]
    rows = play(Make("it").make(found[0].config), "it", found[0].config).rows
    assert len(rows) == 300
    assert str(rows["time_ns"][0].astype("M8[ns]")).startswith("2024-08-10T01:00:30")


def test_the_command(store, tmp_path, monkeypatch, capsys):
    """Policies by name with parameters, and from a user's module; the table and the files."""
    (tmp_path / "near_mid.py").write_text(
        "import numpy as np\n"
        "class Near:\n"
        "    def __init__(self, config): pass\n"
        "    def reset(self, n): return None\n"
        "    def act(self, o, s): return np.tile(np.float32([-0.9, 0]), (len(o), 1)), s\n"
    )
    command = ["fixed-spread:half_spread=1", "near_mid:Near", str(store), "--no-sensitivity", "--jobs", "1"]
    monkeypatch.chdir(tmp_path)
    assert neuralmm(monkeypatch, "backtest", *command, "--fees", "1", "--out", "out") is None
    assert "tear sheet: out/report.html" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["figures"]) == {"fixed-spread", "Near"}
    assert set(summary["differences"]) == {"Near"}
    fills = pd.read_parquet(tmp_path / "out" / "fills")
    assert len(fills) == sum(f["fills"]["value"] for f in summary["figures"].values())


@pytest.fixture(scope="module")
def coin_result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Random quotes on a capture of a contract margined in coin, 100 dollars each."""
    from mmenv.data.importer import Import

    folder = tmp_path_factory.mktemp("coin")
    lines = market(seconds=100, seed=5, venue="coinm", volatile=0.9).lines
    Import("binance", (write(folder / "capture.gz", lines),), folder / "store", progress=False).run()
    config = make_config(Replay(store=str(folder / "store"), split="all"), horizon=200)
    return backtest(
        [Entrant(Make("a", "Wandering"), config)],
        folder / "results",
        Settings(jobs=1, sensitivity=False),
        progress=False,
    )


def trips_in_coin(signed: np.ndarray, prices: np.ndarray, fee_bp: float) -> list[float]:
    """Round trips of single contracts of 100 dollars, lot by lot."""
    found, position, coin = [], 0, 0.0
    for lots, price in zip(signed.tolist(), prices.tolist(), strict=True):
        for _ in range(abs(lots)):
            position += 1 if lots > 0 else -1
            coin += (100.0 if lots > 0 else -100.0) / price - 1e-4 * fee_bp * 100.0 / price
            if position == 0:
                found.append(coin)
                coin = 0.0
    return found


def test_an_inverse_contract_is_counted_in_coin(coin_result: Result) -> None:
    """Profit, fees, turnover, round trips and marks from dollars and prices, by their own formulas."""
    run, figures = coin_result.first, coin_result.figures["a"]
    fills, states, equity = run.fills, run.table("states"), run.equity
    assert coin_result.currency == "BTC"
    assert len(fills) > 20
    assert fills["price"].min() > 100  # shown in dollars
    signed = (fills["side"] * fills["lots"]).to_numpy()
    price, mark = fills["price"].to_numpy(), float(equity["mid"].iloc[-1])
    traded = 100.0 * fills["lots"] / price
    fees = float(traded.sum()) * run.units[0]["maker_fee_bp"] * 1e-4
    assert fees > 0
    assert figures["turnover"].value == pytest.approx(traded.sum(), rel=1e-12)
    assert figures["fees"].value == pytest.approx(fees, rel=1e-9)
    profit = 100.0 * float((signed * (1 / price - 1 / mark)).sum()) - fees
    assert figures["profit"].value == pytest.approx(profit, rel=1e-8)
    parts = {name: figures[name].value for name in ("spread_capture", "adverse_selection", "carry")}
    assert sum(parts.values()) - fees == pytest.approx(profit, rel=1e-8)
    capture = float((100.0 * signed * (1 / price - 1 / fills["mid"])).sum())
    assert parts["spread_capture"] == pytest.approx(capture, rel=1e-6)
    assert parts["spread_capture"] == pytest.approx(float(equity["spread_capture"].iloc[-1]), rel=1e-6)
    after = states["position_lots"].to_numpy()
    held = 100.0 * after[1:] * (1 / states["mid"].to_numpy()[:-1] - 1 / states["mid"].to_numpy()[1:])
    # What is held at a decision came from the position before it, whose move is carry.
    assert parts["carry"] + parts["adverse_selection"] == pytest.approx(
        float(
            held.sum() + 100.0 * equity["position_lots"].iloc[-1] * (1 / states["mid"].iloc[-1] - 1 / mark)
        ),
        abs=1e-9,
    )
    assert run.trips.profits == pytest.approx(trips_in_coin(signed, price, run.units[0]["maker_fee_bp"]))
    assert len(run.trips.profits) > 3
    _, money, marks = run.markouts(1.0)
    some = fills[fills["mid_after_1s"].notna()]
    expected = 1e4 * some["side"] * (1 - some["price"] / some["mid_after_1s"])
    assert marks == pytest.approx(expected.to_numpy())
    assert money == pytest.approx((100.0 * some["lots"] / some["price"]).to_numpy())
    limit = run.units[0]["position_limit"]
    assert coin_result.capital == pytest.approx(limit * 100.0 / states["mid"].iloc[0])


# Several orders a side.


@pytest.fixture(scope="module")
def laddered(store, tmp_path_factory) -> Result:
    """A ladder of three orders a side on two days of tape."""
    config = recorded(store, quote={"name": "ladder", "levels": 3, "max_step": 4.0})
    risk = dataclasses.replace(config.risk, order_lots=5, position_limit=20)
    config = dataclasses.replace(config, horizon=400, risk=risk)
    numbers = ("low", (-1.0, -0.1, -1.0, -1.0, -1.0, -1.0)), ("high", (-0.9, 0.1, -0.7, -0.7, 1.0, 1.0))
    entrant = Entrant(Make("it", "Steady", numbers), config)
    chosen = Settings(jobs=1, sensitivity=False)
    return backtest([entrant], tmp_path_factory.mktemp("laddered") / "it", chosen, progress=False)


def test_each_order_of_a_ladder_has_its_row(laddered):
    """Orders recounted from the states in plain Python: kept at their price, filled from the nearest on."""
    run = laddered.first
    states, orders = run.table("states").to_dict("records"), run.table("orders")
    counted: list[list[float]] = []
    for side, name in ((1, "bid"), (-1, "ask")):
        live: list[list[float]] = []
        path = -1
        for row in states:
            live = live if row["path"] == path else []
            path, asked, now = row["path"], [], []
            for k in (1, 2, 3):
                if row[f"{name}_{k}_lots"]:
                    asked.append((row[f"{name}_{k}"], row[f"{name}_{k}_lots"]))
            assert row[f"{name}_lots"] == sum(lots for _, lots in asked)
            assert not asked or row[name] == asked[0][0]
            for price, lots in asked:
                same = [o for o in live if o[1] == price and o[2] > o[3] and lots in (o[2], o[2] - o[3])]
                order = same[0] if same else [side, price, lots, 0]
                if not same:
                    counted.append(order)
                now.append(order)
            live, filled = now, row[f"{name}_filled_lots"]
            for order in live:
                part = min(order[2] - order[3], filled)
                order[3], filled = order[3] + part, filled - part
            if live:
                live[0][3] += filled
    saved = orders[["side", "price", "lots", "filled_lots"]].to_numpy()
    assert len(counted) > 200
    assert sorted(map(tuple, saved.tolist())) == sorted(map(tuple, counted))
    assert (orders["filled_lots"] > 0).sum() > 20
    assert max(row["ask_2_ahead"] for row in states if row["ask_2_ahead"] == row["ask_2_ahead"]) > 0
    assert run.counts["ordered_lots"] == orders["lots"].sum()


@pytest.mark.parametrize("name", ["brownian", "book"])
def test_orders_of_simulated_sessions_stand_beside_their_decisions(name, monkeypatch):
    """Played in batches of two sessions: every row has the lots of its side and its nearest distance."""
    monkeypatch.setattr("mmenv.backtest.play.MOST_LANES", 2)
    quote = {"name": "ladder", "levels": 3}
    config = make_config(name, horizon=60, quote=quote, risk={"order_lots": 5, "position_limit": 20})
    policy = Steady((-1.0, -0.1, -1, -1, -1, -1), (-0.6, 0.1, -0.8, -0.8, 1, 1))
    played = play(policy, "it", config, seeds=range(5))
    assert played.orders.shape == (300, 2, 3, 3)
    for at, side in enumerate(("ask", "bid")):
        distance, lots, _ = np.moveaxis(played.orders[:, at], -1, 0)
        assert (lots.sum(axis=1) == played.rows[f"{side}_lots"]).all()
        quoted = played.rows[f"{side}_lots"] > 0
        assert (distance[:, 0] == played.rows[f"{side}_distance"])[quoted].all()
    orders = orders_of(played, config, Scale(price=1.0, lot=1.0, currency="pu", tick=0.0))
    filled = (played.rows["ask_fill"] + played.rows["bid_fill"]).sum()
    assert (played.orders[:, :, 1, 1] > 0).any()
    assert 0 < orders["filled_lots"].sum() <= filled
    if name == "brownian":  # nothing is on its way there: every lot is of an order that stood
        assert orders["filled_lots"].sum() == filled
        assert (orders["filled_lots"] <= orders["lots"]).all()


def test_the_sheet_draws_each_order_of_a_ladder(laddered):
    from mmenv.report.portrait import busiest, close_up

    run = laddered.first
    states, _ = busiest(run)
    drawn = {trace["name"]: trace for trace in close_up(laddered, run)["data"]}
    for side in ("bid", "ask"):
        for k, name in ((1, f"our {side}"), (2, f"our {side}, 2"), (3, f"our {side}, 3")):
            shown = [math.nan if y is None else y for y in drawn[name]["y"]]
            assert shown == pytest.approx(states[f"{side}_{k}"].tolist(), nan_ok=True, rel=1e-9)
            lots = [int(text.split()[0]) if text else 0 for text in drawn[name]["text"]]
            assert lots == states[f"{side}_{k}_lots"].tolist()
    assert states["ask_2"].notna().sum() > 20


def test_one_level_leaves_what_one_order_a_side_leaves(store):
    """The states and orders of a ladder of one level are those of spread and skew, and no more."""
    found = []
    for quote, more in (({"name": "spread-skew"}, ()), ({"name": "ladder", "levels": 1}, (0.0,) * 4)):
        entrant = Entrant(Make("it"), recorded(store, quote=quote))
        config = units([entrant], Settings(sensitivity=False))[0].config
        played = play(Steady((-1.0, -0.1, *more), (-0.6, 0.1, *more)), "it", config)
        scale = Scale(price=0.05, lot=0.001, currency="USDT", tick=0.1)
        tables = states_of(played, scale) | columns_of(played, scale), orders_of(played, config, scale)
        found.append([{name: column.tobytes() for name, column in table.items()} for table in tables])
    assert found[0] == found[1]
