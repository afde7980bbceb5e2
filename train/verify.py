"""Prove that a bundle does what its model did: `neuralmm verify policy.mmz`.

The reference meets the market and the bundle sees the same observations: every action is compared, and every
quote that it becomes. The reference is, without torch, what the bundle recorded of the model when it was
exported; with `--against`, the model itself, or another bundle, and then both are also played to the end of
every episode, each on its own, on the same paths.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.desk.desk import Desk
from mmenv.desk.networks import make_desk
from mmenv.market.base import Market
from mmenv.market.replay import Replay
from mmenv.progress import progress_bar
from policies.base import Policy
from policies.bundle import REFERENCE_SEED, SUFFIX, Bundle, load
from policies.tick import as_live
from train.options.bundles import Verify
from train.simulate import simulate

TOLERANCE = 1e-5
"""Largest difference to torch that float32 may have in any action."""
EXACT = ("float32", "onnx")
SIDES = ("ask", "bid")


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


def compare(
    policy: Policy, reference: Policy, config: EnvConfig, episodes: int, steps: int, seed: int
) -> Parity:
    """Follow the reference through the first `steps` decisions of each episode."""
    desk = make_desk(config, 1, autoreset=False)
    ask = _quotes_of(config, simulated=desk.external is None)
    desk.seed([seed])
    actions, asked = [], []
    with progress_bar(total=episodes * steps, desc="comparing", unit=" steps", leave=False) as bar:
        for _ in range(episodes):
            seen, mine, its = desk.reset(), policy.reset(1), reference.reset(1)
            for _ in range(steps):
                ours, mine = policy.act(seen, mine)
                theirs, its = reference.act(seen, its)
                mine_asked = ask(desk, ours)
                out = desk.step(theirs)
                seen = out.observations
                actions.append((ours[0], theirs[0]))
                asked.append([mine_asked, _asked(desk)])
                bar.update()
                if out.terminated[0] or out.truncated[0]:
                    break
    desk.close()
    pairs = np.array(actions)
    levels = 2 * config.quote.side_orders
    distances, lots, taken = np.split(np.array(asked), (levels, 2 * levels), axis=-1)
    quoted = (lots > 0).any(axis=1)
    apart = np.abs(distances[:, 0] - distances[:, 1])[quoted]
    differ = np.append(
        (apart > 0) | (lots[:, 0] != lots[:, 1])[quoted], (taken[:, 0] != taken[:, 1])[taken.any(axis=1)]
    )
    return Parity(
        decisions=len(pairs),
        action=float(np.abs(pairs[:, 0] - pairs[:, 1]).max()),
        quotes=float(differ.mean()) if len(differ) else 0.0,
        ticks=float(apart.max(initial=0)) / 2,
        whole_ticks=type(config.market).price_scale is not Market.price_scale,
    )


def _asked(desk: Desk) -> np.ndarray:
    """What a desk of one environment asks for: distances of all asks and of all bids, the nearest first,
    their lots in the same order, lots of the market order."""
    core, levels = desk.core[0], desk.stages.ladder
    lots = [core[f"{side}_lots"][:1] for side in SIDES]
    if levels is None:
        distances = [core[f"{side}_distance"][:1] for side in SIDES]
    else:
        most = desk.config.quote.side_orders
        distances = [levels[0][f"{side}_distance"][:most, 0] for side in SIDES]
        before = levels[0]["before"][: most + 1, 0]
        lots = [np.diff(np.minimum(before, side)) for side in lots]
    return np.concatenate([*distances, *lots, core["taker_lots"][:1]])


def _quotes_of(config: EnvConfig, simulated: bool) -> Callable[[Desk, np.ndarray], np.ndarray]:
    """What gives `_asked` of an action in the very situation of another desk.

    Networks beside the policy have had their say by then: it is in the observation and in the core.
    """
    alone = replace(config, signals=(), manager=None)
    if not simulated or (config.quote.taking is None and not config.quote.by_reach):
        quoting = Desk(replace(alone, market=as_live(config.market)), 1, autoreset=False)

        def only_quote(desk: Desk, action: np.ndarray) -> np.ndarray:
            quoting.core[...] = desk.core
            quoting.decide(action)
            return _asked(quoting)

        return only_quote
    # They depend on whether the market has a book: a twin makes the whole step.
    twin = Desk(alone, 1, autoreset=False)

    def step(desk: Desk, action: np.ndarray) -> np.ndarray:
        twin.take_back(desk.get_state()["stages"])
        twin.step(action)
        return _asked(twin)

    return step


def the_model(path: Path, bundle: Bundle) -> Policy:
    """A model, which needs torch, or another bundle, made for the same configuration."""
    if path.suffix == SUFFIX:
        return load(path, bundle.config).policy()
    import torch

    from policies.network.trained import TrainedPolicy
    from train.evaluate import load as load_model

    torch.set_num_threads(1)
    return TrainedPolicy(load_model(path, bundle.config)[0].policy, path.name)


def on_tapes(bundle: Bundle, options: Verify) -> EnvConfig:
    """The bundle's configuration on the test split of the tapes; each has its own fee where none is given."""
    tapes = Replay(
        store=str(options.store),
        venue=options.venue,
        symbol=options.symbol,
        day=options.day,
        split="test",
        own_fees=options.fees is None,
    )
    return bundle.on(tapes, options.fees)


def values(bundle: Bundle, policy: Policy, reference: Policy, config: EnvConfig, episodes: int) -> list[str]:
    """What each is worth on its own, on the same paths."""
    from train.baselines import scale

    with progress_bar(total=2 * episodes, unit=" episodes", leave=False) as bar:
        ours, theirs = (simulate(one, config, episodes, progress=bar.update) for one in (policy, reference))
    lost = ours.minus(theirs)
    lines = [
        f"value, {episodes:,} episodes of {config.market.name}: {ours.value()}, reference {theirs.value()}",
        f"value less that of the reference, paired: {lost}",
    ]
    if (measure := scale(config)) is not None:
        span = measure.one - measure.zero
        low, mean, high = (100 * value / span for value in (lost.low, lost.mean, lost.high))
        what = measure.label.removeprefix("% of ")
        lines.append(f"that is {mean:+.3f}% [{low:+.3f}, {high:+.3f}] of the {what}, {span:.3f}")
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
            config = on_tapes(bundle, options)
        found = compare(policy, reference, config, options.episodes, config.horizon, REFERENCE_SEED)
    beside = f"{found.decisions:,} decisions on {config.market.name} beside {reference.name}"
    quotes = f"{100 * found.quotes:.3f}% of the quotes differ, by at most {found.ticks:g}"
    unit = "ticks" if found.whole_ticks else "steps of 2^-11 price units; this market has no tick"
    console.print(f"{beside}: actions differ by at most {found.action:.1e}; {quotes} {unit}")
    if options.against is not None and options.value_episodes > 0:
        for line in values(bundle, policy, reference, config, options.value_episodes):
            console.print(line)
    if bundle.format not in EXACT:
        console.print(f"{bundle.format} weights are rounded: that is what they cost.")
        return True
    console.print("Verified." if found.exact else "NOT VERIFIED: it does not do what its reference did.")
    return found.exact


def main(options: Verify) -> None:
    """Run `neuralmm verify`."""
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    if not verify(options, console):
        sys.exit(1)
