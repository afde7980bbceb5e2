"""The same random orders through hftbacktest and through our own matcher: they must agree on every one.

`python -m benchmarks.crosscheck STORE` prints the comparison for each tape and queue model, `--ladders` that
of ladders with market orders, and `--desks` that of whole desks: quotes and market orders by decision, with
`--levels 3` three quotes a side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import tyro
from numba import njit
from numpy.typing import NDArray

from mmenv.data.events import BUY_FLAG, EXCH_FLAG, Replay, open_replay
from mmenv.data.rows import BUY, SELL, TRADE
from mmenv.data.tape import Tape, tapes
from mmenv.times import MILLISECOND, SECOND
from mmenv.venue import hft_calls as hft
from mmenv.venue.by_order import apply_order
from mmenv.venue.hft import HftVenue
from mmenv.venue.latency import Latency
from mmenv.venue.matched import MatcherVenue
from mmenv.venue.matcher import BY_ORDER, FILLED, apply, cancel, empty_book, submit, take
from mmenv.venue.outcome import ASK, BID
from mmenv.venue.settings import FIFO, QUEUE_MODELS, ReplayConfig

ACTION: Final = np.dtype(
    [("time_ns", "i8"), ("order", "i8"), ("side", "i8"), ("tick", "i8"), ("lots", "i8"), ("market", "i8")]
)
"""A submit, or with lots 0 a cancel, by local time; `market` 1: of a market order, `tick` its worst price."""

RESULT: Final = np.dtype([("status", "i8"), ("time_ns", "i8"), ("fill_tick", "i8"), ("left", "i8")])
"""Final state of an order: status, exchange time of its last change, price in ticks at which it filled (0 if
not at all), and lots left."""

CANCEL_AFTER_NS: Final = 100 * MILLISECOND
"""Cancels come at least this long after their order: by then it must have been answered."""


def random_actions(
    tape: Replay, orders: int, latency_ns: int, rng: np.random.Generator, reach: int = 4, aimed: float = 0.0
) -> NDArray[np.void]:
    """Post-only orders at random times near the touch, most of them cancelled later.

    Parameters
    ----------
    tape
        Where they are sent.
    orders
        How many; they are numbered 0 to `orders` - 1.
    latency_ns
        Order latency; a fifth of the orders reach the exchange together with a market event.
    rng
        Source of the draws.
    reach
        Prices lie from one tick inside the opposite best (which expires) to so many behind our own best.
    aimed
        Share of the orders that are sent shortly before a trade, to stand at its price: where little is
        traded, others hardly ever fill.

    Returns
    -------
    NDArray
        ACTION [m] in time order.

    Raises
    ------
    ValueError
        The answer to an order could come after its cancel is due, or the tape is too short.
    """
    if 2 * latency_ns >= CANCEL_AFTER_NS:
        raise ValueError(
            f"latency_ns = {latency_ns} is not possible: it must be below {CANCEL_AFTER_NS // 2}."
        )
    first, last = tape.first_known_ns, tape.last_ns - 2 * SECOND
    if first >= last:
        raise ValueError("the tape is shorter than 2 s; use a longer one")
    times = rng.integers(first, last, orders)
    exchange = tape.events["exch_ts"]
    meeting = rng.random(orders) < 0.2
    times[meeting] = exchange[np.searchsorted(exchange, times[meeting])] - latency_ns
    times = np.sort(np.maximum(times, first))
    bids, asks = _touches(tape.events, times)
    sides = rng.choice((BUY, SELL), orders)
    offsets = rng.integers(-1, reach + 1, orders)
    ticks = np.where(sides == BUY, bids - offsets, asks + offsets)
    if aimed > 0:
        times, sides, ticks = _aimed(tape, times, sides, ticks, rng.random(orders) < aimed, latency_ns, rng)
    actions = np.zeros(2 * orders, ACTION)
    sent, cancels = actions[:orders], actions[orders:]
    sent["time_ns"], sent["order"], sent["side"] = times, np.arange(orders), sides
    sent["tick"] = np.clip(ticks, tape.low_tick, tape.high_tick)
    sent["lots"] = rng.integers(1, 8, orders) * rng.choice((1, 10, 500), orders)
    cancels["order"] = np.arange(orders)
    cancels["time_ns"] = times + CANCEL_AFTER_NS + rng.exponential(3 * SECOND, orders).astype(np.int64)
    kept = actions[(actions["lots"] > 0) | (actions["time_ns"] < last)]
    return kept[np.argsort(kept["time_ns"], kind="stable")]


def _aimed(
    tape: Replay,
    times: NDArray[np.int64],
    sides: NDArray[np.int64],
    ticks: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    latency_ns: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Times, sides and ticks [n] with those `chosen` shortly before a trade, in order of time again."""
    kind = tape.events["ev"]
    trades = np.flatnonzero(((kind & 0xFF) == TRADE) & (kind & EXCH_FLAG > 0))
    picked = rng.choice(trades, int(chosen.sum()))
    before = latency_ns + rng.exponential(SECOND, len(picked)).astype(np.int64)
    times[chosen] = tape.events["exch_ts"][picked] - before
    times = np.clip(times, tape.first_known_ns, tape.last_ns - 2 * SECOND)
    sides[chosen] = np.where(kind[picked] & BUY_FLAG, SELL, BUY)  # what a buyer takes from
    ticks[chosen] = tape.events["px"][picked]
    order = np.argsort(times, kind="stable")
    return times[order], sides[order], ticks[order]


