"""Dynamic programmes for one side of the book, from empirical transitions.

A fill is worth its price against the efficient price (a martingale: what happens to the lot later is worth
nothing on average), and a shadow price for the position; so each side is a programme of its own, with an
average reward. *Seen*: the state is a least-squares filter of the efficient price, the own queue, the trend
of the trades' signs, and the place of the order. *Told*: the true efficient price, both queues and the
metaorder's side, interpolated; nobody can play it, but it says what knowing the price is worth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from mmenv.engine.products import product, solve_linear
from policies.book.orders import (
    BEHIND,
    CHARGED,
    CHOICES,
    HOLD,
    INSIDE,
    LEAVE,
    LEVELS,
    ONE_BEHIND,
    PLACES,
    TOUCH,
    asked,
    between,
    micro,
    place_of,
    put,
    terms_of,
    view,
)
from policies.book.paths import Paths, compiled
from policies.book.play import play, value
from policies.book.rules import Look, both_sides, look

# What is seen ---------------------------------------------------------------------------------------------

SHORT, LONG, SIGNS = (1.0, 3.0, 10.0), (1.0, 4.0, 15.0), 30.0
"""Time constants of the averages of book events and imbalance, of moves and flow, and of signs: seconds, and
decisions too where these are shorter."""
GAPS = (0.15, 0.3, 0.45, 0.6, 0.75, 0.88, 0.96)
"""Quantiles of the filtered mispricing's size between which states lie."""
OWN = (0.12, 0.3, 0.6, 1.0)
"""Bounds between classes of the own queue, of `Filter.long`."""
STATES = (2 * len(GAPS) + 2) * (len(OWN) + 1) * 3
SEEN = STATES + 2 * len(GAPS) + 2
"""Markets as a side sees them; the last are those whose spread is wide."""


