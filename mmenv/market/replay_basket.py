"""`replay-basket`: recorded tapes of several symbols as one environment, all quoted at once by one clock.

Each episode is a stretch of time that the tapes of all symbols have, in the chosen split of each. An asset is
replayed as in `mmenv.market.replay`: queue, latency and fees of its own, in its own price units, one standard
deviation of its mid between two decisions. What is added up is money, so the symbols must be paid for in the
same currency; it is counted in price units x lots of the first. The covariance of the penalty and the factor
are measured on the training split alone, at the pace of the decisions.

An environment of n symbols is n lanes of the compiled step (`mmenv.desk.basket`), which begin at the same
time and end at the same time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmenv.checks import ConfigError, require
from mmenv.engine.state import fee_rate
from mmenv.market.base import register
from mmenv.market.outside import (
    ExternalMarket,
    begin,
    give_outcomes,
    give_taken,
    take_levels,
    take_market_orders,
    take_quotes,
)
from mmenv.market.replay import WATCHED, Replay, give_places, open_venue, spans_of, tapes_of
from mmenv.market.together import Together, measured_together
from mmenv.market.units import in_desk_units
from mmenv.times import SECOND
from mmenv.venue.outcome import OUTCOME, TAKEN

if TYPE_CHECKING:
    from mmenv.data.tape import Tape
    from mmenv.venue.replay import ReplayVenue, Span

Array = np.ndarray

MOST = 8
"""Most symbols of a basket."""

MOST_LOTS = 1_000_000
"""Most of a symbol's lots in one of ours."""