def by_matcher(
    tape: Replay,
    actions: NDArray[np.void],
    config: ReplayConfig,
    ahead: float = 0.0,
    trips: NDArray[np.void] | None = None,
) -> NDArray[np.void]:
    """RESULT [orders] of our matcher; `trips` as in `mmenv.venue.latency`.

    `ahead` is added to each order's queue, or taken off its place among single orders, to see a wrong one
    caught.
    """
    latency = Latency(config.order_latency_ns, trips)
    arrivals = np.array([latency.arrival(int(time)) for time in actions["time_ns"]], np.int64)
    orders = int(actions["order"].max()) + 1
    book = empty_book(
        tape.low_tick, tape.high_tick, orders, config.queue_model, config.queue_exponent, config.partial_fills
    )
    out = np.zeros(orders, RESULT)
    _run_matcher(book, tape.events, actions, arrivals, ahead, out)
    return out


def by_hftbacktest(
    tape: Replay, actions: NDArray[np.void], config: ReplayConfig, trips: NDArray[np.void] | None = None
) -> NDArray[np.void]:
    """RESULT [orders] of hftbacktest."""
    orders = int(actions["order"].max()) + 1
    pointer = hft.open_backtest(tape.events, tape.levels[:0], tape.low_tick, tape.high_tick, config, trips)
    out = np.zeros(orders, RESULT)
    longest = config.order_latency_ns if trips is None else int((trips["resp_ts"] - trips["req_ts"]).max())
    try:
        code = _run_hftbacktest(pointer, actions, 2 * longest, tape.last_ns, out)
    finally:
        hft.close_backtest(pointer)
    if code:
        raise RuntimeError(f"hftbacktest reported error {code}")
    return out


