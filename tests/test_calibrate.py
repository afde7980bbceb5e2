"""Calibration finds what a simulated market was made of, and says how sure it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from mmenv import ConfigError, facts, make_config
from mmenv.calibrate import (
    PATHS,
    Estimate,
    Options,
    calibrate_market,
    dynamics,
    fit_exponential,
    fit_hawkes,
    fit_pareto,
    hawkes_residuals,
    main,
    measure,
    write,
)
from train.baselines import measured_dynamics


def covered(estimates: list[Estimate], truth: float) -> int:
    return sum(e.low <= truth <= e.high for e in estimates)


def test_brownian_is_found_within_its_intervals():
    """Rate, decay and volatility over 16 seeds: about 95% of the intervals hold the truth."""
    truth = {"arrival_rate": 0.6, "fill_decay": 0.8, "volatility": 1.3}
    market = {"name": "brownian", **truth}
    scale = make_config(market).market.price_scale
    found = [
        measure("brownian", lambda away, s=seed: facts.simulate(market, 4, 400.0, 1000 * s, away))
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


def simulate_hawkes(rng: np.random.Generator, end: float, rate: float, branching, decay):
    """By its branching structure (Hawkes and Oakes 1974): immigrants, and Poisson offspring of each."""
    waiting = list(rng.uniform(0, end, rng.poisson(rate * end)))
    times = []
    while waiting:
        time = waiting.pop()
        times.append(time)
        for share, speed in zip(np.atleast_1d(branching), np.atleast_1d(decay), strict=True):
            waiting += [t for t in time + rng.exponential(1 / speed, rng.poisson(share)) if t < end]
    return np.sort(times)


def test_hawkes_is_found_within_its_intervals():
    truth = {"rate": 1.0, "branching": 0.5, "decay": 4.0}
    rng = np.random.default_rng(0)
    found = [
        fit_hawkes([simulate_hawkes(rng, 60.0, **truth) for _ in range(15)], 60.0, resamples=20)
        for _ in range(6)
    ]
    assert sum(len(f.decay) == 1 for f in found) >= 5
    single = [f for f in found if len(f.decay) == 1]
    assert covered([f.rate for f in single], truth["rate"]) >= 4
    assert covered([f.branching[0] for f in single], truth["branching"]) >= 4
    assert covered([f.decay[0] for f in single], truth["decay"]) >= 4
    assert sum(f.p_value > 0.01 for f in found) >= 5


def test_two_exponentials_are_told_from_one():
    """Sums of two kernels: chosen by BIC, found within their intervals; one alone does not describe them."""
    rng = np.random.default_rng(3)
    branching, decay = np.array([0.4, 0.3]), np.array([40.0, 0.7])
    found = [
        fit_hawkes([simulate_hawkes(rng, 60.0, 1.0, branching, decay) for _ in range(15)], 60.0, resamples=10)
        for _ in range(3)
    ]
    assert all(len(f.decay) == 2 and f.bic[1] < f.bic[0] and f.ratio_p_value < 1e-3 for f in found)
    assert sum(f.p_value > 0.01 for f in found) >= 2
    for k in range(2):
        assert covered([f.decay[k] for f in found], decay[k]) >= 2
        assert np.median([f.branching[k].value for f in found]) == pytest.approx(branching[k], abs=0.1)
    block = simulate_hawkes(rng, 200.0, 1.0, branching, decay)
    right = hawkes_residuals(block, 1.0, branching, decay)
    wrong = hawkes_residuals(block, len(block) / 200, np.zeros(1), np.ones(1))
    assert stats.kstest(right, "expon").pvalue > 0.01 > stats.kstest(wrong, "expon").pvalue


def test_a_file_feeds_the_closed_forms(tmp_path):
    """One implementation: what a calibration says of a market is what baselines would measure of it."""
    market = {"name": "book", "preset": "binance-usdm-btc"}
    path = tmp_path / "book.json"
    found = calibrate_market(market, Options(source="book", seconds=60.0, environments=PATHS))
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
    with pytest.raises(ValueError, match="fewer than two distances"):
        fit_exponential(np.array([0.0, 1.0]), np.array([5.0, 0.0]), np.array([9.0, 9.0]))


def test_a_calibration_is_a_market(tmp_path, capsys):
    path = tmp_path / "calibration.json"
    main(["brownian", "--output", str(path), "--seconds", "300", "--environments", "4"])
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
    with pytest.raises(ConfigError, match="neither the path"):
        main(["nowhere"])


def test_calibration_of_the_book_measures_a_queue():
    """At the touch the queue is ahead of us: fewer fills than the exponential further out says."""
    found = calibrate_market("book", Options(source="book", seconds=60.0, environments=4))
    assert found.fills.touch.value > 0
    assert found.facts
