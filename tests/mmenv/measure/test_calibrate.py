"""Calibration finds what a simulated market was made of, and says how sure it is."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tyro
from scipy import stats

from benchmarks.calibration import simulate_hawkes
from mmenv import ConfigError, make_config
from mmenv.data.rows import ROW, TRADE
from mmenv.market.book import LIMITS
from mmenv.measure import large_tick
from mmenv.measure.calibrate import calibrate_market, measure, write
from mmenv.measure.calibrate_page import main
from mmenv.measure.dynamics import PATHS, dynamics
from mmenv.measure.fill_curve import fit_exponential
from mmenv.measure.hawkes import fit_hawkes, hawkes_walk
from mmenv.measure.intervals import Estimate, jackknife
from mmenv.measure.options import Calibrate
from mmenv.measure.orders import fit_pareto, tape_orders
from mmenv.measure.record import record_market
from train.baselines import measured_dynamics


def covered(estimates: list[Estimate], truth: float) -> int:
    return sum(e.low <= truth <= e.high for e in estimates)


def test_brownian_is_found_within_its_intervals():
    """Rate, decay and volatility over 16 seeds: about 95% of the intervals hold the truth."""
    truth = {"arrival_rate": 0.6, "fill_decay": 0.8, "volatility": 1.3}
    market = {"name": "brownian", **truth}
    scale = make_config(market).market.price_scale
    found = [
        measure("brownian", lambda away, s=seed: record_market(market, 4, 400.0, 1000 * s, away))
        for seed in range(16)
    ]
    assert covered([f.fills.rate for f in found], truth["arrival_rate"]) >= 13
    assert covered([f.fills.decay for f in found], truth["fill_decay"] / scale) >= 13
    assert covered([f.volatility["1"] for f in found], truth["volatility"] * scale) >= 13
    assert np.mean([f.fills.p_value < 0.05 for f in found]) < 0.25  # the exponential is the truth here
    presets = [f.presets["brownian"] for f in found]
    in_units = {name: [p[name] for p in presets] for name in truth}
    # Price units of a preset are standard deviations of a move: the products are free of units.
    ratio = np.median(in_units["fill_decay"]) / np.median(in_units["volatility"])
    assert ratio == pytest.approx(truth["fill_decay"] * truth["volatility"], rel=0.05)


def orders_of(rng: np.random.Generator, rate: float, branching, decay, blocks: int = 15) -> list[np.ndarray]:
    """Order times of one recording, cut into blocks of 60 s."""
    times = simulate_hawkes(rng, 60.0 * blocks, rate, branching, decay)
    return [times[times // 60.0 == k] - 60.0 * k for k in range(blocks)]


def test_hawkes_is_found_within_its_intervals():
    """Few series for time; `benchmarks.calibration` counts over many."""
    truth = {"rate": 1.0, "branching": 0.5, "decay": 4.0}
    rng = np.random.default_rng(0)
    found = [fit_hawkes(orders_of(rng, **truth), 60.0) for _ in range(8)]
    assert sum(len(f.decay) == 1 for f in found) >= 7
    single = [f for f in found if len(f.decay) == 1]
    assert covered([f.rate for f in single], truth["rate"]) >= 6
    assert covered([f.branching[0] for f in single], truth["branching"]) >= 6
    assert covered([f.decay[0] for f in single], truth["decay"]) >= 6
    assert sum(f.p_value > 0.01 for f in found) >= 7
    assert sum(f.correlation_p_value > 0.01 for f in found) >= 7


def test_two_exponentials_are_told_from_one():
    """Sums of two kernels: chosen by BIC, found within their intervals; one alone does not describe them."""
    rng = np.random.default_rng(3)
    branching, decay = np.array([0.4, 0.3]), np.array([40.0, 0.7])
    found = [fit_hawkes(orders_of(rng, 1.0, branching, decay), 60.0) for _ in range(4)]
    assert all(len(f.decay) == 2 and f.bic[1] < f.bic[0] and f.ratio_p_value < 1e-3 for f in found)
    assert sum(f.p_value > 0.01 for f in found) >= 3
    for k in range(2):
        assert covered([f.decay[k] for f in found], decay[k]) >= 3
        assert np.median([f.branching[k].value for f in found]) == pytest.approx(branching[k], abs=0.1)


def walk(times: np.ndarray, rate, excitement, decay, blocks=1, joined=None, weights=None, tick=1e-9):
    """Likelihood, gradient and residuals over blocks of 100 s."""
    gradient, residuals = np.zeros(1 + 2 * len(decay)), np.zeros(len(times))
    joined = np.arange(blocks) > 0 if joined is None else np.array(joined)
    weights = np.ones(blocks) if weights is None else np.array(weights, float)
    uniform = np.random.default_rng(0).random(len(times))
    excitement, decay = np.array(excitement), np.array(decay)
    value = hawkes_walk(
        times, joined, weights, 100.0, tick, rate, excitement, decay, uniform, gradient, residuals
    )
    return value, gradient, residuals


def test_the_likelihood_of_order_times():
    """Of a fine clock against the definition; blocks that remember and blocks that do not; residuals."""
    rng = np.random.default_rng(5)
    branching, decay = np.array([0.4, 0.3]), np.array([40.0, 0.7])
    times = simulate_hawkes(rng, 300.0, 1.0, branching, decay)
    ages = times[:, None] - times[None, :]
    excited = sum(
        n * b * np.where(ages > 0, np.exp(-b * np.maximum(ages, 0)), 0)
        for n, b in zip(branching, decay, strict=True)
    )
    fading = sum(n * (1 - np.exp(-b * (300 - times))) for n, b in zip(branching, decay, strict=True))
    expected = np.log((1.0 + excited.sum(axis=1)) * 1e-9).sum() - 300.0 - fading.sum()
    value, _, residuals = walk(times, 1.0, branching, decay, 3)
    assert value == pytest.approx(expected, rel=1e-7)
    parts = [times[times // 100 == k] - 100 * k for k in range(3)]
    apart = [walk(part, 1.0, branching, decay)[0] for part in parts]
    assert walk(times, 1.0, branching, decay, 3, [False] * 3)[0] == pytest.approx(sum(apart))
    assert abs(value - sum(apart)) > 0.01
    weighted = walk(times, 1.0, branching, decay, 3, [False] * 3, [2, 0, 1])[0]
    assert weighted == pytest.approx(2 * apart[0] + apart[2])
    assert stats.kstest(residuals, "expon").pvalue > 0.01
    wrong = walk(times, len(times) / 300, [0.0], [1.0], 3)[2]
    assert stats.kstest(wrong, "expon").pvalue < 0.01


@pytest.mark.parametrize("tick", [1e-9, 0.01])
def test_the_gradient_of_the_likelihood(tick):
    rng = np.random.default_rng(5)
    times = np.unique(simulate_hawkes(rng, 300.0, 1.0, [0.4, 0.3], [40.0, 0.7]) // tick) * tick
    theta = np.array([1.1, 0.35, 0.3, 50.0, 0.6])
    gradient = walk(times, theta[0], theta[1:3], theta[3:], 3, tick=tick)[1]
    for place, slope in enumerate(gradient):
        low, high = (
            walk(times, t[0], t[1:3], t[3:], 3, tick=tick)[0]
            for t in (theta - 1e-5 * np.eye(5)[place], theta + 1e-5 * np.eye(5)[place])
        )
        assert slope == pytest.approx((high - low) / 2e-5, rel=1e-4, abs=1e-3)


def test_a_clock_of_milliseconds_does_not_show():
    """What decays in four ticks is found again, and the residuals pass."""
    rng = np.random.default_rng(6)
    found = [
        fit_hawkes([np.floor(b * 1e3) / 1e3 for b in orders_of(rng, 6.0, 0.3, 270.0)], 60.0, 1e-3)
        for _ in range(4)
    ]
    assert np.mean([f.decay[0].value for f in found]) == pytest.approx(270, rel=0.1)
    assert np.mean([f.branching[0].value for f in found]) == pytest.approx(0.3, abs=0.01)  # 0.32 as ticks
    assert np.mean([f.rate.value for f in found]) == pytest.approx(6.0, rel=0.03)
    assert all(f.p_value > 0.01 and f.correlation_p_value > 0.01 for f in found)


def test_orders_of_several_days():
    """A part runs over the days; prints of one side at one time are one order."""
    rng = np.random.default_rng(6)
    rows = np.zeros(4000, ROW)
    rows["exch_ns"] = np.sort(rng.integers(0, 400_000, len(rows))) * 1_000_000
    rows["kind"], rows["size"], rows["side"] = TRADE, 2, rng.choice((-1, 1), len(rows))
    tape = SimpleNamespace(rows=lambda: iter([rows]))
    orders = tape_orders([tape, tape], 20.0, (0.0, 0.75))  # type: ignore[list-item]
    # 400 s and 200 s, each without its last block, which is not whole.
    assert orders.joined == [False, *(18 * [True]), False, *(8 * [True])]
    assert orders.tick == 1e-3
    since = rows["exch_ns"] - rows["exch_ns"][0]
    assert sum(map(np.sum, orders.lots)) == 2 * ((since < 380e9).sum() + (since < 180e9).sum())
    assert sum(map(len, orders.lots)) < sum(map(np.sum, orders.lots)) / 2
    assert all(0 <= block.min() <= block.max() < 20 for block in orders.times)
    rest = tape_orders([tape, tape], 20.0, (0.75, 1.0))  # type: ignore[list-item]
    assert rest.joined == [False, *(8 * [True])]
    end = since[-1] / 2
    assert sum(map(np.sum, rest.lots)) == 2 * ((since >= end) & (since < end + 180e9)).sum()
    assert all(0 <= block.min() <= block.max() < 20 for block in rest.times)


def means(series: np.ndarray, path: np.ndarray | None = None) -> list[Estimate]:
    """The mean of each row less 100: it is negative, so that no logarithm is taken."""
    path = np.zeros(series.shape[1], int) if path is None else path
    return [jackknife(path, lambda w, x=x: np.array([-100 + w @ x / w.sum()]))[0] for x in series]


def test_intervals_hold_for_a_level_that_wanders():
    """It holds for the market where Student's t does not; without memory it is wider, within reason."""
    rng = np.random.default_rng(2)
    lag = np.abs(np.subtract.outer(np.arange(100), np.arange(100)))
    shared = sum(np.exp(-lag / length) for length in (7, 100, 1200))  # as the activity of `book`
    wandering = rng.multivariate_normal(np.zeros(100), shared + 3 * np.eye(100), 100)
    assert (np.abs(wandering.mean(axis=1)) < 1.98 * stats.sem(wandering, axis=1)).mean() < 0.5
    assert covered(means(wandering), -100) >= 90
    white = rng.normal(size=(100, 100))
    widths = np.array([e.high - e.low for e in means(white)]) / 2
    assert 1.5 < np.median(widths / stats.sem(white, axis=1)) / 1.98 < 3.5


