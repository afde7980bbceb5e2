"""Tables of papers, computed here beside the paper's own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mmenv import ConfigError, make_config
from mmenv.vector import NeuralMMVectorEnv
from policies.analytic import FixedSpread
from policies.optimal import OptimalPolicy, solve
from train.options.replicate import Replicate
from train.papers import cartea2015, spooner2020
from train.papers.hawkes import Hawkes
from train.papers.play import play
from train.replicate import PAPER, environment, glft2013, own_scheme, sheets


@pytest.mark.parametrize("gamma", PAPER)
@pytest.mark.parametrize("symmetric", [False, True])
def test_avellaneda_and_stoikov_tables(gamma, symmetric):
    """The paper's scheme, run here, gives the paper's figures, and so do our environment and policy; but not
    where quotes would cross the mid, which only the scheme lets them."""
    count = 1000
    paper, scheme = np.array(PAPER[gamma][symmetric]), own_scheme(gamma, symmetric, count)
    crosses = gamma == 1.0 and not symmetric
    for found in (scheme,) if crosses else (scheme, environment(gamma, symmetric, count)):
        errors = (found[2] ** 2 / count + paper[2] ** 2 / count) ** 0.5  # of the difference of two means
        assert found[0] == pytest.approx(paper[0], abs=0.015)
        assert found[1] == pytest.approx(paper[1], abs=3 * errors)
        assert found[[2, 4]] == pytest.approx(paper[[2, 4]], rel=0.15)


def test_closed_form_quotes_are_close_where_inventory_is_small():
    sheet = glft2013()
    apart = dict(zip(sheet.columns["inventory"], map(float, sheet.columns["apart"]), strict=True))
    assert max(abs(apart[q]) for q in ("-5", "-2", "0", "2", "5")) <= 0.001
    assert abs(apart["20"]) > abs(apart["5"])


def test_the_equation_of_cartea_jaimungal_and_penalva():
    """Our policy quotes the book's depths, the environment's optimum comes to the book's value as its steps
    get shorter, in proportion to them, and played it earns that; a penalty holds less, and costs."""
    running = 0.01
    exact = cartea2015.book(running, cartea2015.SECONDS)[cartea2015.LIMIT]
    off = [solve(cartea2015.market(running, step), "optimum").value - exact for step in (0.1, 0.05, 0.025)]
    assert [b / a for a, b in itertools.pairwise(off)] == pytest.approx([0.5, 0.5], abs=0.02)
    depths = cartea2015.depths().columns
    for left in cartea2015.LEFT:
        assert depths[f"{left:g} s left,\npolicy"] == depths[f"{left:g} s left,\nbook"]
    held = []
    for running in (0.0, 0.01, 0.1):
        config = cartea2015.market(running)
        solution = solve(config, "optimum")
        found = play(OptimalPolicy(config, solution), config, 4096)
        earned = cartea2015.earned(found)
        assert earned.mean() == pytest.approx(solution.value, abs=4 * earned.std() / 64)
        held.append(found.held.mean())
    assert held[0] > 1.05 * held[1] > 1.05 * 1.2 * held[2]


def test_the_game_is_solved():
    """The equilibrium earns its value against the adversary, and who deviates earns less. In the fixed market
    it gives up little for half the deviation: what Spooner and Savani found by learning."""
    fixed, game = spooner2020.market(0.0), spooner2020.market(spooner2020.DRIFT)
    equilibrium, count = spooner2020.Equilibrium(game), 4096
    found = play(equilibrium, game, count)
    assert found.profit.mean() == pytest.approx(equilibrium.value, abs=4 * found.profit.std() / count**0.5)
    naive = FixedSpread(fixed, 1 / spooner2020.DECAY)
    assert spooner2020.Equilibrium(fixed).quotes(np.array(0), np.arange(-5, 6))[0] == pytest.approx(
        1 / spooner2020.DECAY,
        abs=1e-6,  # without an adversary the same distance is best, whatever is held
    )
    assert play(naive, game, count).profit.mean() < equilibrium.value - 10
    leaning, plain = play(equilibrium, fixed, count), play(naive, fixed, count)
    assert leaning.sharpe() > 1.5 * plain.sharpe()
    assert leaning.final.std() < plain.final.std() / 3
    assert plain.profit.mean() - leaning.profit.mean() < 4


def test_events_excite_each_other():
    """Stationary rates are those of (1 - brings)^-1 x base, and the noise of the mid has no mean."""
    market = Hawkes(step_seconds=0.01)
    base = [market.order_rate] * 2 + [market.move_rate] * 2
    expected = np.linalg.solve(np.eye(4) - market.brings(), base)
    config = make_config(market, horizon=1500)
    envs = NeuralMMVectorEnv(1024, config=config, strict_actions=False, autoreset_mode="Disabled")
    envs.reset(seed=1)
    nothing = np.full((1024, 2), np.nan, np.float32)
    events, noise, first = np.zeros(4), np.zeros(1024), 500
    for step in range(config.horizon - 1):
        envs.step(nothing)
        move = envs._desk.get("move")
        if step >= first:
            lots = [envs._desk.get(f"{side}_lots").sum() for side in ("buy", "sell")]
            events += [*lots, (move > 0).sum(), (move < 0).sum()]
            noise += envs._desk.get("noise_move")
    seconds = (config.horizon - 1 - first) * market.step_seconds * 1024
    # At most one event of a kind in a step, and the end of the start: some per cent are missing.
    assert events / seconds == pytest.approx(expected, rel=0.07)
    assert (events / seconds > 1.8 * np.array(base)).all()
    assert abs(noise.mean()) < 4 * noise.std() / 1024**0.5
    with pytest.raises(ConfigError, match="no end of them"):
        Hawkes(order_order=1.0)


@pytest.mark.parametrize("paper", ["spooner2020", "gasperov2022"])
def test_papers_with_learners_run(paper):
    found = sheets(Replicate(paper, simulations=8, steps=6400))
    assert len(found) == 2
    assert all(len(sheet.columns["market maker"]) >= 4 for sheet in found)
