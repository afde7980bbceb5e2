"""What the desk promises: exact money, hard limits, honest features, the markets as they are written."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit, vectorize
from scipy import stats

from mmenv import make_config
from mmenv.config import EnvConfig
from mmenv.desk.desk import Desk
from mmenv.engine import maths
from mmenv.engine.rng import philox, xoroshiro
from mmenv.engine.state import FEE_DIGITS, HALTED, LEDGER, REDUCING
from mmenv.observation import observation_names

MARKETS = ("brownian", "hidden-regime", "correlated", "bursts")
GROUPS = ("order_flow", "trade_book", "inventory", "clock")


def record(desk: Desk, actions: np.ndarray, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Run (T, n, 2) actions; the named core fields after each step, (T, n), and the published arrays."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in (*fields, "observation", "reward", "ledger")}
    for action in actions:
        step = desk.step(np.ascontiguousarray(action, np.float32))
        for name in fields:
            rows[name].append(desk.get(name).astype(np.int64))
        rows["observation"].append(step.observations)
        rows["reward"].append(step.rewards)
        rows["ledger"].append(step.ledger.T)
    return {name: np.stack(values) for name, values in rows.items()}


def started(config: EnvConfig, n: int, seed: int) -> Desk:
    desk = Desk(config, n, autoreset=False)
    desk.seed(range(seed, seed + n))
    desk.reset()
    return desk


@settings(max_examples=30, deadline=None)
@given(
    market=st.sampled_from(MARKETS),
    seed=st.integers(0, 2**40),
    fee=st.floats(-5, 5),
    lots=st.integers(1, 4),
    start=st.integers(0, 10),
    spread=st.floats(-1, 1),
)
def test_identity_to_the_last_bit(market, seed, fee, lots, start, spread):
    """Spread capture + adverse selection + carry - fees = change of wealth, recounted from the fills."""
    config = make_config(
        market, maker_fee_bp=round(fee, 2), risk={"order_lots": lots}, start_inventory=start, horizon=60
    )
    desk = started(config, 20, seed)
    mid, position = desk.get("mid").astype(np.int64), desk.get("position").astype(np.int64)
    first = position * mid
    cash, fees = np.zeros(20, np.int64), np.zeros(20, np.int64)
    random = np.random.default_rng(seed)
    actions = np.clip(random.normal(spread, 0.7, (60, 20, 2)), -1, 1)
    fields = ("mid", "position", "ask_fill", "bid_fill", "ask_distance", "bid_distance", "pnl", "fees", "fee",
              "spread_capture", "adverse_selection", "carry")  # fmt: skip
    steps = record(desk, actions, fields)
    for t in range(60):
        s = {name: steps[name][t] for name in fields}
        asked, bid = mid + s["ask_distance"], mid - s["bid_distance"]
        assert (asked % 2 == 0).all()
        assert (bid % 2 == 0).all()
        assert (bid < asked).all()
        cash += s["ask_fill"] * asked - s["bid_fill"] * bid
        fees += (s["ask_fill"] * asked + s["bid_fill"] * bid) * round(round(fee, 2) * 1e-4 * FEE_DIGITS)
        position += s["bid_fill"] - s["ask_fill"]
        mid = s["mid"]
        assert (position == s["position"]).all()
        assert (s["pnl"] == cash + position * mid - first).all()
        assert (s["fees"] == fees).all()
    terms = steps["spread_capture"] + steps["adverse_selection"] + steps["carry"]
    assert (terms.sum(axis=0) == steps["pnl"][-1]).all()
    ledger = dict(zip(LEDGER, np.moveaxis(steps["ledger"], 2, 0), strict=True))
    r = config.reward
    expected = (
        ledger["spread_capture"] + ledger["adverse_selection"] + ledger["carry"] - ledger["fees"]
    ) - ledger["inventory_penalty"]
    np.testing.assert_allclose(steps["reward"], expected, rtol=1e-12, atol=1e-9)
    square = steps["position"].astype(float) ** 2
    penalty = r.inventory_penalty * config.market.step_seconds * square
    penalty[-1] += r.terminal_penalty * square[-1]
    np.testing.assert_allclose(ledger["inventory_penalty"], penalty, rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    limit=st.integers(1, 6),
    lots=st.integers(1, 6),
    loss=st.floats(0.5, 20),
    garbage=st.lists(
        st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -1.0]), min_size=2, max_size=8
    ),
)
def test_limits_hold_whatever_the_policy_says(seed, limit, lots, loss, garbage):
    config = make_config(
        "hidden-regime",
        horizon=120,
        risk={"position_limit": limit, "order_lots": min(lots, limit), "daily_loss_limit": loss},
    )
    desk = started(config, 16, seed)
    random = np.random.default_rng(seed)
    actions = random.uniform(-1, 0, (120, 16, 2)).astype(np.float32)
    hit = random.random(actions.shape) < 0.2
    actions[hit] = random.choice(np.array(garbage, np.float32), hit.sum())
    halted, before = np.zeros(16, bool), desk.get("position").astype(np.int64)
    for action in actions:
        desk.step(action)
        lots_out = desk.get("ask_lots"), desk.get("bid_lots")
        position, state = desk.get("position").astype(np.int64), desk.get("risk_state")
        finite = np.isfinite(action).all(axis=1)
        assert (np.abs(position) <= limit).all()
        assert (lots_out[0][~finite] == 0).all()
        assert (lots_out[1][~finite] == 0).all()
        assert (state[halted] == HALTED).all()
        halted |= state == HALTED
        assert (lots_out[0] + lots_out[1])[halted].sum() == 0
        reducing = state == REDUCING
        assert (np.abs(position) <= np.abs(before))[reducing | halted].all()
        before = position


def test_risk_states_are_reached():
    """The property above would hold for a desk that never leaves ACTIVE."""
    config = make_config("brownian", risk={"daily_loss_limit": 5.0, "reducing_at": 0.5}, start_inventory=10)
    desk = started(config, 64, 0)
    seen = set()
    for _ in range(100):
        desk.step(np.full((64, 2), -0.8, np.float32))
        seen |= set(desk.get("risk_state").tolist())
    assert seen == {0, REDUCING, HALTED}


@settings(max_examples=200, deadline=None)
@given(
    market=st.sampled_from(MARKETS),
    ask=st.floats(0, 6),
    bid=st.floats(0, 6),
)
def test_any_pair_of_distances_can_be_quoted(market, ask, bid):
    """With the default box, `to_action` inverts the desk's mapping, up to outward rounding to a tick."""
    config = make_config(market)
    desk = started(config, 1, 1)
    desk.step(config.quote.to_action(np.array([ask]), np.array([bid])))
    unit = config.market.price_scale
    quoted_ask, quoted_bid = desk.get("ask_distance")[0] / unit, desk.get("bid_distance")[0] / unit
    tick, rounding = 2 / unit, 2e-6
    assert ask - rounding <= quoted_ask <= ask + 2 * tick
    assert bid - rounding <= quoted_bid <= bid + tick + rounding


