"""How often intervals of recorded results hold the truth: `bootstrap` on simulated tapes of `book`.

    python -m benchmarks.coverage [--tapes 200] [--minutes 10]

Each tape is a path of its own. What a policy earned on it, second by second, gives the interval of its mean,
of its Sharpe ratio, and of its paired difference to another policy; the truth is that of many other paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tyro

from mmenv import make_config
from mmenv.config import EnvConfig
from mmenv.measure import intervals, metrics
from mmenv.vector import NeuralMMVectorEnv
from policies.make import make_policy


@dataclass(frozen=True)
class Options:
    tapes: int = 200
    minutes: tuple[int, ...] = (10, 30, 60)
    """Lengths of a tape."""
    truth: int = 1000
    """Other paths, of the longest length, that say what is true."""
    half_spreads: tuple[float, float] = (1.0, 2.0)
    """Of the two policies, price units."""


def earned(config: EnvConfig, half_spread: float, count: int, seed: int) -> np.ndarray:
    """What a policy earned in each second of each path, (count, seconds)."""
    policy = make_policy("fixed-spread", config, half_spread=half_spread)
    envs = NeuralMMVectorEnv(count, config=config, strict_actions=False)
    a_second = round(1 / config.market.step_seconds)
    observations, _ = envs.reset(seed=seed)
    state, sums = policy.reset(count), np.zeros((count, config.horizon // a_second))
    for step in range(config.horizon):
        actions, state = policy.act(observations, state)
        observations, rewards, *_ = envs.step(actions)
        sums[:, step // a_second] += rewards
    envs.close()
    return sums


def main(options: Options) -> None:
    """Print the table."""
    longest = max(options.minutes)
    step = make_config("book").market.step_seconds
    risk, reward = {"daily_loss_limit": 1e9}, {"inventory_penalty": 0.0, "terminal_penalty": 0.0}
    config = make_config("book", horizon=round(60 * longest / step), reward=reward, risk=risk)
    tapes = [earned(config, half, options.tapes, 0) for half in options.half_spreads]
    others = [earned(config, half, options.truth, 1_000_000) for half in options.half_spreads]
    print(f"Of 100 intervals so many hold the truth; {options.tapes} tapes of `book` for each length.\n")
    print("| minutes | blocks, median | too short | profit | difference | Sharpe ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    for minutes in options.minutes:
        row = held([part[:, : 60 * minutes] for part in tapes], [part[:, : 60 * minutes] for part in others])
        print(f"| {minutes} | {row}", flush=True)


def held(tapes: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> str:
    """The cells of a row: for each statistic, the share of the tapes whose interval holds what others say."""
    truths = (others[0].mean(), (others[0] - others[1]).mean(), others[0].mean() / others[0].std())
    inside = np.full((3, len(tapes[0])), np.nan)
    for k, (ours, theirs) in enumerate(zip(*tapes, strict=True)):
        found = (
            intervals.bootstrap(mean, [ours]),
            intervals.bootstrap(mean, [ours - theirs]),
            intervals.bootstrap_ratio(metrics.sharpe, [ours], 1.0),
        )
        for row, (estimate, truth) in enumerate(zip(found, truths, strict=True)):
            if not isinstance(estimate, intervals.TooShort):
                inside[row, k] = estimate.low <= truth <= estimate.high
    blocks = np.median([len(ours) / intervals.block_length(ours) for ours in tapes[0]])
    known = [row[~np.isnan(row)] for row in inside]
    cells = " | ".join(f"{100 * row.mean():.1f}" if len(row) else "too short" for row in known)
    return f"{blocks:.0f} | {np.isnan(inside[0]).sum()} | {cells} |"


def mean(values: np.ndarray) -> np.ndarray:
    """Mean along the last axis."""
    return np.asarray(values.mean(axis=-1))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