def random_ladders(
    tape: Replay, ladders: int, latency_ns: int, rng: np.random.Generator, levels: int = 3
) -> NDArray[np.void]:
    """Ladders of post-only orders on both sides at random times, a third of them with a market order behind.

    A ladder begins one tick inside the opposite best (where its order expires) to two behind our own best,
    its levels are none to two ticks apart, and most of its orders are cancelled together later.

    Returns
    -------
    NDArray
        ACTION [m] in time order; ladder j has the numbers from j x (2 `levels` + 1) on, its market order the
        last.

    Raises
    ------
    ValueError
        As `random_actions`.
    """
    nearest = random_actions(tape, ladders, latency_ns, rng)
    sent, gone = nearest[nearest["lots"] > 0], nearest[nearest["lots"] == 0]
    bids, asks = _touches(tape.events, sent["time_ns"])
    width = 2 * levels + 1
    orders = np.zeros((ladders, width), ACTION)
    orders["time_ns"] = sent["time_ns"][:, None]
    orders["order"] = sent["order"][:, None] * width + np.arange(width)
    for first, side, touch in ((0, SELL, asks), (levels, BUY, bids)):
        steps, offsets = rng.integers(0, 3, ladders), rng.integers(-1, 3, ladders)
        away = offsets[:, None] + steps[:, None] * np.arange(levels)
        place = slice(first, first + levels)
        orders["side"][:, place] = side
        orders["tick"][:, place] = touch[:, None] - side * away
        orders["lots"][:, place] = rng.integers(1, 8, (ladders, levels)) * rng.choice((1, 10), (ladders, 1))
    buys, beyond = rng.random(ladders) < 0.5, rng.integers(0, 3, ladders)
    market = orders[:, -1]
    market["side"], market["market"] = np.where(buys, BUY, SELL), 1
    market["tick"] = np.where(buys, asks + beyond, bids - beyond)
    market["lots"] = np.where(rng.random(ladders) < 1 / 3, rng.integers(1, 200, ladders), 0)
    orders["tick"] = np.clip(orders["tick"], tape.low_tick, tape.high_tick)
    cancels = np.repeat(gone, 2 * levels)
    cancels["order"] = cancels["order"] * width + np.tile(np.arange(2 * levels), len(gone))
    cancels["lots"] = 0
    made = orders.reshape(-1)
    both = np.concatenate([made[made["lots"] > 0], cancels])
    return both[np.argsort(both["time_ns"], kind="stable")]


@njit(cache=True)
def _touches(events, times):
    """Where trades last met each side before each time; a rough aim is enough."""
    bids = np.zeros(len(times), np.int64)
    asks = np.zeros(len(times), np.int64)
    at, buy, sell = 0, 0, 0
    for place in range(len(times)):
        while at < len(events) and events[at].exch_ts <= times[place]:
            event = events[at]
            if event.ev & 0xFF == TRADE:
                if event.ev & BUY_FLAG:
                    sell = int(event.px)
                else:
                    buy = int(event.px)
            at += 1
        bids[place] = buy if buy else sell - 1
        asks[place] = sell if sell else buy + 1
    return bids, asks


@njit(cache=True)
def _run_matcher(book, events, actions, arrivals, ahead, out):
    at = 0
    for event in events:
        if not event.ev & EXCH_FLAG:
            continue
        while at < len(actions) and arrivals[at] < event.exch_ts:
            _act(book, actions[at], arrivals[at], ahead)
            at += 1
        if book.queue_model == BY_ORDER:
            apply_order(book, event, True)
            continue
        side = BUY if event.ev & BUY_FLAG else SELL
        apply(book, event.ev & 0xFF, side, int(event.px), int(event.qty), event.exch_ts)
    while at < len(actions):
        _act(book, actions[at], arrivals[at], ahead)
        at += 1
    for place in range(len(book.orders)):
        order = book.orders[place]
        out[place].status, out[place].time_ns = order.status, order.time_ns
        out[place].fill_tick, out[place].left = order.tick if order.left < order.lots else 0, order.left


@njit(cache=True)
def _act(book, action, arrival, ahead):
    if action.lots == 0:
        cancel(book, action.order, arrival)
        return
    order = book.orders[action.order]
    order.side, order.tick, order.lots, order.left = action.side, action.tick, action.lots, action.lots
    if action.market:
        take(book, action.order, arrival)
        return
    submit(book, action.order, arrival)
    order.ahead += ahead
    order.place -= int(ahead)


@njit(cache=True)
def _run_hftbacktest(pointer, actions, settle_ns, last_ns, out):
    code = hft.elapse(pointer, 0)
    for place in range(len(actions)):
        action = actions[place]
        wait = action.time_ns - hft.now(pointer)
        if code == 0 and wait > 0:
            code = hft.elapse(pointer, wait)
        if code > hft.END_OF_DATA:
            return code
        number = action.order + 1
        if action.lots == 0:
            # Refused if the order is gone.
            hft.cancel(pointer, 0, number, 0)
        else:
            side = BID if action.side == BUY else ASK
            if action.market:
                hft.take(pointer, number, side, action.tick, action.lots)
            else:
                hft.submit(pointer, number, side, action.tick, action.lots)
    code = hft.elapse(pointer, last_ns + settle_ns - hft.now(pointer))
    if code > hft.END_OF_DATA:
        return code
    book = hft.get_orders(pointer, 0)
    for place in range(len(out)):
        found, records = hft.order_seen(book, place + 1)
        if not found:
            continue  # none was sent under this number
        seen = records[0]
        out[place].status, out[place].time_ns = seen.status, seen.exch_timestamp
        out[place].fill_tick = seen.exec_price_tick if seen.leaves_qty < seen.qty else 0
        out[place].left = 0 if seen.status == FILLED else round(seen.leaves_qty)
    return 0


