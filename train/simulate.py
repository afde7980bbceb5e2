"""Policies through the market: the same paths for each, episode by episode, with intervals.

Every policy faces the same exogenous draws (they are a function of seed and step, whatever is quoted), so
policies are compared by paired differences. In simulated markets the zero-mean part of the reward (`noise`,
see `mmenv.step.ledger`) is taken off: the mean stays, the interval shrinks. With a risk aversion it is the
certainty equivalent that counts, in simulated markets.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from mmenv.config import EnvConfig
from mmenv.engine.state import LEDGER
from mmenv.measure.intervals import bootstrap
from mmenv.observation import by_asset
from mmenv.times import SECOND
from mmenv.vector import NeuralMMVectorEnv
from policies.base import Policy
from train.objective import certain, worth

TERMS = ("spread_capture", "adverse_selection", "carry", "fees", "inventory_penalty", "fills")
"""Rows of the ledger that are summed over an episode."""

EVALUATION_SEED = 1_000_000_000
"""Seed of evaluations, far from those that training uses."""

BATCH = 1024


class Interval(NamedTuple):
    """A mean with its 95% bootstrap interval over episodes."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.text(".3f")

    def text(self, form: str) -> str:
        """The three numbers, each in the format `form`; without bounds, the first and why."""
        if math.isnan(self.low):
            return f"{self.mean:{form}} (too short)"
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class Outcome:
    """What a policy did in each of E episodes."""

    name: str
    returns: np.ndarray
    """Sum of rewards, float64 (E,), price units x lots."""
    controlled: np.ndarray
    """What the value is the mean of: the same less its zero-mean noise, or `certain` of it."""
    terms: dict[str, np.ndarray]
    """Sum of each of `TERMS`, (E,)."""
    inventory: np.ndarray
    """Mean absolute inventory, (E,), lots; of several quoted assets the sum of theirs."""
    quoted: np.ndarray
    """Share of the sides of all decisions that the policy quoted, (E,); the others it left."""
    steps: np.ndarray
    """Decisions, (E,)."""
    lowest: np.ndarray
    """The least wealth gained since the beginning, (E,), price units x lots; at most 0."""

    def value(self) -> Interval:
        return interval(self.controlled)

    def minus(self, other: Outcome) -> Interval:
        """Paired difference in value."""
        return interval(self.controlled - other.controlled)


@dataclass(frozen=True)
class Recorded(Outcome):
    """The same on recorded tapes. Episodes overlap, so intervals come from blocks of tape time, however many
    episodes were drawn."""

    cells: np.ndarray
    """Tape and second in which decisions were made, int64 (C, 2), in order."""
    rewards: np.ndarray
    """Sum of the rewards of the decisions in each, less their noise, (C,)."""
    decisions: np.ndarray
    """How many there were, (C,)."""

    def value(self) -> Interval:
        per_decision = self.rewards / self.decisions
        found = bootstrap(_mean_of(self.steps), [self.rewards, self.decisions], lead=per_decision)
        return Interval(*found)

    def minus(self, other: Outcome) -> Interval:
        assert isinstance(other, Recorded)
        cells, place = np.unique(np.concatenate([self.cells, other.cells]), axis=0, return_inverse=True)
        parts: list[Any] = []
        for own, at in ((self, place[: len(self.cells)]), (other, place[len(self.cells) :])):
            parts += [np.bincount(at, sums, len(cells)) for sums in (own.rewards, own.decisions)]
        ours, theirs = _mean_of(self.steps), _mean_of(other.steps)
        lead = parts[0] / np.maximum(parts[1], 1) - parts[2] / np.maximum(parts[3], 1)
        return Interval(*bootstrap(lambda a, b, c, d: ours(a, b) - theirs(c, d), parts, lead=lead))


