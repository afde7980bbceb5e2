"""A market as its desk saw it, decision by decision: what facts and calibrations are measured on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmenv.checks import ConfigError
from mmenv.config import make_config
from mmenv.data.tape import Tape
from mmenv.desk.desk import Desk
from mmenv.market.base import Market
from mmenv.market.units import price_unit
from mmenv.measure.intervals import Array
from mmenv.progress import progress_bar
from mmenv.times import SECOND
from mmenv.venue.engines import open_venue
from mmenv.venue.settings import FIFO, ReplayConfig

FIELDS = ("mid", "spread", "best_bid_lots", "best_ask_lots", "buy_lots", "sell_lots", "ask_fill", "ask_value",
          "bid_fill", "bid_value")  # fmt: skip
"""What is recorded at each decision: prices in half-ticks; our fills since the last one, lots, and their sums
of lots x price."""

TICK = 2
"""Half-ticks."""

BLOCKS = (600.0, 300.0, 120.0, 60.0, 30.0)
"""Lengths of a bootstrap block to choose from, seconds: the longest that gives at least `LEAST_BLOCKS`."""

LEAST_BLOCKS = 10


@dataclass(frozen=True)
class Record:
    """A market as its desk saw it."""

    name: str
    """What the market is called."""
    seconds: float
    """Time between two decisions."""
    blocks: dict[str, NDArray[np.int64]]
    """`FIELDS` by name, each (blocks, decisions in a block), one stretch of time after another."""
    scale: float
    """The price unit, half-ticks: see `mmenv.market.units.price_unit`."""
    path: NDArray[np.int64]
    """Path or day that each block is from, (blocks,); blocks of one path follow each other in time."""
    recorded: bool = False
    """Whether it is a tape."""

    def lag(self, seconds: float) -> int:
        """Decisions in so many seconds, at least one."""
        return max(round(seconds / self.seconds), 1)

    def returns(self, seconds: float) -> Array:
        """Moves of the mid over consecutive intervals, (blocks, intervals), half-ticks."""
        mid = self.blocks["mid"][:, :: self.lag(seconds)]
        return np.diff(mid, axis=1).astype(float)

    def sums(self, values: NDArray[Any], seconds: float) -> Array:
        """Sums over the intervals of `returns` of what is recorded for the time up to each decision."""
        lag = self.lag(seconds)
        rest = values[:, 1:]
        count = rest.shape[1] // lag
        return rest[:, : count * lag].reshape(len(rest), count, lag).sum(axis=2).astype(float)

    @property
    def minutes(self) -> float:
        """Length of all blocks together."""
        return float(self.blocks["mid"].size * self.seconds / 60)

    @property
    def has_book(self) -> bool:
        """Whether the market shows a book, and not only a mid."""
        return bool((self.blocks["spread"] > 0).any())


MarketLike = str | Mapping[str, Any] | Market
"""A market as `mmenv.config.make_config` takes it."""


def record_market(market: MarketLike, environments: int, seconds: float, seed: int, away: int = 0) -> Record:
    """Record `environments` paths of a simulated market, `seconds` long each, quoting one lot on both sides.

    The quotes rest `away` half-ticks from the mid, or at the touch where that is further out.
    """
    rows = simulate_paths(market, seconds, seed, np.full(environments, away))
    return make_record(market_name(market), make_config(market).market.step_seconds, list(rows))


def market_name(market: MarketLike) -> str:
    """What the record of a simulated market is called."""
    if isinstance(market, Mapping):
        return ":".join(filter(None, map(market.get, ("name", "preset"))))
    return market if isinstance(market, str) else market.name


def simulate_paths(
    market: MarketLike, seconds: float, seed: int, away: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Simulate paths of a market, quoted as in `record_market`.

    Parameters
    ----------
    seconds
        Length of each path.
    seed
        Path i has the seed `seed` + i.
    away
        Distance of the quotes of each path from its mid, (paths,), half-ticks.

    Returns
    -------
    numpy.ndarray
        `FIELDS` of each decision, (paths, FIELDS, decisions).
    """
    environments = len(away)
    steps = round(seconds / make_config(market).market.step_seconds)
    config = make_config(
        market, horizon=steps + 1, risk={"position_limit": 1_000_000, "daily_loss_limit": 1e12}
    )
    desk = Desk(config, environments, autoreset=False)
    desk.seed(range(seed, seed + environments))
    desk.reset()
    distance = away / config.market.price_scale
    action = np.ascontiguousarray(config.quote.to_action(distance, distance))
    rows = np.zeros((len(FIELDS), steps + 1, environments), np.int64)
    name = config.market.name
    for t in progress_bar(range(steps + 1), desc=name, unit="decision", leave=False):
        before = desk.get("mid")
        if t > 0:
            desk.step(action)
        state = {field: desk.get(field) for field in FIELDS if not field.endswith("value")}
        state["ask_value"] = state["ask_fill"] * before + desk.get("ask_edge")
        state["bid_value"] = state["bid_fill"] * before - desk.get("bid_edge")
        for row, field in zip(rows, FIELDS, strict=True):
            row[t] = state[field]
    return np.moveaxis(rows, 2, 0)