class Count(NamedTuple):
    """What two engines made of the same quotes and market orders."""

    decisions: int
    filled: int
    """Lots of quotes."""
    taken: int
    """Lots of market orders."""
    differ: int
    """Decisions after which the engines told a desk other things."""


LANES: Final = 8
REACH: Final = 3
"""Quotes lie from the touch to so many ticks behind it."""


def disagreements(
    found: Sequence[Tape], config: ReplayConfig, decisions: int, seed: int, levels: int = 1
) -> Count:
    """Play the same random quotes and market orders through both engines, in `LANES` episodes at a time.

    Parameters
    ----------
    found
        Tapes to draw episodes from.
    config
        How they are replayed; an episode lasts `config.episode_ns`.
    decisions
        How many in all, at least.
    seed
        Of episodes, quotes and orders.
    levels
        Quotes of each side.
    """
    engines = MatcherVenue(found, LANES, config), HftVenue(found, LANES, config)
    rng, counts = np.random.default_rng(seed), np.zeros(4, np.int64)
    for venue in engines:
        venue.take_market_orders()
        venue.take_levels(levels)
    steps = config.episode_ns // config.decision_interval_ns
    while counts[0] < decisions:
        start = int(rng.integers(1 << 31))
        for venue in engines:
            for lane in range(LANES):
                venue.reset(lane, np.random.default_rng((start, lane)))
        quotes = np.zeros((LANES, 4 * levels), np.int64)
        for _ in range(steps):
            quotes, takers = _random_orders(engines[0].outcomes, quotes, rng)
            told = [venue.advance(quotes, takers).copy() for venue in engines]
            taken = [venue.taken for venue in engines]
            differ = (told[0] != told[1]) | (taken[0] != taken[1])
            filled = told[0]["ask_fill_lots"] + told[0]["bid_fill_lots"]
            lots = taken[0]["sold_lots"] + taken[0]["bought_lots"]
            counts += LANES, filled.sum(), lots.sum(), differ.sum()
    for venue in engines:
        venue.close()
    return Count(*(int(count) for count in counts))


