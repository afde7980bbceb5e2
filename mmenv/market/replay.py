"""`replay`: recorded tapes with queue position, latency and fees, behind the same environment.

Every episode is a random stretch of the chosen split of a store (see `mmenv.data`), replayed by
`mmenv.venue.replay`. The price unit is one standard deviation of the mid's move between two decisions, and
the volume unit the mean volume between two, both measured on the training split alone, for each symbol.

Where episodes draw symbols of different units, the desk counts prices in a common fraction of their
half-ticks and volumes in one of their lots (`Multiples`): whole multiples, so that the ledger stays exact,
and a price unit of the desk is one of each symbol. Our own lots stay each symbol's own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from mmenv.config import ConfigError, EnvConfig, Market, require, require_number
from mmenv.kernel import LANES
from mmenv.market import register

if TYPE_CHECKING:
    from mmenv.desk import Desk, ExternalMarket
    from mmenv.venue.replay import ReplayConfig, ReplayVenue

ENGINES = ("hftbacktest", "matcher")
DAY_NS = 86_400_000_000_000

MEASURED_DECISIONS = 36_000
"""At most this many decisions of the training split are used to measure the units: an hour at 100 ms."""


@register
@dataclass(frozen=True, kw_only=True)
class Replay(Market):
    """Recorded tapes of a store. Times in milliseconds."""

    name = "replay"

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
    """How cancels ahead of us move us up the queue; see `mmenv.venue.replay.QUEUE_MODELS`."""
    queue_exponent: float = 3.0
    """Exponent of the "power-prob" queue models."""
    partial_fills: bool = True
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of each symbol's time for train, validation and test, in this order; one may be 0."""
    engine: str = "hftbacktest"
    """Who matches our orders: "hftbacktest", or "matcher", our own, as in paper trading."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fractions", tuple(self.fractions))
        require(bool(self.store), "Replay", "store", self.store, "the folder that `neuralmm import` wrote")
        require_number(self, "order_latency_ms", 0.0, 3.6e6)
        require_number(self, "feed_latency_ms", 0.0, 3.6e6)
        require(self.engine in ENGINES, "Replay", "engine", self.engine, "one of " + ", ".join(ENGINES))
        try:
            self.venue_config(self.split, 1, 1)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def venue_config(self, split: str, horizon: int, position_limit: int) -> ReplayConfig:
        """The settings of the replay venue for episodes of `horizon` decisions."""
        from mmenv.venue.replay import ReplayConfig

        interval = round(self.step_seconds * 1e9)
        return ReplayConfig(
            decision_interval_ns=interval,
            order_latency_ns=round(self.order_latency_ms * 1e6),
            order_latency=self.order_latency,
            latency_spread=self.latency_spread,
            latency_file=self.latency_file,
            latency_seed=self.latency_seed,
            feed_latency_ns=round(self.feed_latency_ms * 1e6),
            queue_model=self.queue_model,
            queue_exponent=self.queue_exponent,
            partial_fills=self.partial_fills,
            split=split,
            fractions=self.fractions,
            episode_ns=horizon * interval,
            position_limit_lots=position_limit,
        )

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

    def defaults(self) -> dict[str, Any]:
        fees = self.measured.maker_fees_bp
        # Symbols of different fees have no default: the settings then refuse this text, which says why.
        fee = (
            next(iter(fees.values()))
            if len({*fees.values()}) == 1
            else f"that of the tapes, which differ: {fees}"
        )
        return {
            "maker_fee_bp": fee,
            "reward": {"inventory_penalty": 0.001, "terminal_penalty": 0.01},
        }

    def attach(self, config: EnvConfig, n: int) -> ExternalMarket:
        venue = open_venue(self, self.split, config.horizon, config.risk.position_limit, n)
        return ReplayFeed(venue, self.measured.multiples)


Symbol = tuple[str, str]
"""Venue and symbol."""


class Multiples(NamedTuple):
    """How many of the desk's integers are one of a tape's."""

    price: int
    """Of a half-tick."""
    volume: int
    """Of a lot traded by others or resting in the book."""


@dataclass(frozen=True)
class Measured:
    """What the training split of the tapes says."""

    price_scale: int
    """The desk's half-ticks in a standard deviation of the mid's move between two decisions."""
    lot_scale: float
    """The desk's lots that others trade between two decisions, in the mean."""
    maker_fees_bp: dict[str, float]
    """By venue and symbol."""
    multiples: dict[Symbol, Multiples]


def measure(market: Replay) -> Measured:
    """Units from the training split (cached in this process)."""
    # Nothing is quoted, so how orders travel does not matter.
    plain = dataclasses.replace(
        market, split="train", engine="hftbacktest", order_latency="constant", latency_file=""
    )
    return _measure(plain)