@pytest.mark.parametrize("market", MARKETS)
def test_features_by_an_independent_implementation(market):
    """Every entry of the observation, recomputed with pandas from the events alone."""
    config = make_config(market, horizon=250, start_inventory=3, features=GROUPS)
    desk = started(config, 5, 7)
    held0 = desk.get("position").astype(float)
    actions = np.random.default_rng(3).uniform(-1, 0, (250, 5, 2))
    fields = ("mid", "move", "buy_lots", "sell_lots", "trades", "position")
    fields += ("ask_fill", "bid_fill", "ask_edge", "bid_edge")
    steps = record(desk, actions, fields)
    unit = config.market.price_scale
    for lane in range(5):
        s = pd.DataFrame({name: steps[name][:, lane] for name in fields}).astype(float)
        move, mid = s.move / unit, s.mid / unit
        lots = s.buy_lots + s.sell_lots
        last20 = move.rolling(20, min_periods=1)
        value = (lots * (mid - move)).rolling(20, min_periods=1).sum()
        volume = lots.rolling(20, min_periods=1).sum()
        last100 = lots.rolling(100, min_periods=1).sum() / s.trades.rolling(100, min_periods=1).sum()
        volatility = np.sqrt((move**2).rolling(20, min_periods=1).mean())
        trade = s.trades > 0
        gap = trade.groupby(trade.cumsum()).cumcount() + (trade.cumsum() == 0)
        entry, held = position_history(s, held0[lane], unit)
        expected = {
            "flow_imbalance": (s.buy_lots - s.sell_lots) / lots.clip(lower=1),
            "return": move,
            "return_mean": last20.mean() * np.sqrt(20),
            "return_std": last20.std(ddof=0),
            "vwap_deviation": ((mid - value / volume.clip(lower=1)) / np.sqrt(20)).where(volume > 0, 0.0),
            "spread": 0 * mid,
            "spread_mean": 0 * mid,
            "volume": lots / config.market.lot_scale,
            "trade_size": (lots / s.trades.clip(lower=1) / last100).where(trade, 0.0),
            "trade_gap": gap * 0.1,
            "book_imbalance": 0 * mid,
            "volatility": volatility,
            "inventory": s.position / config.risk.position_limit,
            "unrealised": s.position / config.risk.position_limit * entry,
            "holding_time": held / config.horizon,
            "entry_gap": entry,
            "risk_exposure": s.position.abs()
            * volatility
            * np.sqrt(config.horizon)
            / config.risk.daily_loss_limit,
            "time_left": pd.Series(np.arange(249, -1, -1) / 250),
        }
        assert tuple(expected) == observation_names(config)
        for column, (name, values) in enumerate(expected.items()):
            found = steps["observation"][:, lane, column]
            low, high = (-10, 10) if name not in ("holding_time",) else (0, 1)
            np.testing.assert_allclose(found, np.clip(values, low, high), rtol=2e-4, atol=2e-4, err_msg=name)