def test_intervals_of_independent_paths_are_those_of_student():
    x = np.random.default_rng(3).normal(size=10)
    [found] = means(x[None], np.arange(10))
    expected = stats.t.interval(0.95, 9, x.mean() - 100, stats.sem(x))
    assert (found.low, found.high) == pytest.approx(expected)


def test_many_cells_are_taken_together():
    x = np.random.default_rng(4).normal(size=(1, 1000))
    calls = []
    jackknife(np.zeros(1000, int), lambda w: np.array([calls.append(w) or w @ x[0]]))
    assert len(calls) == 101
    assert sum(1 - w for w in calls) == pytest.approx(np.ones(1000))


def test_no_interval_where_a_cell_is_indispensable():
    [found] = jackknife(np.zeros(3, int), lambda w: np.array([1.0 if w[0] else np.nan]))
    assert found.value == 1.0
    assert np.isnan([found.low, found.high]).all()


def test_a_file_feeds_the_closed_forms(tmp_path):
    """One implementation: what a calibration says of a market is what baselines would measure of it."""
    market = {"name": "book", "preset": "binance-usdm-btc"}
    path = tmp_path / "book.json"
    found = calibrate_market(market, environments=PATHS, seconds=60.0)
    write(found, path)
    config = make_config(market)
    scale = config.market.price_scale
    assert measured_dynamics(config, path) == dynamics(found.fills, found.volatility, scale)
    assert measured_dynamics(config) == measured_dynamics(config, path)
    with pytest.raises(ConfigError, match=r"calibration = .*neuralmm calibrate"):
        measured_dynamics(config, tmp_path / "nothing.json")