@functools.cache
def _measure(market: Replay) -> Measured:
    from mmenv.data.tape import tapes

    found = tapes(Path(market.store), market.venue, market.symbol, market.day)
    infos = {(tape.info.venue, tape.info.symbol): tape.info for tape in found}
    scales = []
    for venue_name, symbol in infos:
        one = dataclasses.replace(market, venue=venue_name, symbol=symbol)
        with open_venue(one, "train", 1, 1_000_000, n=1) as venue:
            scales.append(units(*_watch(venue)))
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
    )


def units(*runs: dict[str, np.ndarray]) -> tuple[int, float]:
    """Half-ticks in a price unit and lots in a volume unit, from runs of columns of EVENT_FIELDS."""
    moves = np.concatenate([np.diff(run["best_bid_ticks"] + run["best_ask_ticks"]) for run in runs])
    volume = float(np.concatenate([run["buy_lots"] + run["sell_lots"] for run in runs]).mean())
    return max(round(float(np.std(moves))), 1), max(volume, 1.0)


MOST_VOLUME = 1 << 17
"""Largest volume unit, so that volumes of thousands of units are 32-bit numbers."""


def common_unit(scales: Sequence[float], room: Sequence[int]) -> tuple[float, list[int]]:
    """A unit and whole multiples of `scales` that meet it: to within 1%, or as near as `room` allows.

    Args:
        scales: the unit of each symbol in its own integers.
        room: largest multiple of each.

    Raises `ConfigError` where the scales are so far apart that not even the largest fits.
    """
    size = np.array(scales, np.float64)
    best: tuple[float, float, list[int]] | None = None
    for k in range(1, 101):
        unit = k * float(size.max())
        multiples = np.maximum(np.rint(unit / size), 1).astype(np.int64)
        error = float(np.abs(multiples * size / unit - 1).max())
        if (multiples <= np.array(room)).all() and (best is None or error < best[0]):
            best = error, unit, multiples.tolist()
            if error <= 0.01:
                break
    if best is None:
        raise ConfigError(
            f"the symbols' units, {', '.join(f'{scale:g}' for scale in scales)} half-ticks or lots, are too "
            "far apart for one desk: choose fewer with market.symbol."
        )
    return best[1], best[2]


def open_venue(market: Replay, split: str, horizon: int, position_limit: int, n: int) -> ReplayVenue:
    """The venue that replays the market's tapes in n lanes, episodes of `horizon` decisions in `split`."""
    from mmenv.data.tape import tapes
    from mmenv.venue.paper import MatcherVenue
    from mmenv.venue.replay import ReplayVenue

    found = tapes(Path(market.store), market.venue, market.symbol, market.day)
    kind = MatcherVenue if market.engine == "matcher" else ReplayVenue
    return kind(found, n, market.venue_config(split, horizon, position_limit))