def _mean_of(steps: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Mean over episodes of `steps` decisions, from sums of rewards and numbers of decisions."""
    length = float(steps.mean())
    return lambda rewards, decisions: length * rewards.sum(axis=-1) / decisions.sum(axis=-1)


def interval(samples: np.ndarray) -> Interval:
    """Mean of `samples`, (E,), with its 95% percentile-bootstrap interval."""
    mean = float(np.mean(samples))
    if len(samples) < 2 or np.ptp(samples) == 0:
        return Interval(mean, mean, mean)
    result = stats.bootstrap((samples,), np.mean, n_resamples=2000, method="percentile", batch=100, rng=0)
    return Interval(mean, float(result.confidence_interval.low), float(result.confidence_interval.high))


Watch = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


def simulate(
    policy: Policy,
    config: EnvConfig,
    episodes: int,
    *,
    seed: int = EVALUATION_SEED,
    batch: int = BATCH,
    parameters: Mapping[str, float] | None = None,
    watch: Watch | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Outcome:
    """Run `policy` for episodes seeded seed, seed + 1, ... of `config`.

    `parameters` is the member of its family that all episodes have (see `mmenv.desk.family`).
    `watch(observations, actions, position)` sees each decision, positions of several quoted assets side by
    side, (n x assets,); `progress(n)` is told of n finished episodes.
    """
    parts: list[list[np.ndarray]] = []
    moments: list[np.ndarray] = []
    for first in range(0, episodes, batch):
        n = min(batch, episodes - first)
        parts.append(_simulate_batch(policy, config, n, seed + first, parameters, watch, moments))
        if progress:
            progress(n)
    joined = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    returns, noise, inventory, quoted, steps, *terms, lowest = joined
    reward = config.reward
    controlled = returns - noise
    if reward.risk_aversion and not moments:
        controlled = certain(returns, reward.risk_aversion)
    elif reward.shortfall_weight and not moments:
        controlled = worth(returns, reward.shortfall_weight, reward.shortfall_level)
    found = Outcome(
        name=policy.name,
        returns=returns,
        controlled=controlled,
        terms=dict(zip(TERMS, terms, strict=True)),
        inventory=inventory,
        quoted=quoted,
        steps=steps,
        lowest=lowest,
    )
    return recorded(found, moments) if moments else found


def recorded(outcome: Outcome, moments: list[np.ndarray]) -> Recorded:
    """The outcome with its sums by second, from `moments` of decisions, (3, k) each: tape, second, reward."""
    tape, second, reward = np.concatenate(moments, axis=1)
    cells, place = np.unique(np.stack([tape, second], axis=1), axis=0, return_inverse=True)
    known = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    return Recorded(
        **known,
        cells=cells.astype(np.int64),
        rewards=np.bincount(place, reward),
        decisions=np.bincount(place).astype(float),
    )


def _simulate_batch(
    policy: Policy,
    config: EnvConfig,
    n: int,
    seed: int,
    parameters: Mapping[str, float] | None,
    watch: Watch | None,
    moments: list[np.ndarray],
) -> list[np.ndarray]:
    """Sums of each episode; to `moments` is added when a decision was made, where the market is a tape."""
    rows = [LEDGER.index(term) for term in TERMS]
    noise, wealth = (LEDGER.index(name) for name in ("noise", "wealth"))
    assets = config.market.quoted
    envs = NeuralMMVectorEnv(n, config=config, strict_actions=False)
    held_rows = envs.position_rows
    try:
        options = None if parameters is None else {"parameters": parameters}
        observations, _ = envs.reset(seed=seed, options=options)
        state = policy.reset(n)
        running = np.ones(n, bool)
        sums = np.zeros((5 + len(TERMS), n))
        held: np.ndarray = np.zeros(n * assets)
        lowest: np.ndarray = np.zeros(n)
        while running.any():
            actions, state = policy.act(observations, state)
            if watch:
                watch(observations, actions, held)
            at = envs.tape_times
            observations, rewards, terminated, truncated, _ = envs.step(actions)
            ledger = envs.ledger
            held = ledger[held_rows].T.reshape(-1)
            quoted = quoted_sides(config, actions).mean(axis=0).reshape(n, assets).mean(axis=1)
            inventory = np.abs(held).reshape(n, assets).sum(axis=1)
            step = np.stack([rewards, ledger[noise], inventory, quoted, np.ones(n), *ledger[rows]])
            sums += np.where(running, step, 0.0)
            if at is not None:
                seconds = at[1] // SECOND
                moments.append(np.stack([at[0], seconds, rewards - ledger[noise]])[:, running])
            lowest = np.where(running, np.minimum(lowest, ledger[wealth]), lowest)
            running &= ~(terminated | truncated)
    finally:
        envs.close()
    sums[2:4] /= sums[4]
    return [*sums, lowest]


def quoted_sides(config: EnvConfig, actions: np.ndarray) -> np.ndarray:
    """Whether ask and bid are quoted by actions, (n, A), or left: bool (2, n), of several quoted assets
    (2, n x assets). NaN quotes nothing."""
    return config.quote.quoted(by_asset(config, actions), config.risk.order_lots)