def test_pareto_is_found_within_its_intervals():
    rng = np.random.default_rng(1)
    found = [fit_pareto([1 + rng.pareto(1.7, 60) for _ in range(15)], 1.0) for _ in range(100)]
    assert covered(found, 1.7) >= 85


def test_exponential_needs_fills():
    distance, trials = np.array([0.0, 1.0]), np.array([900.0, 900.0])
    with pytest.raises(ValueError, match="no fill of a lot"):
        fit_exponential(distance, np.array([0.0, 0.0]), trials)
    _, decay, _ = fit_exponential(distance, np.array([50.0, 0.0]), trials)
    assert decay == pytest.approx(np.log(50.5 / 0.5))  # all that is known: it is at least about that


def test_a_calibration_is_a_market(tmp_path, capsys):
    path = tmp_path / "calibration.json"
    main(
        tyro.cli(
            Calibrate, args=["brownian", "--output", str(path), "--seconds", "300", "--environments", "4"]
        )
    )
    assert "fill rate at the mid" in capsys.readouterr().out
    assert path.with_suffix(".png").exists()
    assert (tmp_path / "calibration-fills.png").exists()
    stored = json.loads(path.read_text())
    config = make_config(f"{path}:brownian")
    assert config.market.arrival_rate == stored["fills"]["rate"]["value"]
    assert make_config(str(path)) == config
    with pytest.raises(ConfigError, match="no preset 'book'"):
        make_config(f"{path}:book")
    with pytest.raises(ConfigError, match="neuralmm calibrate"):
        make_config(str(tmp_path / "nothing.json"))
    with pytest.raises(ConfigError, match=r"Did you mean 'brownian'.*the path of a store or tape"):
        main(tyro.cli(Calibrate, args=["brownia"]))


