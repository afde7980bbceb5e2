"""The frontier between what policies earn on average and how bad their bad episodes are.

An appetite for risk chooses a place on it. A policy is a point, mean against mean of the worst share of its
episodes, with intervals; a family of policies is a line, a point for each of its parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.market.replay import Replay
from policies.base import Policy, tuned_policies
from policies.make import make_policy
from train.baselines import candidates, closed_form_config
from train.objective import worth
from train.simulate import EVALUATION_SEED, Interval, Outcome, interval, simulate

LEVEL = 0.05
"""Share of the episodes that are the worst, where the objective names none."""

LINE_EPISODES = 512
"""Episodes of a point of a line."""


@dataclass(frozen=True)
class Place:
    """Where a policy stands, price units x lots an episode, with 95% intervals."""

    name: str
    mean: Interval
    """Of all episodes."""
    worst: Interval
    """Of the worst share of them."""

    @classmethod
    def of(cls, outcome: Outcome, level: float, name: str | None = None) -> Place:
        """That of an outcome, under its own name where no other is given."""
        returns = outcome.returns
        return cls(name or outcome.name, interval(returns), interval(worth(returns, 1.0, level) - returns))


def level_of(config: EnvConfig) -> float | None:
    """The share that a frontier shows where `config` has an appetite for risk; else None, as on tapes, whose
    blocks are too few for a tail."""
    if isinstance(config.market, Replay):
        return None
    reward = config.reward
    return reward.shortfall_level if reward.shortfall_weight else LEVEL if reward.risk_aversion else None


@dataclass(frozen=True)
class Member:
    """A policy of a tuned family, and what it did."""

    policy: Policy
    config: EnvConfig
    outcome: Outcome
    """Its name says family and parameter."""

    @property
    def name(self) -> str:
        return self.outcome.name

    def again(self, episodes: int, seed: int = EVALUATION_SEED) -> Outcome:
        """What it does on other paths."""
        return replace(simulate(self.policy, self.config, episodes, seed=seed), name=self.name)


def members(
    family: str, config: EnvConfig, episodes: int = LINE_EPISODES, seed: int = EVALUATION_SEED
) -> Iterator[Member]:
    """Those of a family with the parameters that are tried, where they fit the configuration, played."""
    under = closed_form_config(config)
    parameter = tuned_policies()[family].parameter
    for given in candidates(family, under):
        try:
            policy = make_policy(family, under, **given)
        except ConfigError:
            continue  # such as a spread wider than the box
        outcome = simulate(policy, under, episodes, seed=seed)
        yield Member(policy, under, replace(outcome, name=f"{family}, {parameter} {given[parameter]:g}"))


def figure(points: Sequence[Place], lines: Mapping[str, Sequence[Place]], level: float, title: str) -> Figure:
    """Points with their intervals over lines, mean of the worst share across and mean of all upwards.

    Lines are drawn in the order of their places; the picture ends where the points and what of the lines
    earns more than nothing end, so that a hopeless parameter does not flatten it.
    """
    drawn = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawn.subplots()
    for name, places in lines.items():
        axes.plot([p.worst.mean for p in places], [p.mean.mean for p in places], ".-", alpha=0.7, label=name)
    for place in points:
        off = [np.abs([[x.mean - x.low], [x.high - x.mean]]) for x in (place.worst, place.mean)]
        axes.errorbar(
            place.worst.mean, place.mean.mean, xerr=off[0], yerr=off[1], fmt="o", capsize=2, label=place.name
        )
    shown = [*points, *(p for places in lines.values() for p in places if p.mean.mean > 0)]
    for along, limits in (("worst", axes.set_xlim), ("mean", axes.set_ylim)):
        ends = [x for place in shown for x in getattr(place, along)]
        room = 0.05 * (max(ends) - min(ends)) or 1.0
        limits(min(ends) - room, max(ends) + room)
    axes.set(xlabel=f"mean of the worst {level:.3g} of episodes", ylabel="mean of all episodes", title=title)
    axes.legend(frameon=False, fontsize="small")
    return drawn


def picture(config: EnvConfig, outcomes: Sequence[Outcome]) -> Figure | None:
    """The frontier of the appetite of `config`: policies, such as those of a table, over lines of the tuned
    families. None where it has no appetite, or quotes several assets."""
    level = level_of(config)
    if level is None or config.market.quoted > 1:
        return None
    lines = {
        family: [Place.of(one.outcome, level) for one in members(family, config)]
        for family in tuned_policies()
    }
    points = [Place.of(outcome, level) for outcome in outcomes if outcome.name != "no-trade"]
    return figure(points, lines, level, f"{config.market.name}: mean and bad episodes")