@dataclass(frozen=True)
class Filter:
    """Efficient price less mid, estimated by least squares from what is seen."""

    queue: float
    """`Book.queue`: the scale at which sizes are clipped."""
    long: float
    """Lots that are a long queue: what queues tend to or start with, whichever is more."""
    weights: np.ndarray
    gaps: np.ndarray
    """Bounds between classes of the estimate's size, half-ticks."""
    trend: float
    """Bound between a trend of the signs and none."""
    seconds: float
    """Between two decisions."""

    @property
    def spans(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Time constants of the averages, decisions: short ones and long ones."""

        def of(constants: tuple[float, ...]) -> tuple[float, ...]:
            return constants + tuple(c / self.seconds for c in constants if c / self.seconds > constants[-1])

        return of(SHORT), of(LONG)

    def start(self, n: int) -> tuple[Any, ...]:
        """The memory before the first decision of n episodes."""
        short, long = (np.zeros((n, 2 * len(constants))) for constants in self.spans)
        return None, short, long, np.zeros(n), np.zeros(n)

    def follow(self, memory: tuple[Any, ...], seen: Look) -> tuple[tuple[Any, ...], np.ndarray]:
        """The memory after a decision, and what the estimate is made of, (n, features)."""
        before, short, long, signs, imbalance = memory
        if before is not None:
            events = np.clip(_events(before, seen) / self.queue, -1.7, 1.7)
            move = (seen.ask + seen.bid - before.ask - before.bid).astype(float)
            flow = np.clip(seen.flow / self.queue, -0.7, 0.7)
            brief, slow = self.spans
            short = short + _gain(brief) * (np.repeat([events, imbalance], len(brief), axis=0).T - short)
            long = long + _gain(slow) * (np.repeat([move, flow], len(slow), axis=0).T - long)
            signs = signs + -np.expm1(-min(self.seconds, 1.0) / SIGNS) * (np.sign(seen.flow) - signs)
        now, ask, bid = seen.imbalance, seen.ask_queue, seen.bid_queue
        book = [now, now**3, np.log(bid / ask), ask**-0.5 - bid**-0.5, np.tanh((bid - ask) / self.queue)]
        mixed = [now * np.log(ask + bid), long[:, 0] * np.log(ask * bid)]
        memory = seen, short, long, signs, now
        return memory, np.column_stack([*book, short, long, signs, *mixed])

    def estimate(self, features: np.ndarray) -> np.ndarray:
        """The efficient price less mid, half-ticks, float64 (n,)."""
        return product(features, self.weights)

    def index(self, features: np.ndarray, seen: Look, signs: np.ndarray) -> np.ndarray:
        """The index of the market as each side sees it, int16 (n, 2)."""
        estimate, wide = self.estimate(features), seen.ask - seen.bid > 1
        gaps = np.concatenate([-self.gaps[::-1], [0], self.gaps])

        def of(side: int) -> np.ndarray:
            own = seen.ask_queue if side > 0 else seen.bid_queue
            gap = np.digitize(side * estimate, gaps)
            size = np.digitize(own, np.array(OWN) * self.long)
            trend = np.digitize(side * signs, [-self.trend, self.trend])
            return np.where(wide, STATES + gap, (gap * (len(OWN) + 1) + size) * 3 + trend)

        return both_sides(of)

    def indices(self, paths: Paths) -> np.ndarray:
        """The same at every decision of the paths, (paths, horizon + 1, 2)."""
        return self.read(paths)[0]

    def read(self, paths: Paths) -> tuple[np.ndarray, np.ndarray]:
        """`indices` of the paths and the estimates at every decision, half-ticks, float32 (paths, horizon +
        1)."""
        features, signs = _all_features(self, paths)
        seen, n = look(paths), len(paths.rows)
        each = (Look(*(part[:, t] for part in seen)) for t in range(features.shape[1]))
        found = [self.index(features[:, t], now, signs[:, t]) for t, now in enumerate(each)]
        estimates = self.estimate(features.reshape(-1, features.shape[2])).reshape(features.shape[:2])
        indices = np.ascontiguousarray(np.stack(found, axis=1)).reshape(n, -1, 2)
        return indices, estimates.astype(np.float32)


def _gain(constants: tuple[float, ...]) -> np.ndarray:
    return np.tile(-np.expm1(-1 / np.array(constants)), 2)


def _events(before: Look, now: Look) -> np.ndarray:
    """Order flow imbalance (Cont, Kukanov and Stoikov 2014): what the book's events did to the touch,
    lots."""

    def side(sign: int, price: str, queue: str) -> np.ndarray:
        moved = sign * (getattr(now, price) - getattr(before, price))
        old, new = getattr(before, queue), getattr(now, queue)
        return np.where(moved > 0, new, np.where(moved == 0, new - old, -old))

    return side(1, "bid", "bid_queue") - side(-1, "ask", "ask_queue")


def _all_features(filtered: Filter, paths: Paths) -> tuple[np.ndarray, np.ndarray]:
    """Features and trend of signs at every decision, (paths, horizon + 1, ...)."""
    seen, memory, rows, signs = look(paths), filtered.start(len(paths.rows)), [], []
    for t in range(paths.config.horizon + 1):
        memory, features = filtered.follow(memory, Look(*(part[:, t] for part in seen)))
        rows.append(features.astype(np.float32))
        signs.append(memory[3])
    return np.stack(rows, axis=1), np.stack(signs, axis=1)


def gap(paths: Paths) -> np.ndarray:
    """Efficient price less mid at every decision, half-ticks, (paths, horizon + 1)."""
    at = paths.decisions
    return at["price"] - (at["ask"] + at["bid"]).astype(np.float32)


WARM = 20
"""Decisions until the filter's averages are of use."""


def fit_filter(paths: Paths) -> Filter:
    """The filter, fitted to the true efficient price of training paths."""
    market, nothing = paths.market, np.zeros(0)
    long = max(market.queue, market.refill)
    empty = Filter(market.queue, long, nothing, nothing, 0.0, market.step_seconds)
    features, signs = _all_features(empty, paths)
    x = features[:, WARM:].reshape(-1, features.shape[2]).astype(float)
    weights = solve_linear(
        product(x.T, x) + 1e-3 * np.eye(x.shape[1]), product(x.T, gap(paths)[:, WARM:].ravel())
    )
    return dataclasses.replace(
        empty,
        weights=weights,
        gaps=np.quantile(abs(product(x, weights)), GAPS),
        trend=float(np.quantile(abs(signs), 0.4)),
    )


# What is told ---------------------------------------------------------------------------------------------

GAP_NODES = np.array([-3.5, -2, -1.2, -0.6, 0, 0.6, 1.2, 2, 3.5])
"""Efficient price against the middle of a spread of one tick behind the own touch, half-ticks; above 0 it is
against the order."""
OWN_NODES, OTHER_NODES = np.log([2.0, 8, 20, 45, 90, 200]), np.log([5.0, 25, 70, 180])
TOLD = len(GAP_NODES) * len(OWN_NODES) * len(OTHER_NODES) * 2


@compiled
def nodes_near(row, side, scale):
    """The nodes around what is told of a row: (lowest along each axis), (weights of the next ones), and
    whether the metaorder is against the order; `scale` is `Book.queue` over that for which the nodes were
    made."""
    _, queue, _, other, _, _ = view(row, side)
    touch = row.ask if side == 1 else row.bid
    a, wa = between(side * (row.price - 2 * touch) + 1, GAP_NODES)
    b, wb = between(np.log(queue / scale), OWN_NODES)
    c, wc = between(np.log(other / scale), OTHER_NODES)
    return (a, b, c), (wa, wb, wc), 1 if side * row.meta > 0 else 0


@compiled
def node(a, b, c, against):
    """The index of a node."""
    return 2 * ((a * len(OWN_NODES) + b) * len(OTHER_NODES) + c) + against


@compiled
def _assign(decisions, scale, rng, index):
    """Every state falls on a node near it at random, with the weights of interpolation."""
    for i in range(index.shape[0]):
        for t in range(index.shape[1]):
            for s in range(2):
                (a, b, c), (wa, wb, wc), against = nodes_near(decisions[i, t], 1 - 2 * s, scale)
                a += int(rng.random() < wa)
                b += int(rng.random() < wb)
                c += int(rng.random() < wc)
                index[i, t, s] = node(a, b, c, against)


NODES_FOR = 90.0
"""The market's `queue` for which the nodes were chosen."""


def told_indices(paths: Paths, seed: int) -> np.ndarray:
    """The told programme's index of the market at every decision, int16 (paths, horizon + 1, 2)."""
    index = np.zeros((*paths.decisions.shape, 2), np.int16)
    _assign(paths.decisions, paths.market.queue / NODES_FOR, np.random.default_rng(seed), index)
    return index


# The programme --------------------------------------------------------------------------------------------

STEP = np.dtype([("source", "i4"), ("target", "i4"), ("gain", "f4"), ("lots", "i4")])
"""A decision of one side: where it was and what it chose, where it came to, what its fills were worth."""


@compiled
def _place_between(side, price, left, ahead, touch, rng):
    """As `place_of`, with the place at the touch drawn by the weights of interpolation between `CHARGED`."""
    if left > 0 and side * (price - touch) <= 0:
        k, weight = between(ahead, CHARGED)
        return 1 + k + int(rng.random() < weight)
    return place_of(side, price, left, ahead, touch)


@compiled
def deviate(choice, where, wide, rng):
    """Another choice than the policy's, to be tried for a while."""
    if choice != LEAVE and rng.random() < 0.7:
        return LEAVE
    if choice != BEHIND + 1 and rng.random() < 0.5:
        return BEHIND + 1
    if wide and rng.random() < 0.5:
        return INSIDE
    return TOUCH if where >= ONE_BEHIND and rng.random() < 0.3 else HOLD


@compiled
def _explore(rows, index, table, terms, rate, length, smooth, rng, steps):
    """A policy that now and then, for about `length` decisions, does something else; one side at a time."""
    for i in range(rows.shape[0]):
        for s in range(2):
            side = 1 - 2 * s
            price, left, ahead, odd, mode = 0, 0, 0, 0, 0
            touch = view(rows[i, 0], side)[0]
            where = 0
            for t in range(index.shape[1] - 1):
                row, end = rows[i, t * terms.substeps], rows[i, (t + 1) * terms.substeps]
                touch, _, opposite, _, _, _ = view(row, side)
                choice = table[index[i, t, s], where]
                if odd == 0 and rng.random() < rate:
                    odd = 1 + int(-np.log(rng.random()) * length)
                    mode = deviate(choice, where, side * (touch - opposite) > 1, rng)
                if odd > 0:
                    odd -= 1
                    choice = HOLD if mode == TOUCH and where < ONE_BEHIND else mode
                step = steps[i, t, s]
                step.source = (index[i, t, s] * PLACES + where) * CHOICES + choice
                lots, want = asked(row, side, choice, price, left, terms)
                price, left, ahead = put(row, side, lots, want, left, price, ahead, terms.depth)
                for k in range(t * terms.substeps, (t + 1) * terms.substeps):
                    if left > 0:
                        taken, ahead = micro(
                            rows[i, k], rows[i, k + 1], side, price, left, ahead, terms.depth
                        )
                        left -= taken
                        if taken > 0:
                            step.lots += taken
                            step.gain += worth(side, price, end, terms)
                touch = view(end, side)[0]
                if smooth:
                    where = _place_between(side, price, left, ahead, touch, rng)
                else:
                    where = place_of(side, price, left, ahead, touch)
                step.target = index[i, t + 1, s] * PLACES + where


@compiled
def worth(side, price, end, terms):
    """Of a lot filled at `price`, at the efficient price of the decision's end, less the fee; half-ticks."""
    return side * (2.0 * price - end.price) - terms.fee * 2.0 * (price + terms.start)


class Experience:
    """Sums over explored decisions, from which a programme is solved."""

    def __init__(self, markets: int) -> None:
        self.shape = markets, PLACES, CHOICES
        states, n = markets * PLACES, markets * PLACES * CHOICES
        self.sums = np.zeros((3, n))  # decisions, worth of fills, lots
        self.moves = sparse.csr_matrix((n, states), dtype=np.float32)

    def add(self, steps: np.ndarray) -> None:
        """What was seen in `steps`, STEP (...)."""
        s = steps.ravel()
        n = self.sums.shape[1]
        for row, weights in zip(self.sums, (None, s["gain"], s["lots"]), strict=True):
            row += np.bincount(s["source"], weights, minlength=n)
        ones = np.ones(len(s), np.float32)
        self.moves = self.moves + sparse.csr_matrix((ones, (s["source"], s["target"])), self.moves.shape)

    def fade(self, share: float) -> None:
        """Forget all but a share: later rounds explore nearer to the best policy."""
        self.sums *= share
        self.moves = self.moves * np.float32(share)

    def solve(self, prices: np.ndarray, values: np.ndarray, sweeps: int) -> tuple[np.ndarray, np.ndarray]:
        """The best choices by relative value iteration.

        Parameters
        ----------
        prices
            Shadow price of a lot at each level, half-ticks.
        values
            First guess of the values, float32 (markets x PLACES, levels).

        Returns
        -------
        tuple
            table, uint8 (markets, PLACES, levels), and the values. A choice that was hardly seen is not made;
            a place that was hardly seen is worth what no order is.
        """
        seen = self.sums[0] >= LEAST
        count = np.maximum(self.sums[0, seen], 1)[:, None]
        gain = ((self.sums[1, seen][:, None] + prices * self.sums[2, seen][:, None]) / count).astype(
            np.float32
        )
        moves = sparse.diags((1 / count[:, 0]).astype(np.float32)) @ self.moves[seen]
        worths = np.full((len(seen), len(prices)), -np.inf, np.float32)
        known = seen.reshape(self.shape).any(axis=2)
        for _ in range(sweeps):
            worths[seen] = gain + moves @ values
            best = worths.reshape(*self.shape, -1).max(axis=2)
            none = np.where(known[:, :1, None], best[:, :1], 0)
            best = np.where(known[:, :, None], best, none)
            values = (best - best[:1, :1]).reshape(values.shape)
        table = worths.reshape(*self.shape, -1).argmax(axis=2).astype(np.uint8)
        return np.where(known[:, :, None], table, LEAVE).astype(np.uint8), values


LEAST = 8
"""Decisions from which a choice is judged."""
FIRST = (100.0, 20.0, 5.0)
"""Lengths of the deviations in the first exploration, decisions."""
LATER = ((0.02, 5.0), (0.05, 2.0), (0.03, 15.0))
"""Rates (per decision) and lengths (seconds) of those of later rounds."""
PRICES = np.linspace(-1.5, 1.5, 2 * LEVELS + 1)
"""Shadow prices of the levels, half-ticks."""
SCALES = (0.0, 0.5, 1.0, 2.0)
"""Levels per lot that are tried."""
KEPT = 0.3
"""Share of the experience that the next round keeps."""


@dataclass(frozen=True)
class Programme:
    """A solved programme."""

    table: np.ndarray
    """uint8 (markets, PLACES, levels)."""
    scale: float
    """Levels per lot of position."""
    values: np.ndarray
    """Of markets and places at no position, float32 (markets, PLACES), half-ticks."""


def solve(
    paths: Paths,
    index: np.ndarray,
    markets: int,
    *,
    rounds: int,
    smooth: bool = False,
    seed: int = 0,
    note: Callable[[], Any] = lambda: None,
) -> Programme:
    """The best of `rounds` of exploring and solving, by what it earns on the paths.

    One round is not enough: what a choice leads to depends on what is chosen after it, and orders that a good
    policy would have left long ago are met too often by one that leaves at random.
    """
    terms, seconds = terms_of(paths.config), paths.market.step_seconds
    experience, rng = Experience(markets), np.random.default_rng(seed)

    def explore(table: np.ndarray, rate: float, length: float) -> None:
        steps = np.zeros((*paths.decisions[:, 1:].shape, 2), STEP)
        _explore(paths.rows, index, table, terms, rate, length, smooth, rng, steps)
        experience.add(steps)

    for length in FIRST:
        explore(np.full((markets, PLACES), HOLD, np.uint8), 1 / length, length)
    values = np.zeros((markets * PLACES, len(PRICES)), np.float32)
    best, most = None, -np.inf
    for turn in range(rounds):
        table, values = experience.solve(PRICES, values, 150 if turn == 0 else 60)
        for scale in SCALES:
            earned = value(paths, play(paths, index, table, scale)).mean()
            if earned > most:
                most = earned
                best = Programme(table, scale, values[:, LEVELS].reshape(markets, PLACES))
        note()
        if turn + 1 < rounds:
            experience.fade(KEPT)
            for rate, length in LATER:
                explore(np.ascontiguousarray(table[:, :, LEVELS]), rate, length / seconds)
    assert best is not None
    return best
