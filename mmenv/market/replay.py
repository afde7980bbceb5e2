"""`replay`: recorded tapes with queue position, latency and fees, behind the same environment.

Every episode is a random stretch of the chosen split of a store (see `mmenv.data`), replayed by
`mmenv.venue.replay`. The price unit is one standard deviation of the mid's move between two decisions, but
never below half a tick, and the volume unit the mean volume between two, both measured on all of the training
split and on it alone, for each symbol. The default action box reaches the touch at all but 1% of its times.

Where episodes draw symbols of different units, the desk counts prices in a common fraction of their
half-ticks and volumes in one of their lots (`Multiples`): whole multiples, so that the ledger stays exact,
and a price unit of the desk is one of each symbol. Our own lots stay each symbol's own.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.recfunctions import repack_fields

from mmenv.checks import require, require_number
from mmenv.engine.state import fee_rate
from mmenv.market.base import Market, register
from mmenv.market.outside import (
    ExternalMarket,
    begin,
    give_outcomes,
    give_taken,
    take_levels,
    take_market_orders,
    take_quotes,
)
from mmenv.market.units import (
    MOST_VOLUME,
    Measured,
    Multiples,
    Symbol,
    common_unit,
    in_desk_units,
    touch_distances,
    units,
)
from mmenv.times import MILLISECOND
from mmenv.venue.settings import ENGINES, FIFO, ReplayConfig

if TYPE_CHECKING:
    # Tapes and engines take a while to import, and whoever simulates a market needs neither.
    from mmenv.data.tape import Tape
    from mmenv.venue.replay import ReplayVenue, Span

LEAST_REACH = 6
"""The smallest default `quote.max_distance`, price units."""

WATCHED = 1 << 16
"""Decisions that are held in full at a time while the units are measured."""

WATCHED_FIELDS = ["best_bid_ticks", "best_ask_ticks", "buy_lots", "sell_lots"]


@register
@dataclass(frozen=True, kw_only=True)
class Replay(Market):
    """Recorded tapes of a store. Times in milliseconds."""

    name = "replay"
    on_ticks = True
    takes_levels = True

    step_seconds: float = 0.1
    store: str = ""
    """Folder that `neuralmm import` wrote."""
    venue: str = "*"
    symbol: str = "*"
    day: str = "*"
    """Which tapes: names or glob patterns. Each episode draws one, weighted by recorded time."""
    split: str = "train"
    """Part of each symbol's recorded time: "train", "validation", "test" or "all"."""
    order_latency_ms: float = 10.0
    """From us to the exchange, and as long again for its answer; the median where it varies."""
    order_latency: str = "constant"
    """How it varies: "constant", "lognormal", "feed", "empirical" or "recorded"; see
    `mmenv.venue.latency`."""
    latency_spread: float = 0.5
    """Standard deviation of the logarithm of a "lognormal" latency."""
    latency_file: str = ""
    """Round trips for "empirical" and "recorded", CSV or Parquet."""
    latency_seed: int = 0
    feed_latency_ms: float = 2.0
    """Delay of the fastest market data message."""
    queue_model: str = "risk-adverse"
    """How cancels ahead of us move us up the queue; see `mmenv.venue.settings.QUEUE_MODELS`."""
    queue_exponent: float = 3.0
    """Exponent of the "power-prob" queue models."""
    partial_fills: bool = True
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of each symbol's time for train, validation and test, in this order; one may be 0."""
    own_fees: bool = False
    """Each tape with its own maker fee, in place of `maker_fee_bp`."""
    engine: str = "hftbacktest"
    """Who matches our orders: "hftbacktest", or "matcher", our own, as in paper trading."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fractions", tuple(self.fractions))
        require(bool(self.store), "Replay", "store", self.store, "the folder that `neuralmm import` wrote")
        require_number(self, "order_latency_ms", 0.0, 3.6e6)
        require_number(self, "feed_latency_ms", 0.0, 3.6e6)
        require(self.engine in ENGINES, "Replay", "engine", self.engine, "one of " + ", ".join(ENGINES))
        self.venue_config(self.split, 1, 1)

    def venue_config(self, split: str, horizon: int, position_limit: int) -> ReplayConfig:
        """The settings of the replay venue for episodes of `horizon` decisions."""
        return ReplayConfig(
            decision_interval_ns=self.step_ns,
            order_latency_ns=round(self.order_latency_ms * MILLISECOND),
            order_latency=self.order_latency,
            latency_spread=self.latency_spread,
            latency_file=self.latency_file,
            latency_seed=self.latency_seed,
            feed_latency_ns=round(self.feed_latency_ms * MILLISECOND),
            queue_model=self.queue_model,
            queue_exponent=self.queue_exponent,
            partial_fills=self.partial_fills,
            split=split,
            fractions=self.fractions,
            episode_ns=horizon * self.step_ns,
            position_limit_lots=position_limit,
        )

    @property
    def knows_places(self) -> bool:  # type: ignore[override]
        """Single orders are replayed: our place among them is exact, and our own matcher says it."""
        return self.queue_model == FIFO and self.engine == "matcher"

    @property
    def measured(self) -> Measured:
        """What the training split says: the units."""
        return measure(self)

    @property
    def price_scale(self) -> int:
        return self.measured.price_scale

    @property
    def lot_scale(self) -> float:
        return self.measured.lot_scale

    @property
    def nearest_touch(self) -> float:
        return self.measured.touch[0]

    @property
    def reach(self) -> float:
        """The default `quote.max_distance`: a whole number of price units that covers the touch."""
        return float(max(math.ceil(self.measured.touch[1]), LEAST_REACH))

    @property
    def data(self) -> tuple[str, ...]:
        return (self.store,)

    def defaults(self) -> dict[str, Any]:
        fees = self.measured.maker_fees_bp
        # Symbols of different fees have no default: the settings then refuse this text, which says why.
        if len({*fees.values()}) == 1 or self.own_fees:
            fee: Any = next(iter(fees.values()))
        else:
            fee = f"that of the tapes, which differ: {fees}; market.own_fees=true takes each tape's own"
        return {
            "maker_fee_bp": fee,
            "quote": {
                "max_half_spread": self.reach + 1.0,
                "max_skew": self.reach,
                "max_distance": self.reach,
                "withdraw": True,
            },
            "features": ("order_flow", "trade_book", "inventory", "clock", "orders", "queues"),
            "reward": {"inventory_penalty": 0.001, "terminal_penalty": 0.01},
        }

    def chosen(self, tapes: list[Tape]) -> list[Tape]:
        """Those of the tapes that match, by venue, symbol and day, which it replays: all."""
        return tapes

    def attach(self, n: int, horizon: int, position_limit: int) -> ExternalMarket:
        venue = open_venue(self, self.split, horizon, position_limit, n)
        return ReplayFeed(venue, self.measured.multiples, self.own_fees)


def measure(market: Replay) -> Measured:
    """Units from the training split (cached in this process)."""
    # Nothing is quoted, so how orders travel does not matter.
    return _measure(dataclasses.replace(market, split="train", order_latency="constant", latency_file=""))


@functools.cache
def _measure(market: Replay) -> Measured:
    infos = {(tape.info.venue, tape.info.symbol): tape.info for tape in tapes_of(market)}
    ticks: dict[Symbol, set[str]] = {}
    for tape in tapes_of(market):
        ticks.setdefault((tape.info.venue, tape.info.symbol), set()).add(tape.info.tick_size)
    for key, sizes in ticks.items():
        require(
            len(sizes) == 1, "Replay", "day", market.day,
            f"days of {' '.join(key)} of one tick size; these have {', '.join(sorted(sizes))}",
        )  # fmt: skip
    scales, touches = [], []
    for venue_name, symbol in infos:
        one = dataclasses.replace(market, venue=venue_name, symbol=symbol)
        with open_venue(one, "train", 1, 1_000_000, n=1) as venue:
            seen = _watch(venue)
        scales.append(units(*seen))
        touches.append(np.array(touch_distances(*seen)) / scales[-1][0])
    # The kernel's prices and volumes are 32-bit numbers.
    room = [(1 << 30) // (4 * info.high_tick) for info in infos.values()]
    price_unit, prices = common_unit([price for price, _ in scales], room)
    volumes = [volume for _, volume in scales]
    volume_unit, lots = common_unit(volumes, [max(int(MOST_VOLUME / volume), 1) for volume in volumes])
    return Measured(
        price_scale=round(price_unit),
        lot_scale=volume_unit,
        maker_fees_bp={" ".join(key): info.maker_fee_bp for key, info in infos.items()},
        multiples={
            key: Multiples(*pair) for key, pair in zip(infos, zip(prices, lots, strict=True), strict=True)
        },
        touch=(float(np.min(touches)), float(np.max(touches))),
    )


def tapes_of(market: Replay) -> list[Tape]:
    """The tapes of the store that the market names."""
    from mmenv.data.tape import tapes  # slow to import

    return market.chosen(tapes(Path(market.store), market.venue, market.symbol, market.day))


def open_venue(market: Replay, split: str, horizon: int, position_limit: int, n: int) -> ReplayVenue:
    """The venue that replays the market's tapes in n lanes, episodes of `horizon` decisions in `split`."""
    from mmenv.venue import engines  # slow to import

    config = market.venue_config(split, horizon, position_limit)
    return engines.open_venue(market.engine, tapes_of(market), n, config)