def position_history(s: pd.DataFrame, position: float, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Mid minus average entry price (price units) and steps held, by plain bookkeeping."""
    entry, held = [], []
    gap, steps = 0.0, 0
    for row in s.itertuples():
        net = row.bid_fill - row.ask_fill
        after = position + net
        bought, sold = row.bid_edge / max(row.bid_fill, 1) / unit, -row.ask_edge / max(row.ask_fill, 1) / unit
        new = bought if net > 0 else sold
        if position * after <= 0:
            gap, steps = new, 0
        else:
            steps += 1
            if abs(after) > abs(position):
                gap = (abs(position) * gap + abs(net) * new) / abs(after)
        gap = gap + row.move / unit if after else 0.0
        position = after
        entry.append(gap)
        held.append(steps)
    return np.array(entry), np.array(held)


@pytest.mark.parametrize("market", MARKETS)
def test_observations_do_not_see_the_future(market):
    """Two desks on one path until the future of one is replaced: nothing differs before, much after."""
    config = make_config(market, features=("order_flow", "trade_book", "inventory", "clock", "tape"))
    ours, other = started(config, 32, 5), started(config, 32, 5)
    actions = np.random.default_rng(0).uniform(-1, 0, (80, 32, 2))
    before = [record(d, actions[:40], ())["observation"] for d in (ours, other)]
    assert before[0].tobytes() == before[1].tobytes()
    now = ours.get("key0")
    other.set("key0", now ^ np.uint32(0xABCDEF))
    after = [record(d, actions[40:], ())["observation"] for d in (ours, other)]
    assert (after[0] != after[1]).any(axis=(0, 2)).all()


def test_autoreset_clears_the_past():
    """The first episode's windows leave no trace in the second: it equals one that started fresh."""
    config = make_config("hidden-regime", horizon=30)
    desk = Desk(config, 9, autoreset=True)
    desk.seed(range(9))
    desk.reset()
    fresh = Desk(config, 9, autoreset=False)
    fresh.seed(range(9))
    fresh.reset()
    actions = np.random.default_rng(0).uniform(-1, 0, (60, 9, 2)).astype(np.float32)
    for action in actions[:30]:
        last = desk.step(action)
    first_of_second = fresh.reset()
    assert last.observations.tobytes() == first_of_second.tobytes()
    for action in actions[30:]:
        a, b = desk.step(action), fresh.step(action)
        assert a.rewards.tobytes() == b.rewards.tobytes()
    assert a.final_observations.tobytes() == b.observations.tobytes()


def test_philox_known_answers():
    """The published test vectors of Random123 for Philox4x32-10."""
    cases = [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]
    philox_here = njit(philox.py_func)  # the function itself can be called by compiled code alone
    for counter, key, expected in cases:
        words = philox_here(*(np.uint32(w) for w in counter), *(np.uint32(w) for w in key))
        assert " ".join(f"{int(w):08x}" for w in words) == expected


def test_xoroshiro():
    """The states behind the published outputs of xoroshiro64*, from state (1, 2); words are ours, uniform."""
    state = np.uint32(1), np.uint32(2)
    for expected in (2654435771, 327208753, 4063491769, 4259754937, 261922412, 168123673):
        assert int(state[0]) * 0x9E3779BB % 2**32 == expected
        a, total = int(state[0]), (int(state[0]) + int(state[1])) % 2**32
        word, *state = xoroshiro(*state)
        assert int(word) == ((total << 17 | total >> 15) + a) % 2**32
    # As the book draws: many short streams, each from words of its own.
    seeds = np.random.default_rng(0).integers(1, 2**32, (2000, 2), dtype=np.uint32)
    words = np.empty((2000, 20), np.uint32)
    for k, state in enumerate(seeds):
        for j in range(20):
            words[k, j], *state = xoroshiro(*state)
    halves = np.stack([words >> 16, words & 0xFFFF])
    for part in (*halves.reshape(2, -1), words[:, 0], words[:, -1] & 0xFF):
        assert stats.kstest(part / (part.max() + 1), "uniform").pvalue > 1e-3
    flat = np.concatenate(list(halves), axis=1).astype(float)
    correlations = np.corrcoef(flat.T)[np.triu_indices(40, 1)]
    assert np.abs(correlations).max() < 4.5 / 2000**0.5


def test_quick_functions():
    generator = np.random.default_rng(0)
    x = np.exp(generator.uniform(-80, 80, 20_000)).astype(np.float32)
    ours = vectorize(maths.quick_log2.py_func)(x).astype(np.float64)
    assert np.abs(ours - np.log2(x.astype(np.float64))).max() < 1.5e-4
    y = generator.uniform(-99, 99, 20_000).astype(np.float32)
    ours = vectorize(maths.quick_exp2.py_func)(y).astype(np.float64)
    assert np.abs(ours / 2.0 ** y.astype(np.float64) - 1).max() < 2e-5


def test_logarithm_and_normal():
    x = np.random.default_rng(0).uniform(2.0**-25, 1.0, 20_000).astype(np.float32)
    ours = vectorize(maths.log.py_func)(x).astype(np.float64)
    assert np.abs(ours - np.log(x.astype(np.float64))).max() < 2e-6
    words = np.random.default_rng(1).integers(0, 2**32, (200_000, 2), dtype=np.uint32)
    draws = vectorize(maths.normal.py_func)(*words.T)
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert abs(draws.var() - 1) < 0.015


def test_brownian_is_as_written():
    """Arrivals, fills by distance and moves against their formulas, within 4 standard errors."""
    config = make_config("brownian", horizon=200)
    n, distance = 512, 0.7
    desk = started(config, n, 0)
    action = np.repeat(config.quote.to_action(np.array([distance]), np.array([distance])), n, axis=0)
    s = record(
        desk, np.repeat(action[None], 200, axis=0), ("buy_lots", "bid_fill", "ask_lots", "ask_fill", "move")
    )
    p = 1 - np.exp(-0.5)
    quoted = s["ask_lots"] > 0
    for sample, expected in (
        (s["buy_lots"], p),
        (s["ask_fill"][quoted], p * np.exp(-distance)),
        ((s["move"] / 4096) ** 2, 1.0),
        (s["move"] / 4096, 0.0),
    ):
        assert abs(sample.mean() - expected) < 4 * sample.std() / np.sqrt(sample.size) + 1e-4


def test_hidden_regime_is_as_written():
    """Flow, sizes and moves given the regime, and the regime's stay, against their formulas."""
    config = make_config("hidden-regime", horizon=200)
    desk = started(config, 512, 0)
    hidden = desk._states[1]
    m = config.market
    rows = []
    for _ in range(200):
        regime = hidden["regime"].reshape(-1)[:512].copy()
        desk.step(np.full((512, 2), np.nan, np.float32))
        after = hidden["regime"].reshape(-1)[:512]
        events = (desk.get(name) for name in ("buy_lots", "sell_lots", "move"))
        rows.append(np.stack([regime, after != regime, *events]))
    z, moved, buy, sell, move = np.concatenate(rows, axis=1)
    w = move / 4096 - m.impact * ((buy > 0) * 1.0 - (sell > 0) * 1.0)
    for state in (-1, 0, 1):
        at = z == state
        large_buy = m.large_informed if state > 0 else m.large
        checks = [
            (moved[at], 1 / m.mean_stay),
            (buy[at] > 0, m.arrival + state * m.tilt),
            (sell[at] > 0, m.arrival - state * m.tilt),
            (buy[at & (buy > 0)] == 2, large_buy),
            (w[at] == 1, m.jump * (1 + m.drift * state)),
            (w[at] == -1, m.jump * (1 - m.drift * state)),
        ]
        for sample, chance in checks:
            assert abs(sample.mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / sample.size) + 1e-6
    assert abs((z == 0).mean() - 0.5) < 0.02


def test_noise_has_mean_zero():
    """The control variate moves no mean: in both markets its average is zero within 4 standard errors."""
    for market in MARKETS:
        desk = started(make_config(market, start_inventory=5), 1024, 3)
        actions = np.random.default_rng(1).uniform(-1, -0.2, (300, 1024, 2))
        noise = record(desk, actions, ())["ledger"][:, :, LEDGER.index("noise")].sum(axis=0)
        assert noise.std() > 5
        assert abs(noise.mean()) < 4 * noise.std() / 32


def test_state_can_be_carried_to_another_desk():
    config = dataclasses.replace(make_config("hidden-regime"), horizon=50)
    ours = Desk(config, 33, autoreset=True)
    ours.seed(range(33))
    ours.reset()
    actions = np.random.default_rng(2).uniform(-1, 0, (70, 33, 2)).astype(np.float32)
    for action in actions[:20]:
        ours.step(action)
    copy = Desk(config, 33, autoreset=True)
    copy.set_state(ours.get_state())
    for action in actions[20:]:
        assert ours.step(action).observations.tobytes() == copy.step(action).observations.tobytes()
