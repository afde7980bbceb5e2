"""What the neural risk manager is worth: `python -m benchmarks.risk_manager SIGNAL`.

The optimum of the mean profit trades with the hard limits alone, with position sizes from the loss budget but
no network (a score of 0), and with the network's score, on the same paths. `share`, the part of the budget
that a position may lose, is chosen on other paths: the smallest worst-percent loss among those that keep the
mean profit within `cost`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from mmenv.config import EnvConfig
from mmenv.signals import Signal
from mmenv.step.sizing import ManagerConfig
from policies.make import make_policy
from policies.signals import load
from train.experiments.pairs import worst
from train.settings import Settings, env_config
from train.simulate import simulate

PROFIT = ("spread_capture", "adverse_selection", "carry")
TUNING_SEED, SEED = 3_000_000_000, 4_000_000_000
DRAWS = 1000
SIZES, NETWORK = "sizes, no network", "sizes and network"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Mean profit and worst percent with and without the risk manager."""

    signal: tyro.conf.Positional[Path]
    """The .mms file of a risk signal."""
    market: str = "bursts"
    set: tuple[str, ...] = ()
    """Environment settings as name=value, such as market.jump_rate=0.02."""
    policy: str = "optimum"
    episodes: int = 20_000
    tuning_episodes: int = 5_000
    shares: tuple[float, ...] = (0.03, 0.05, 0.08, 0.12, 0.18, 0.27)
    horizon: int = 20
    """Decisions it takes to be rid of a position."""
    cost: float = 0.02
    """Part of the mean profit that the choice of `share` may cost."""


@dataclass(frozen=True)
class NoScore:
    """The sizes alone: a risk score that is always 0."""

    step_seconds: float
    name: str = "none"
    groups: tuple[str, ...] = ("trade_book",)
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()
    state_size: int = 0
    identity: str = "none"
    source: str | None = None

    def step(self, inputs: np.ndarray, states: np.ndarray) -> np.ndarray:
        return np.zeros((len(inputs), 1), np.float32)


def profits(config: EnvConfig, options: Options, episodes: int, seed: int) -> np.ndarray:
    """Profit of each episode, price units x lots."""
    policy = make_policy(options.policy, config)
    with tqdm(total=episodes, unit=" episodes", leave=False) as bar:
        outcome = simulate(policy, config, episodes, seed=seed, progress=bar.update)
    return sum((outcome.terms[name] for name in PROFIT), -outcome.terms["fees"])


def choose(config: EnvConfig, signal: Signal, options: Options, plain: np.ndarray) -> ManagerConfig:
    """The share with the mildest worst percent among those that cost little, on the tuning paths."""
    best, mildest = None, -np.inf
    for share in options.shares:
        manager = ManagerConfig(signal=signal, share=share, horizon=options.horizon)
        managed = dataclasses.replace(config, manager=manager)
        found = profits(managed, options, options.tuning_episodes, TUNING_SEED)
        cheap = found.mean() >= (1 - options.cost) * plain.mean()
        if best is None or (cheap and worst(found) > mildest):
            best, mildest = manager, float(worst(found)) if cheap else mildest
    assert best is not None
    return best


def main() -> None:
    options = tyro.cli(Options)
    console = Console(width=120)
    config = env_config(Settings(market=options.market, set=options.set))
    network: Signal = load(options.signal)
    tuning = profits(config, options, options.tuning_episodes, TUNING_SEED)
    plain = profits(config, options, options.episodes, SEED)
    drawn = np.random.default_rng(0).integers(len(plain), size=(DRAWS, len(plain)), dtype=np.int32)
    table = Table(
        title=f"{options.policy} on {options.market}, {options.episodes:,} episodes, same paths",
        caption="95% intervals, paired bootstrap over episodes; share chosen on other paths",
    )
    for name in ("", "share", "mean profit", "mean kept, %", "worst 1%", "worst 1% less by, %"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("hard limits alone", "", f"{plain.mean():.2f}", "", f"{worst(plain):.1f}", "")
    managed = {}
    for name, signal in ((SIZES, NoScore(config.market.step_seconds)), (NETWORK, network)):
        manager = choose(config, signal, options, tuning)
        found = profits(dataclasses.replace(config, manager=manager), options, options.episodes, SEED)
        managed[name] = found
        kept, milder = against(found, plain, drawn)
        table.add_row(name, f"{manager.share:g}", f"{found.mean():.2f}", kept, f"{worst(found):.1f}", milder)
    kept, milder = against(managed[NETWORK], managed[SIZES], drawn)
    table.add_row("what the network adds to the sizes", "", "", kept, "", milder)
    console.print(table)


def against(ours: np.ndarray, other: np.ndarray, drawn: np.ndarray) -> tuple[str, str]:
    """Percent of the other's mean that ours keeps, and by how much milder its worst percent is."""
    rows = [np.arange(len(ours)), *drawn]
    kept = [100 * ours[at].mean() / other[at].mean() for at in rows]
    milder = [100 * (1 - worst(ours[at]) / worst(other[at])) for at in rows]
    return in_words(kept), in_words(milder)


def in_words(values: list[float]) -> str:
    """The first with the 95% interval that the others give."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
