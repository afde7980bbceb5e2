"""Prove that a bundle does what its model did: `neuralmm verify policy.mmz`.

The reference meets the market and the bundle sees the same observations: every action is compared, and every
quote that it becomes. The reference is, without torch, what the bundle recorded of the model when it was
exported; with `--against`, the model itself, or another bundle, and then both are also played to the end of
every episode, each on its own, on the same paths.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from rich.console import Console
from tqdm import tqdm

from mmenv.config import ConfigError, EnvConfig, Market
from mmenv.desk import Desk
from mmenv.market.replay import Replay
from policies.base import Policy
from policies.bundle import REFERENCE_SEED, SUFFIX, Bundle, load
from policies.tick import Events
from train.simulate import simulate

TOLERANCE = 1e-5
"""Largest difference to torch that float32 may have in any action."""
EXACT = ("float32", "onnx")


@dataclass(frozen=True)
class Verify:
    """Compare a bundle with what it was made from, action by action and quote by quote."""

    bundle: tyro.conf.Positional[Path]
    against: Path | None = None
    """The model it was exported from, or another bundle; by default the actions recorded at export."""
    store: Path | None = None
    """Store of recorded tapes (`neuralmm import`) to compare on, with `--against`; by default the market that
    it was made on."""
    symbol: str = "*"
    episodes: int = 16
    """Episodes whose actions are compared, with `--against`."""
    value_episodes: int = 4096
    """Episodes of the comparison of values, with `--against`; 0: none."""
    engine: Literal["numba", "onnx"] = "numba"


class Recorded:
    """Actions that were recorded, one after the other, as a policy of one environment."""

    name = "recorded at export"

    def __init__(self, actions: np.ndarray) -> None:
        self.actions = actions

    def reset(self, n: int) -> int:
        return 0

    def act(self, observation: np.ndarray, state: int) -> tuple[np.ndarray, int]:
        return self.actions[state : state + 1], state + 1


@dataclass(frozen=True)
class Parity:
    """How far a policy is from its reference, given the same observations."""

    decisions: int
    action: float
    """Largest difference in an action."""
    quotes: float
    """Share of the quotes that differ in price or size."""
    ticks: float
    """Largest difference of a quoted price, ticks."""
    whole_ticks: bool
    """Prices there are whole ticks, and not a grid so fine that rounding alone moves a quote."""

    @property
    def exact(self) -> bool:
        """Within `TOLERANCE`, and the same quotes."""
        return self.action <= TOLERANCE and (self.ticks == 0 if self.whole_ticks else self.ticks <= 1)


def compare(policy: Policy, reference: Policy, config: EnvConfig, n: int, steps: int, seed: int) -> Parity:
    """Follow the reference through the first `steps` decisions of n episodes."""
    desk = Desk(config, n, autoreset=False)
    market = Events(half_ticks=config.market.price_scale, lots=config.market.lot_scale)
    other = Desk(replace(config, market=market), n, autoreset=False)
    desk.seed(range(seed, seed + n))
    seen, states = desk.reset(), [policy.reset(n), reference.reset(n)]
    running, largest = np.ones(n, bool), 0.0
    decisions = quotes = differing = apart = 0
    for _ in tqdm(range(steps), desc="comparing", unit=" steps", leave=False, disable=None):
        ours, states[0] = policy.act(seen, states[0])
        theirs, states[1] = reference.act(seen, states[1])
        other.core[...] = desk.core
        other.decide(ours)
        out = desk.step(theirs)
        decisions += int(running.sum())
        largest = max(largest, float(np.abs(ours - theirs)[running].max()))
        sides = [
            [d.get(f"{side}_{field}")[running] for d in (other, desk)]
            for side in ("ask", "bid")
            for field in ("distance", "lots")
        ]
        for (distance, meant), (lots, size) in zip(sides[::2], sides[1::2], strict=True):
            live = (lots > 0) | (size > 0)
            off = np.abs(distance - meant)[live]
            differing += int(((off > 0) | (lots != size)[live]).sum())
            apart = max(apart, int(off.max(initial=0)))
            quotes += int(live.sum())
        seen = out.observations
        running &= ~(out.terminated | out.truncated)
        if not running.any():
            break
    desk.close()
    continuous = type(config.market).price_scale is Market.price_scale
    return Parity(decisions, largest, differing / max(quotes, 1), apart / 2, not continuous)


def the_model(path: Path, bundle: Bundle) -> Policy:
    """A model, which needs torch, or another bundle, made for the same configuration."""
    if path.suffix == SUFFIX:
        return load(path, bundle.config).policy()
    import torch

    from policies.trained import TrainedPolicy
    from train.evaluate import load as load_model

    torch.set_num_threads(1)
    return TrainedPolicy(load_model(path, bundle.config)[0].policy, path.name)


def values(bundle: Bundle, policy: Policy, reference: Policy, config: EnvConfig, episodes: int) -> list[str]:
    """What each is worth on its own, on the same paths."""
    from train.baselines import scale

    with tqdm(total=2 * episodes, unit=" episodes", leave=False, disable=None) as bar:
        ours, theirs = (simulate(one, config, episodes, progress=bar.update) for one in (policy, reference))
    lost = ours.minus(theirs)
    lines = [
        f"value, {episodes:,} episodes of {config.market.name}: {ours.value()}, reference {theirs.value()}",
        f"value less that of the reference, paired: {lost}",
    ]
    if (measure := scale(config)) is not None and measure.zero == 0:
        low, mean, high = (100 * value / measure.one for value in (lost.low, lost.mean, lost.high))
        lines.append(f"that is {mean:+.3f}% [{low:+.3f}, {high:+.3f}] of the optimum, {measure.one:.3f}")
    return lines


def verify(options: Verify, console: Console) -> bool:
    """Print the comparison; whether the bundle may be used in place of its reference."""
    bundle = load(options.bundle)
    policy, config = bundle.policy(options.engine), bundle.config
    console.print(f"{options.bundle}: {bundle.format}, {bundle.network.describe()}, checksums in order")
    if options.against is None:
        if options.store is not None:
            raise ConfigError("--store needs --against: what was recorded at export is of another market.")
        if bundle.reference is None:
            raise ConfigError(f"{options.bundle} has no recorded actions; give --against its model.")
        reference: Policy = Recorded(bundle.reference)
        found = compare(policy, reference, config, 1, len(bundle.reference), REFERENCE_SEED)
    else:
        reference = the_model(options.against, bundle)
        if options.store is not None:
            config = bundle.on(Replay(store=str(options.store), symbol=options.symbol, split="test"))
        found = compare(policy, reference, config, options.episodes, config.horizon, REFERENCE_SEED)
    beside = f"{found.decisions:,} decisions on {config.market.name} beside {reference.name}"
    quotes = f"{100 * found.quotes:.3f}% of the quotes differ, by at most {found.ticks:g}"
    unit = "ticks" if found.whole_ticks else "steps of a price grid of 2^-11 that stands for none"
    console.print(f"{beside}: actions differ by at most {found.action:.1e}; {quotes} {unit}")
    if options.against is not None and options.value_episodes > 0:
        for line in values(bundle, policy, reference, config, options.value_episodes):
            console.print(line)
    if bundle.format not in EXACT:
        console.print(f"{bundle.format} weights are rounded: that is what they cost.")
        return True
    console.print("Verified." if found.exact else "NOT VERIFIED: it does not do what its reference did.")
    return found.exact


def main() -> None:
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    if not verify(tyro.cli(Verify), console):
        sys.exit(1)


if __name__ == "__main__":
    main()