def _watch(venue: ReplayVenue) -> list[dict[str, np.ndarray]]:
    """Events (decisions,) of each span, nothing quoted; of long ones the first part."""
    from mmenv.venue.replay import EVENT_FIELDS

    runs = []
    quotes = np.zeros((1, 4), np.int64)
    for span in venue.spans:
        event = venue.start(0, span, span.first_ns)[None]
        rows: list[np.ndarray] = []
        low, high = venue.window(0)
        quotes[0] = high, 0, low, 0
        most = max(MEASURED_DECISIONS // len(venue.spans), 2)
        while len(rows) < most and not event[0, EVENT_FIELDS.index("data_end")]:
            event = venue.advance(quotes)
            rows.append(event[0].copy())
        runs.append(dict(zip(EVENT_FIELDS, np.stack(rows, axis=1), strict=True)))
    return runs


class ReplayFeed:
    """Connects a `ReplayVenue` to a desk: quotes out of its core, events and fills into it."""

    def __init__(self, venue: ReplayVenue, multiples: Mapping[Symbol, Multiples] | None = None) -> None:
        """`multiples` of each tape's symbol; by default 1."""
        self.venue = venue
        self._quotes = np.zeros((venue.n, 4), np.int64)
        self._windows = np.zeros((venue.n, 2), np.int64)
        given = multiples or {}
        of_tape = [given.get((t.info.venue, t.info.symbol), Multiples(1, 1)) for t in venue.tapes]
        self._multiples = np.array(of_tape, np.int64)
        self._mixed = bool((self._multiples != 1).any())

    def reset(self, desk: Desk, lanes: np.ndarray) -> None:
        """Draw each lane's stretch from its key and episode alone, so that n does not matter."""
        episodes = desk.get("episode") + np.uint32(1)
        keys = np.stack([desk.get("key0"), desk.get("key1"), episodes], axis=1)
        for lane in np.flatnonzero(lanes):
            generator = np.random.default_rng([int(word) for word in keys[lane]])
            self.begin(desk, int(lane), self.venue.reset(int(lane), generator))

    def begin(self, desk: Desk, lane: int, event: np.ndarray) -> None:
        """An episode of the lane starts with this row of EVENT_FIELDS."""
        self._windows[lane] = self.venue.window(lane)
        if self._mixed:
            multiples = self._multiples[self.venue.lane_tape[lane]][None]
            self._windows[lane] *= multiples[0, 0]
            event = in_desk_units(event[None], multiples)[0]
        begin(desk.core, lane, event)

    def advance(self, desk: Desk) -> None:
        take_quotes(desk.core, self._windows, self._quotes)
        if not self._mixed:
            give_events(desk.core, self.venue.advance(self._quotes))
            return
        multiples = self._multiples[self.venue.lane_tape]
        price = multiples[:, 0]
        # Outward to the tape's own ticks: bid < ask still holds.
        self._quotes[:, 0] = -(-self._quotes[:, 0] // price)
        self._quotes[:, 2] //= price
        give_events(desk.core, in_desk_units(self.venue.advance(self._quotes), multiples))

    def close(self) -> None:
        self.venue.close()


def in_desk_units(events: np.ndarray, multiples: np.ndarray) -> np.ndarray:
    """Events [n, EVENT_FIELDS] of tapes with `multiples` [n, (price, volume)], in the desk's integers."""
    from mmenv.venue.replay import EVENT_FIELDS

    scaled = events.copy()
    price, volume = multiples[:, :1], multiples[:, 1:]
    for factor, names in (
        (price, ("best_bid_ticks", "best_ask_ticks", "ask_fill_notional", "bid_fill_notional")),
        (
            volume,
            ("best_bid_lots", "best_ask_lots", "buy_lots", "sell_lots", "max_trade_lots", "last_trade_lots"),
        ),
        (price * volume, ("buy_notional", "sell_notional")),
    ):
        scaled[:, [EVENT_FIELDS.index(name) for name in names]] *= factor
    return scaled


@njit(cache=True)
def begin(core, lane, event):  # type: ignore[no-untyped-def]
    """The book at the start of a lane's episode."""
    s, i = core[lane // LANES], lane % LANES
    s.mid[i] = event[1] + event[2]
    s.spread[i] = 2 * (event[2] - event[1])
    s.best_bid_lots[i] = event[3]
    s.best_ask_lots[i] = event[4]
    s.day_seconds[i] = event[0] % DAY_NS * 1e-9


@njit(cache=True)
def take_quotes(core, windows, quotes):  # type: ignore[no-untyped-def]
    """Quotes (ask tick, lots, bid tick, lots) within what the lane's tape can take."""
    for lane in range(len(quotes)):
        s, i = core[lane // LANES], lane % LANES
        mid = np.int64(s.mid[i])
        ask = min(max((mid + s.ask_distance[i]) // 2, windows[lane, 0] + 1), windows[lane, 1])
        bid = min(max((mid - s.bid_distance[i]) // 2, windows[lane, 0]), ask - 1)
        quotes[lane, 0], quotes[lane, 1] = ask, s.ask_lots[i]
        quotes[lane, 2], quotes[lane, 3] = bid, s.bid_lots[i]


@njit(cache=True)
def give_events(core, events):  # type: ignore[no-untyped-def]
    """The market's answer, in half-ticks; columns as `mmenv.venue.replay.EVENT_FIELDS`."""
    for lane in range(len(events)):
        s, i = core[lane // LANES], lane % LANES
        e = events[lane]
        old = np.int64(s.mid[i])
        mid = e[1] + e[2]
        s.mid[i] = mid
        s.move[i] = mid - old
        s.spread[i] = 2 * (e[2] - e[1])
        s.best_bid_lots[i], s.best_ask_lots[i] = e[3], e[4]
        s.day_seconds[i] = e[0] % DAY_NS * 1e-9
        s.buy_lots[i], s.sell_lots[i] = e[5], e[6]
        s.trades[i] = e[9]
        s.trade_value[i] = 2 * (e[7] + e[8]) - (e[5] + e[6]) * old
        s.ask_fill[i], s.bid_fill[i] = e[12], e[14]
        s.ask_edge[i] = 2 * e[13] - e[12] * old
        s.bid_edge[i] = e[14] * old - 2 * e[15]
        s.truncated[i] = e[19]