@register
@dataclass(frozen=True, kw_only=True)
class ReplayBasket(Replay):
    """Recorded tapes of several symbols, quoted together. Times in milliseconds."""

    name = "replay-basket"

    symbols: tuple[str, ...] = ()
    """The symbols in the order of the assets, each a name or a pattern that only one of the store has."""
    lots: tuple[int, ...] = (1,)
    """How many of a symbol's lots are one of ours, so that a lot of each is worth about as much: one number
    for each symbol; fewer repeat. More than 1 only with `partial_fills=False`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        symbols = (self.symbols,) if isinstance(self.symbols, str) else tuple(self.symbols)
        object.__setattr__(self, "symbols", symbols)
        named = all(isinstance(symbol, str) and symbol for symbol in symbols)
        good = named and len(set(symbols)) == len(symbols) and 2 <= len(symbols) <= MOST
        wanted = f"2 to {MOST} different symbols of the store, such as ('BTCUSDT', 'ETHUSDT')"
        require(good, "ReplayBasket", "symbols", symbols, wanted)
        lots = tuple(self.lots) if isinstance(self.lots, list | tuple) else (self.lots,)
        whole = all(type(k) is int and 1 <= k <= MOST_LOTS for k in lots)
        wanted = f"1 to {len(symbols)} whole numbers from 1 to {MOST_LOTS}, one for each symbol or fewer"
        require(whole and 1 <= len(lots) <= len(symbols), "ReplayBasket", "lots", self.lots, wanted)
        object.__setattr__(self, "lots", tuple(lots[k % len(lots)] for k in range(len(symbols))))
        some = max(self.lots) == 1 or not self.partial_fills
        wanted = "1 for each symbol, or partial_fills false: a part of one of our lots cannot be booked"
        require(some, "ReplayBasket", "lots", self.lots, wanted)

    @property
    def quoted(self) -> int:
        return len(self.symbols)

    @property
    def lanes(self) -> ReplayBasketLanes:
        return ReplayBasketLanes(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        )

    @property
    def together(self) -> Together:
        return _measured(dataclasses.replace(self, split="train", order_latency="constant", latency_file=""))

    def alone(self) -> tuple[Replay, ...]:
        """The market of each symbol by itself. Raises `ConfigError` where symbols do not fit each other."""
        return _alone(self)

    def defaults(self) -> dict[str, Any]:
        given = super().defaults()
        penalty = given["reward"]["terminal_penalty"] * self.step_seconds
        return given | {"reward": given["reward"] | {"terminal_penalty": penalty}}

    def chosen(self, tapes: list[Tape]) -> list[Tape]:
        return [tape for tape in tapes if any(fnmatchcase(tape.info.symbol, name) for name in self.symbols)]


@dataclass(frozen=True, kw_only=True)
class ReplayBasketLanes(ReplayBasket):
    """The lanes of `ReplayBasket`: lane i is symbol i modulo their number of environment i // that number."""

    @property
    def quoted(self) -> int:
        return 1

    def attach(self, n: int, horizon: int, position_limit: int) -> ExternalMarket:
        return BasketFeed(self, n // len(self.symbols), horizon, position_limit)


class Stretch(NamedTuple):
    """Where an episode of all symbols may lie: the tape of each, times of first start, last start and end."""

    tapes: tuple[int, ...]
    first_ns: int
    last_ns: int
    end_ns: int


@functools.cache
def _alone(market: ReplayBasket) -> tuple[Replay, ...]:
    shared = {field.name: getattr(market, field.name) for field in dataclasses.fields(Replay)}
    found, infos = [], []
    for symbol in market.symbols:
        tapes = tapes_of(Replay(**shared | {"symbol": symbol}))
        names = sorted({f"{tape.info.venue} {tape.info.symbol}" for tape in tapes})
        wanted = f"names of one symbol each; {symbol!r} is {' and '.join(names)}: say market.venue too"

        require(len(names) == 1, "ReplayBasket", "symbols", market.symbols, wanted)
        info = tapes[0].info
        infos.append(info)
        found.append(Replay(**shared | {"venue": info.venue, "symbol": info.symbol}))
    contracts = [f"{info.symbol} is {info.contract}" for info in infos]
    wanted = f"linear contracts, whose money can be added up; {', '.join(contracts)}"
    require(all(i.contract == "linear" for i in infos), "ReplayBasket", "symbols", market.symbols, wanted)
    return tuple(found)


@functools.cache
def _measured(market: ReplayBasket) -> Together:
    """From the training split (cached in this process)."""
    measured, infos = market.measured, [tapes_of(one)[0].info for one in market.alone()]
    scales = [
        measured.price_scale / measured.multiples[info.venue, info.symbol].price for info in infos
    ]  # a price unit in the symbol's half-ticks
    money = [
        scale / 2 * float(info.tick_size) * float(info.lot_size) * float(info.contract_size) * lots
        for scale, info, lots in zip(scales, infos, market.lots, strict=True)
    ]
    venues = [open_venue(one, "train", 1, 1_000_000, n=1) for one in market.alone()]
    try:
        moves = []
        for stretch in stretches(market.symbols, [v.spans for v in venues], market.step_ns, "train"):
            steps = (stretch.end_ns - stretch.first_ns) // market.step_ns
            mids = [_mids(*each, stretch, steps) for each in zip(venues, stretch.tapes, strict=True)]
            moves.append(np.diff(np.stack(mids, axis=1), axis=0) / scales)
    finally:
        for venue in venues:
            venue.close()
    joined = np.concatenate(moves)
    for k, symbol in enumerate(market.symbols):
        if not joined[:, k].any():
            raise ConfigError(f"{symbol} never moves in the training split, so that nothing can be measured.")
    return measured_together(joined, market.step_seconds, np.array(money) / money[0])


def _mids(venue: ReplayVenue, tape: int, stretch: Stretch, steps: int) -> Array:
    """The mids at the start of a stretch and after each of so many decisions, half-ticks, float64
    (steps + 1,); nothing is quoted."""
    start = _span(tape, stretch)
    venue.start(0, start, start.first_ns)
    parts: list[Array] = [venue.outcomes.copy()]
    for done in range(0, steps, WATCHED):
        parts.append(venue.rest(min(WATCHED, steps - done), away=0, lots=0))
    seen = np.concatenate(parts)
    return (seen["best_bid_ticks"] + seen["best_ask_ticks"]).astype(float)


def _span(tape: int, stretch: Stretch) -> Span:
    from mmenv.venue.replay import Span  # slow to import

    return Span(tape, stretch.first_ns, stretch.last_ns, stretch.end_ns)


def stretches(
    symbols: Sequence[str], spans: Sequence[Sequence[Span]], length_ns: int, split: str
) -> list[Stretch]:
    """Where episodes of all symbols may lie: the times that the spans of each have in common.

    Raises `ConfigError` where there are none of an episode's length.
    """
    found = [Stretch((), 0, 0, np.iinfo(np.int64).max)]
    for of_symbol in spans:
        both = [
            ((*so_far.tapes, span.tape), max(so_far.first_ns, span.first_ns), min(so_far.end_ns, span.end_ns))
            for so_far in found
            for span in of_symbol
        ]
        found = [
            Stretch(tapes, first, end - length_ns, end)
            for tapes, first, end in both
            if end - first >= length_ns
        ]
    if found:
        return found
    told = [
        f"{symbol} from {_time(each[0].first_ns)} to {_time(each[-1].end_ns)}"
        for symbol, each in zip(symbols, spans, strict=True)
    ]
    raise ConfigError(
        f"ReplayBasket.symbols = {tuple(symbols)!r} is not possible: in split {split!r} there are no "
        f"{length_ns / SECOND:g} s that all of them have ({'; '.join(told)}). Choose a shorter horizon, or "
        "days that all have, with market.day."
    )


def longest(market: ReplayBasket) -> int:
    """Decisions of the longest stretch that all symbols have in the market's split."""
    spans = [spans_of(one)[1] for one in market.alone()]
    found = stretches(market.symbols, spans, market.step_ns, market.split)
    return max((stretch.end_ns - stretch.first_ns) // market.step_ns for stretch in found)


def _time(ns: int) -> str:
    return str(np.datetime64(ns, "ns"))[:19]


class BasketFeed:
    """Connects the venues of several symbols to the lanes of a desk, of which each environment has one of
    each symbol: quotes out of its core, outcomes into it."""

    def __init__(self, market: ReplayBasket, n: int, horizon: int, position_limit: int) -> None:
        """For `n` environments."""
        self.assets = len(market.symbols)
        self.venues = [
            open_venue(one, market.split, horizon, position_limit * lots, n)
            for one, lots in zip(market.alone(), market.lots, strict=True)
        ]
        self.stretches = stretches(
            market.symbols, [venue.spans for venue in self.venues], horizon * market.step_ns, market.split
        )
        self._widths = np.array([s.last_ns - s.first_ns + 1 for s in self.stretches], np.int64)
        infos = [venue.tapes[0].info for venue in self.venues]
        self._fees = [fee_rate(info.maker_fee_bp) for info in infos] if market.own_fees else None
        of_symbol = [market.measured.multiples[info.venue, info.symbol] for info in infos]
        self._multiples = np.tile(np.array(of_symbol, np.int64), (n, 1))
        self._prices = self._multiples[:, 0].copy()
        self._lots = np.tile(np.array(market.lots, np.int64), n)
        self._quotes = np.zeros((n * self.assets, 4), np.int64)
        """Tick and lots of each ask, then of each bid, of a lane's last decision, the symbol's own."""
        self._levels: tuple[Array, Array] | None = None
        self._takers = np.zeros((0, 2), np.int64)
        """Worst tick and lots of the market order, the symbol's own; of no lane where the action has none."""
        self._taken = np.zeros(n * self.assets, TAKEN)
        self._windows = np.zeros((n * self.assets, 2), np.int64)
        self._outcomes = np.zeros(n * self.assets, OUTCOME)
        knows = self.venues[0].ahead is not None
        self._ahead = np.full((n * self.assets, 2), -1, np.int64) if knows else None

    def take_market_orders(self) -> None:
        for venue in self.venues:
            venue.take_market_orders()
        self._takers = np.zeros((len(self._outcomes), 2), np.int64)

    def take_levels(self, levels: Array, orders: Array) -> None:
        most = int(orders["most"][0])
        for venue in self.venues:
            venue.take_levels(most)
        self._quotes, self._levels = np.zeros((len(self._outcomes), 4 * most), np.int64), (levels, orders)

    def reset(self, core: Array, lanes: Array) -> None:
        """Draw the stretch of each environment from its key and episode alone; all its lanes start there."""
        for env in np.flatnonzero(lanes[:: self.assets]):
            first = int(env) * self.assets
            words = (core[name].reshape(-1)[first] for name in ("key0", "key1", "episode"))
            key0, key1, episode = (int(word) for word in words)
            generator = np.random.default_rng([key0, key1, (episode + 1) & 0xFFFFFFFF])
            drawn = int(generator.integers(int(self._widths.sum())))
            index = int(np.searchsorted(np.cumsum(self._widths), drawn, side="right"))
            stretch = self.stretches[index]
            local_ns = stretch.first_ns + drawn - int(self._widths[:index].sum())
            for asset, venue in enumerate(self.venues):
                venue.start(int(env), _span(stretch.tapes[asset], stretch), local_ns)
                self._begin(core, first + asset, venue, int(env))

    def _begin(self, core: Array, lane: int, venue: ReplayVenue, env: int) -> None:
        multiples = self._multiples[lane : lane + 1]
        self._windows[lane] = np.array(venue.window(env)) * multiples[0, 0]
        begin(core, lane, in_desk_units(venue.outcomes[env : env + 1], multiples)[0])
        if self._fees is not None:
            core["fee_rate"].reshape(-1)[lane] = self._fees[lane % self.assets]

    def advance(self, core: Array) -> None:
        self._take_orders(core)
        taking = len(self._takers) > 0
        for asset, venue in enumerate(self.venues):
            own = slice(asset, None, self.assets)
            takers = np.ascontiguousarray(self._takers[own]) if taking else None
            self._outcomes[own] = venue.advance(np.ascontiguousarray(self._quotes[own]), takers)
            self._taken[own] = venue.taken
            if self._ahead is not None and venue.ahead is not None:
                self._ahead[own] = venue.ahead
        fills = ("ask_fill_lots", "bid_fill_lots", "ask_fill_notional", "bid_fill_notional")
        give_outcomes(core, self._in_our_lots(self._outcomes, fills))
        if taking:
            give_taken(core, self._in_our_lots(self._taken, TAKEN.names or ()))
        give_places(core, self._ahead, self._multiples[:, 1:])

    def _take_orders(self, core: Array) -> None:
        """Set quotes and market orders of the symbols' own ticks and lots from the desk's."""
        quotes = self._quotes
        if self._levels is not None:
            take_levels(core, *self._levels, self._windows, self._prices, quotes)
        else:
            take_quotes(core, self._windows, quotes)
            # Outward to the tape's own ticks: bid < ask still holds.
            quotes[:, 0] = -(-quotes[:, 0] // self._prices)
            quotes[:, 2] //= self._prices
        quotes[:, 1::2] *= self._lots[:, None]
        if len(self._takers):
            take_market_orders(core, self._takers)
            self._takers[:, 0] //= self._prices
            self._takers[:, 1] *= self._lots

    def _in_our_lots(self, found: Array, fills: Sequence[str]) -> Array:
        """What the venues told, in the desk's integers, a copy; `fills` are the fields of our own lots."""
        scaled = in_desk_units(found, self._multiples)
        for name in fills:
            scaled[name] //= self._lots  # whole orders alone, so nothing is left over
        return scaled

    @property
    def times(self) -> Array:
        """Number of the first symbol's tape and local time, nanoseconds, in each environment, (2, n)."""
        first = self.venues[0]
        return np.stack([first.lane_tape, first.outcomes["time_ns"]])

    def close(self) -> None:
        for venue in self.venues:
            venue.close()