def _random_orders(
    seen: NDArray[np.void], quotes: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Quotes near the touch, each level behind the last, half of them left as they were or but for the size
    of some levels, and a market order in every third lane."""
    n, levels = len(seen), quotes.shape[1] // 4
    touches = seen["best_ask_ticks"], seen["best_bid_ticks"]
    steps, sizes = rng.integers(0, REACH + 1, (levels, 2, n)), rng.integers(0, 4, (levels, 2, n))
    steps[1:] = np.maximum(steps[1:], 1)
    offsets = np.cumsum(steps, axis=0)
    fresh = np.stack(
        [
            part[k]
            for side, sign in ((0, 1), (1, -1))
            for k in range(levels)
            for part in (touches[side] + sign * offsets[:, side], sizes[:, side])
        ],
        axis=1,
    )
    quotes = np.where(rng.random((n, 1)) < 0.5, fresh, quotes)
    if levels > 1:
        resized = (rng.random((n, 2 * levels)) < 0.2) & (quotes[:, ::2] > 0)
        quotes[:, 1::2] = np.where(resized, fresh[:, 1::2], quotes[:, 1::2])
    lots = np.where(rng.random(n) < 0.3, rng.integers(-20, 21, n), 0)
    # A market order's own side is that of the touch; now and then it would pay a tick more.
    more = rng.integers(0, 2, n)
    ticks = np.where(lots > 0, touches[0] + more, touches[1] - more)
    return quotes, np.stack([ticks, lots], axis=1)


@dataclass(frozen=True)
class Check:
    """Send random orders through hftbacktest and through our own matcher and count where they differ."""

    store: tyro.conf.Positional[Path]
    """Store of tapes."""
    orders: int = 20_000
    """Random orders per tape and queue model."""
    models: tuple[str, ...] = ()
    """Queue models; by default all that the tape has."""
    seed: int = 0
    """Seed of the orders."""
    latency_ms: float = 10.0
    """Order latency, below 50."""
    ladders: bool = False
    """Ladders of three levels a side with market orders in place of single orders, `orders` of them per tape,
    queue model and fill rule."""
    desks: bool = False
    """Whole desks in place of single orders: `orders` decisions in all, with market orders."""
    levels: int = 1
    """Quotes of each side of a desk."""
    aimed: float = 0.0
    """Share of the orders that are sent shortly before a trade, to stand at its price."""
    symbol: str = "*"
    """Of the tapes."""

    def run_desks(self) -> bool:
        """Print a line per tape and fill rule; whether all agree."""
        print("\t".join(("tape", "fills", *Count._fields)))
        found, total = tapes(self.store), 0
        for tape in found:
            for partial in (True, False):
                config = ReplayConfig(
                    partial_fills=partial, order_latency_ns=round(self.latency_ms * MILLISECOND),
                    position_limit_lots=40,
                )  # fmt: skip
                decisions = self.orders // (2 * len(found))
                count = disagreements([tape], config, decisions, self.seed, self.levels)
                name = f"{tape.info.venue} {tape.info.symbol} {tape.info.day}"
                print(name, "partial" if partial else "whole", *count, sep="\t", flush=True)
                total += count.differ
        return total == 0

    def run(self) -> bool:
        """Print a line per tape, queue model and fill rule; whether all agree, and mutants on no tape.

        A mutant need not show in every line, of ladders not on every tape: one lot of thousands is little.
        """
        names = "tape model fills orders filled differ one-lot-mutant 1-ms-mutant"
        print("\t".join(names.split()))
        totals = []
        for tape in tapes(self.store, symbol=self.symbol):
            # Among single orders hftbacktest lets market orders rest that find nothing.
            fifo = tape.info.orders > 0 and not self.ladders
            models = self.models or QUEUE_MODELS + (FIFO,) * fifo
            totals.append(np.sum([line for model in models for line in self.lines(tape, model)], axis=0))
        _, *mutants = np.sum(totals, axis=0) if self.ladders else np.min(totals, axis=0)
        return bool(np.sum(totals, axis=0)[0] == 0 and min(mutants) > 0)

    def lines(self, tape: Tape, model: str) -> Iterator[tuple[int, int, int]]:
        """How many orders differ, by fill rule: of the two engines, and of each mutant."""
        latency = round(self.latency_ms * MILLISECOND)
        found = open_replay(tape, 2 * MILLISECOND, orders=model == FIFO)
        rng = np.random.default_rng(self.seed)
        if self.ladders:
            actions = random_ladders(found, self.orders, latency, rng)
        else:
            actions = random_actions(found, self.orders, latency, rng, aimed=self.aimed)
        # Of single orders, hftbacktest fills whole orders only.
        for partial in (True, False) if model != FIFO else (False,):
            config = ReplayConfig(queue_model=model, partial_fills=partial, order_latency_ns=latency)
            later = replace(config, order_latency_ns=latency + MILLISECOND)
            theirs = by_hftbacktest(found, actions, config)
            ours = by_matcher(found, actions, config)
            nearer, late = by_matcher(found, actions, config, ahead=1.0), by_matcher(found, actions, later)
            differ, *mutants = (int((other != theirs).sum()) for other in (ours, nearer, late))
            name = f"{tape.info.venue} {tape.info.symbol} {tape.info.day}"
            filled, kind = int((theirs["fill_tick"] > 0).sum()), "partial" if partial else "whole"
            print(name, model, kind, self.orders, filled, differ, *mutants, sep="\t", flush=True)
            yield differ, mutants[0], mutants[1]


if __name__ == "__main__":
    check = tyro.cli(Check)
    raise SystemExit(not (check.run_desks() if check.desks else check.run()))