def test_estimates_are_written_by_name(tmp_path):
    """Those in a sequence too, such as the kernels of a Hawkes process."""
    clustering = fit_hawkes(orders_of(np.random.default_rng(0), 1.0, 0.5, 4.0, blocks=4), 60.0)
    found = calibrate_market("brownian", environments=2, seconds=60.0)
    write(dataclasses.replace(found, hawkes=clustering), tmp_path / "it.json")
    [branching] = json.loads((tmp_path / "it.json").read_text())["hawkes"]["branching"]
    assert branching == clustering.branching[0]._asdict()


def test_calibration_of_the_book_measures_a_queue():
    """At the touch the queue is ahead of us: fewer fills than the exponential further out says."""
    found = calibrate_market({"name": "book", "preset": "binance-usdm-btc"}, environments=4, seconds=60.0)
    assert found.fills.touch.value > 0
    assert found.facts


def test_a_large_tick_book_is_searched():
    """The truth is nearer than what is not; without simulations it is the model in the record's lots."""
    truth = {"name": "book", "preset": "nasdaq-msft"}
    record = record_market(truth, 32, 300.0, seed=10**6)
    wanted = large_tick.moments(record)
    assert not any(map(np.isnan, wanted.values()))

    def far(market):
        return large_tick.distance(large_tick.moments(record_market(market, 32, 300.0, seed=5)), wanted)

    wrong = {**truth, "impact": 0.2, "flight": 0.0, "queue_rate": 0.5}
    assert far(truth) < 5 < far(wrong)
    assert far(large_tick.fit(record, 0)) < 10  # the record's lots are the model's
    small = large_tick.start(record, {**wanted, "queue": 200 * wanted["queue"]})  # a tick holds many lots
    assert make_config(small).market.depth == LIMITS["depth"][1]


def test_a_step_to_the_least_squares():
    """Where errors are a line of the parameters, a step goes to its least squares, at most `FARTHEST`."""
    rng = np.random.default_rng(0)
    count, told = len(large_tick.TUNED), 40
    slopes = rng.standard_normal((count, told)) * 20
    middle, least = rng.standard_normal(count), np.linspace(-0.4, 0.8, count)
    points = middle + large_tick.WIDTH * rng.standard_normal((3 * count, count))
    step = large_tick.stepped(middle, points, (points - middle - least) @ slopes) - middle
    np.testing.assert_allclose(step, np.minimum(least, large_tick.FARTHEST), atol=0.05)
    missing = np.delete(slopes, range(1, told), axis=1)  # one moment: the shortest way to it, not any other
    step = large_tick.stepped(middle, points, (points - middle - least) @ missing) - middle
    along = missing[:, 0] / np.linalg.norm(missing)
    assert np.linalg.norm(step) < 1.2 * abs(least @ along)


def test_a_search_comes_nearer(monkeypatch):
    """From the model to the record of another market; the same seed gives the same parameters."""
    monkeypatch.setattr(large_tick, "PATHS", 16)
    record = record_market({"name": "book", "preset": "nasdaq-msft", "volatility": 0.5, "order_rate": 0.2,
                            "queue_rate": 0.1, "refill": 60.0}, 32, 300.0, seed=10**6)  # fmt: skip
    wanted = large_tick.moments(record)
    evaluations = 2 * (len(large_tick.TUNED) + 2) + 2 * large_tick.CHECKS

    def far(market):
        return large_tick.distance(large_tick.moments(record_market(market, 32, 300.0, seed=5)), wanted)

    found = large_tick.fit(record, evaluations)
    assert far(found) < 0.7 * far(large_tick.fit(record, 0))
    assert large_tick.fit(record, evaluations) == found


def test_the_search_is_made_of_a_simulated_market_too(monkeypatch):
    spent = []
    monkeypatch.setattr(large_tick, "fit", lambda record, evaluations: spent.append(evaluations) or {})
    calibrate_market({"name": "book", "preset": "nasdaq-msft"}, 4, 60.0, evaluations=7)
    assert spent == [7]
