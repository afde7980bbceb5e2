"""Policies through the market: the same paths for each, episode by episode, with intervals.

Every policy faces the same exogenous draws (they are a function of seed and step, whatever is quoted), so
policies are compared by paired differences. In simulated markets the zero-mean part of the reward (`noise`,
see `mmenv.step.ledger`) is taken off: the mean stays, the interval shrinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from mmenv.config import EnvConfig
from mmenv.engine.state import LEDGER
from mmenv.vector import NeuralMMVectorEnv
from policies.base import Policy

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
        """The three numbers, each in the format `form`."""
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class Outcome:
    """What a policy did in each of E episodes."""

    name: str
    returns: np.ndarray
    """Sum of rewards, float64 (E,), price units x lots."""
    controlled: np.ndarray
    """The same less its zero-mean noise."""
    terms: dict[str, np.ndarray]
    """Sum of each of `TERMS`, (E,)."""
    inventory: np.ndarray
    """Mean absolute inventory, (E,), lots."""
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
    `watch(observations, actions, position)` sees each decision; `progress(n)` is told of n finished episodes.
    """
    parts = []
    for first in range(0, episodes, batch):
        n = min(batch, episodes - first)
        parts.append(_simulate_batch(policy, config, n, seed + first, parameters, watch))
        if progress:
            progress(n)
    joined = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    returns, noise, inventory, quoted, steps, *terms, lowest = joined
    return Outcome(
        name=policy.name,
        returns=returns,
        controlled=returns - noise,
        terms=dict(zip(TERMS, terms, strict=True)),
        inventory=inventory,
        quoted=quoted,
        steps=steps,
        lowest=lowest,
    )


def _simulate_batch(
    policy: Policy,
    config: EnvConfig,
    n: int,
    seed: int,
    parameters: Mapping[str, float] | None,
    watch: Watch | None,
) -> list[np.ndarray]:
    rows = [LEDGER.index(term) for term in TERMS]
    noise, position, wealth = (LEDGER.index(name) for name in ("noise", "position", "wealth"))
    envs = NeuralMMVectorEnv(n, config=config, strict_actions=False)
    try:
        options = None if parameters is None else {"parameters": parameters}
        observations, _ = envs.reset(seed=seed, options=options)
        state = policy.reset(n)
        running = np.ones(n, bool)
        sums = np.zeros((5 + len(TERMS), n))
        held: np.ndarray = np.zeros(n)
        lowest: np.ndarray = np.zeros(n)
        while running.any():
            actions, state = policy.act(observations, state)
            if watch:
                watch(observations, actions, held)
            observations, rewards, terminated, truncated, _ = envs.step(actions)
            ledger = envs.ledger
            held = ledger[position]
            quoted = quoted_sides(config, actions).mean(axis=0)
            step = np.stack([rewards, ledger[noise], np.abs(held), quoted, np.ones(n), *ledger[rows]])
            sums += np.where(running, step, 0.0)
            lowest = np.where(running, np.minimum(lowest, ledger[wealth]), lowest)
            running &= ~(terminated | truncated)
    finally:
        envs.close()
    sums[2:4] /= sums[4]
    return [*sums, lowest]


def quoted_sides(config: EnvConfig, actions: np.ndarray) -> np.ndarray:
    """Whether ask and bid are quoted by actions, (n, A), or left: bool (2, n). NaN quotes nothing."""
    distances = np.stack(config.quote.to_distances(actions))
    return np.isfinite(distances) & np.isfinite(actions).all(axis=1)