def spans_of(market: Replay) -> tuple[list[Tape], list[Span]]:
    """The market's tapes, and where at least one decision of its split fits into them."""
    from mmenv.venue.replay import open_replays, spans  # slow to import

    tapes, config = tapes_of(market), market.venue_config(market.split, 1, 1)
    return tapes, spans(tapes, open_replays(tapes, config), config)


def _watch(venue: ReplayVenue) -> list[np.ndarray]:
    """Book and volume at every decision of each span, of OUTCOME, (decisions,); nothing is quoted."""
    runs = []
    for span in venue.spans:
        venue.start(0, span, span.first_ns)
        parts = [venue.rest(WATCHED, away=0, lots=0)]
        while not venue.outcomes["data_end"][0]:
            parts.append(venue.rest(WATCHED, away=0, lots=0))
        runs.append(np.concatenate([repack_fields(part[WATCHED_FIELDS]) for part in parts]))
    return runs


def give_places(core: np.ndarray, ahead: np.ndarray | None, volume: Any) -> None:
    """The lots ahead of our asks and bids, (n, 2), times a multiple; None where the venue does not know."""
    if ahead is not None:
        for side, name in enumerate(("own_ask_ahead", "own_bid_ahead")):
            places = core[name]
            flat = np.where(ahead < 0, -1, ahead * volume)[:, side]
            places[:] = np.resize(flat, places.size).reshape(places.shape)