def record_tape(
    tape: Tape | Sequence[Tape],
    step_seconds: float,
    away: int = 0,
    split: str = "all",
    config: ReplayConfig | None = None,
) -> Record:
    """Record a tape, the days of one symbol, or one part of them, decision by decision.

    It is quoted as in `record_market`; latency, queue and shares of the split are those of `config`.
    """
    interval_ns = round(step_seconds * SECOND)
    found = list(tape) if isinstance(tape, Sequence) else [tape]
    name = tape_name(found[0])
    settings = dataclasses.replace(
        config or ReplayConfig(),
        decision_interval_ns=interval_ns,
        episode_ns=interval_ns,
        split=split,
        position_limit_lots=None,
    )
    paths = []
    engine = "matcher" if settings.queue_model == FIFO else "hftbacktest"
    with open_venue(engine, found, 1, settings) as venue:
        for span in venue.spans:
            start = venue.start(0, span, span.first_ns)
            rest = venue.rest((span.end_ns - span.first_ns) // interval_ns - 1, away, lots=1)
            paths.append(columns_of(np.append(start, rest)))
    return dataclasses.replace(make_record(name, step_seconds, paths), recorded=True)


def tape_name(tape: Tape) -> str:
    """What the record of a tape is called."""
    return f"{tape.info.venue} {tape.info.symbol} {tape.info.day}"


def columns_of(outcomes: NDArray[np.void]) -> NDArray[np.int64]:
    """Translate OUTCOME (decisions,) of a venue to `FIELDS`, (FIELDS, decisions)."""
    bid, ask = outcomes["best_bid_ticks"], outcomes["best_ask_ticks"]
    same = ("best_bid_lots", "best_ask_lots", "buy_lots", "sell_lots")
    fills = [outcomes["ask_fill_lots"], 2 * outcomes["ask_fill_notional"]]
    fills += [outcomes["bid_fill_lots"], 2 * outcomes["bid_fill_notional"]]
    return np.stack([bid + ask, 2 * (ask - bid), *(outcomes[name] for name in same), *fills])


def make_record(name: str, seconds: float, paths: Sequence[NDArray[np.int64]]) -> Record:
    """Cut paths (FIELDS, decisions) into blocks of one length; what is left is dropped.

    Raises `ConfigError` where no path is as long as the shortest block.
    """
    counts = {length: [p.shape[1] // round(length / seconds) for p in paths] for length in BLOCKS}
    length = next((length for length, count in counts.items() if sum(count) >= LEAST_BLOCKS), BLOCKS[-1])
    size = round(length / seconds)
    cut = [
        path[:, k * size : (k + 1) * size]
        for path, count in zip(paths, counts[length], strict=True)
        for k in range(count)
    ]
    if not cut:
        raise ConfigError(f"{name} is shorter than {length:g} s; give a longer tape or more --seconds.")
    table = np.stack(cut, axis=1)
    blocks = dict(zip(FIELDS, table, strict=True))
    scale = price_unit(*(np.diff(path[FIELDS.index("mid")]) for path in paths))
    return Record(name, seconds, blocks, scale, np.repeat(np.arange(len(paths)), counts[length]))