class ReplayFeed:
    """Connects a `ReplayVenue` to a desk: quotes out of its core, outcomes into it.

    `multiples` are those of each tape's symbol; by default 1. With `own_fees` each tape has its own fee.
    """

    def __init__(
        self,
        venue: ReplayVenue,
        multiples: Mapping[Symbol, Multiples] | None = None,
        own_fees: bool = False,
    ) -> None:
        self.venue = venue
        self.fees = [fee_rate(tape.info.maker_fee_bp) for tape in venue.tapes] if own_fees else None
        """The fee of each tape as the kernel counts it."""
        self.quotes = np.zeros((venue.n, 4), np.int64)
        """Tick and lots of each ask, then of each bid, of the last decision in each lane, the tape's own."""
        self.takers = np.zeros((0, 2), np.int64)
        """Worst tick and lots of the market order of the last decision in each lane, the tape's own; of no
        lane where the action has none."""
        self.windows = np.zeros((venue.n, 2), np.int64)
        """Lowest and highest tick that can be quoted in each lane, the desk's."""
        given = multiples or {}
        of_tape = [given.get((t.info.venue, t.info.symbol), Multiples(1, 1)) for t in venue.tapes]
        self.multiples = np.array(of_tape, np.int64)
        """Price and volume of each tape, (tapes, 2)."""
        self._mixed = bool((self.multiples != 1).any())
        self.levels: tuple[np.ndarray, np.ndarray] | None = None
        """See `take_levels`; None where there is one quote a side."""

    def take_market_orders(self) -> None:
        self.venue.take_market_orders()
        self.takers = np.zeros((self.venue.n, 2), np.int64)

    def take_levels(self, levels: np.ndarray, orders: np.ndarray) -> None:
        most = int(orders["most"][0])
        self.venue.take_levels(most)
        self.quotes, self.levels = np.zeros((self.venue.n, 4 * most), np.int64), (levels, orders)

    def reset(self, core: np.ndarray, lanes: np.ndarray) -> None:
        """Draw each lane's stretch from its key and episode alone, so that n does not matter."""
        for lane in np.flatnonzero(lanes):
            words = (core[name].reshape(-1)[lane] for name in ("key0", "key1", "episode"))
            key0, key1, episode = (int(word) for word in words)
            generator = np.random.default_rng([key0, key1, (episode + 1) & 0xFFFFFFFF])
            self.venue.reset(int(lane), generator)
            self.begin(core, int(lane))

    def begin(self, core: np.ndarray, lane: int) -> None:
        """An episode of the desk starts where the lane now is."""
        outcome = self.venue.outcomes[lane : lane + 1]
        self.windows[lane] = self.venue.window(lane)
        if self._mixed:
            multiples = self.multiples[self.venue.lane_tape[lane : lane + 1]]
            self.windows[lane] *= multiples[0, 0]
            outcome = in_desk_units(outcome, multiples)
        begin(core, lane, outcome[0])
        if self.fees is not None:
            core["fee_rate"].reshape(-1)[lane] = self.fees[int(self.venue.lane_tape[lane])]

    def _take_quotes(self, core: np.ndarray) -> None:
        price = self.multiples[self.venue.lane_tape, 0]
        if self.levels is not None:
            take_levels(core, *self.levels, self.windows, price, self.quotes)
            return
        take_quotes(core, self.windows, self.quotes)
        if self._mixed:
            # Outward to the tape's own ticks: bid < ask still holds.
            self.quotes[:, 0] = -(-self.quotes[:, 0] // price)
            self.quotes[:, 2] //= price

    def advance(self, core: np.ndarray) -> None:
        self._take_quotes(core)
        taking = len(self.takers) > 0
        if taking:
            take_market_orders(core, self.takers)
        takers = self.takers if taking else None
        if not self._mixed:
            give_outcomes(core, self.venue.advance(self.quotes, takers))
            if taking:
                give_taken(core, self.venue.taken)
            give_places(core, self.venue.ahead, 1)
            return
        multiples = self.multiples[self.venue.lane_tape]
        if taking:
            self.takers[:, 0] //= multiples[:, 0]
        give_outcomes(core, in_desk_units(self.venue.advance(self.quotes, takers), multiples))
        if taking:
            give_taken(core, in_desk_units(self.venue.taken, multiples))
        give_places(core, self.venue.ahead, multiples[:, 1:])

    @property
    def times(self) -> np.ndarray:
        """Number of the tape and local time, nanoseconds, at which each lane is, int64 (2, n)."""
        return np.stack([self.venue.lane_tape, self.venue.outcomes["time_ns"]])

    def close(self) -> None:
        self.venue.close()
