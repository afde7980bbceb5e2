"""Solvable markets as information chains, and the one backward recursion that optimises and evaluates them.

In `brownian` and `hidden-regime` our orders change neither the market nor what is seen of it, so all that a
quoting rule needs is a Markov chain over *information states*, and with each step its market orders and its
expected move of the mid. Orders come in four classes: 0 none, 1 a buy, 2 a sell, 3 both. With the chances
u = exp(-kappa a) and v = exp(-kappa b) that an order which arrives fills our ask at distance a, our bid at b,
the value of quoting (a, b) at position q and then going on with value V is

    base + u (A1 a + A) + v (B1 b + B) + u v D                                                          (*)

where, with G_c(q') = E[1{class c} (V(q', next state) + q' (S' - S) - phi dt q'^2)],

    A1 = P(a buy), A = G_1(q-1) - G_1(q) + G_3(q-1) - G_3(q), D = 2 G_3(q) - G_3(q-1) - G_3(q+1),
    base = sum of G_c(q),   B1 and B the mirror image.

Which information the policy has is which chain is used. A chain may carry a hidden part: the policy sees only
the *label* of a state, and the quotes of a label are those of all its states.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sparse
from numba import njit

from mmenv.config import ConfigError, EnvConfig, Market, require
from mmenv.market.brownian import Brownian
from mmenv.market.hidden_regime import HiddenRegime

Array = np.ndarray
Progress = Callable[[], object]
"""Called after every step of a backward pass."""

CLASSES = 4
REGIMES = np.array([-1, 0, 1])


# --- The problem --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What is solved besides the chain: limits and reward, in price units, lots and steps."""

    horizon: int
    limit: int
    fill_decay: float
    max_distance: float
    phi: float
    """Penalty per step and squared lot: phi x dt."""
    alpha: float

    @property
    def positions(self) -> Array:
        """Positions -limit ... limit, int (2 limit + 1,): the last axis of every table."""
        return np.arange(-self.limit, self.limit + 1)


def make_problem(config: EnvConfig) -> Problem:
    """The problem of `config`. Raises `ConfigError` in a sentence where no exact solution is implemented.

    The solutions assume that the daily loss limit is never reached.
    """
    market, risk, reward, box = config.market, config.risk, config.reward, config.quote
    if not isinstance(market, (Brownian, HiddenRegime)):
        raise ConfigError(
            f"market = {market.name!r} has no exact optimum: only 'brownian' and 'hidden-regime' have."
        )
    drawn = ", ".join(d.name for d in config.randomise)
    require(not drawn, "EnvConfig", "randomise", drawn, "empty for an exact optimum: solve a single member")
    require(risk.order_lots == 1, "RiskConfig", "order_lots", risk.order_lots, "1 for an exact optimum")
    for name in ("spread_capture", "adverse_selection", "carry", "fees"):
        weight = getattr(reward, name)
        require(weight == 1.0, "RewardConfig", name, weight, "1.0 for an exact optimum")
    require(
        config.maker_fee_bp == 0.0, "EnvConfig", "maker_fee_bp", config.maker_fee_bp, "0 for an exact optimum"
    )
    every_pair = "for an exact optimum, which may quote any pair of distances up to max_distance"
    top = box.max_distance
    low, high, skew = box.min_half_spread, box.max_half_spread, box.max_skew
    require(low == 0.0, "QuoteConfig", "min_half_spread", low, f"0 {every_pair}")
    require(high >= top, "QuoteConfig", "max_half_spread", high, f"at least {top:g} {every_pair}")
    require(skew >= top / 2, "QuoteConfig", "max_skew", skew, f"at least {top / 2:g} {every_pair}")
    return Problem(
        horizon=config.horizon,
        limit=risk.position_limit,
        fill_decay=market.fill_decay,
        max_distance=box.max_distance,
        phi=reward.inventory_penalty * market.step_seconds,
        alpha=reward.terminal_penalty,
    )


# --- Chains -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """A chain of `labels x hidden` states; state s has label s // hidden, which is all the policy sees."""

    operators: tuple[sparse.csr_array, ...]
    """Per class of orders: chance of that class and of the next state, (states, states)."""
    drift: Array
    """E[1{class} (S' - S)], float (4, states)."""
    start: Array
    """Distribution of the first state, float (states,)."""
    hidden: int = 1

    @property
    def chance(self) -> Array:
        """Chance of each class of orders, float (4, states)."""
        return np.stack([np.asarray(operator.sum(axis=1)).ravel() for operator in self.operators])

    @property
    def states(self) -> int:
        return len(self.start)

    @property
    def labels(self) -> int:
        return self.states // self.hidden


def brownian_chain(market: Brownian) -> Chain:
    """One state: orders are independent and the mid is a martingale that no order moves."""
    p = order_chance(market)
    chances = ((1 - p) ** 2, p * (1 - p), p * (1 - p), p * p)
    operators = tuple(sparse.csr_array([[chance]]) for chance in chances)
    return Chain(operators, np.zeros((CLASSES, 1)), np.ones(1))


def order_chance(market: Brownian) -> float:
    """p: chance of a market order in a step, per side."""
    return -math.expm1(-market.arrival_rate * market.step_seconds)


@dataclass(frozen=True)
class Outcomes:
    """The 27 things that can be seen of one step of `hidden-regime`, and their chances in each regime."""

    buy: Array
    """Lots of buy market orders, int (27,): 0, 1 or 2."""
    sell: Array
    jump: Array
    """Move of the mid besides its impact part, int (27,): -1, 0 or 1."""
    move: Array
    """Move of the mid, price units, float (27,)."""
    chance: Array
    """Given the regime, float (3, 27): rows -1, 0, +1."""
    transition: Array
    """Regime to next regime, float (3, 3)."""
    stationary: Array
    """Distribution of the first regime, float (3,)."""
    impact: float
    """Move of the mid with a buy."""

    @property
    def order_class(self) -> Array:
        return (self.buy > 0) + 2 * (self.sell > 0)

    def index(self, buy: Array, sell: Array, move: Array) -> Array:
        """Which outcome was seen, int (n,), from lots bought and sold and the move of the mid."""
        jump = np.rint(move - self.impact * (np.sign(buy) - np.sign(sell)))
        buy, sell, jump = np.clip(buy, 0, 2), np.clip(sell, 0, 2), np.clip(jump, -1, 1)
        return ((buy * 3 + sell) * 3 + jump + 1).astype(np.int64)


def outcomes(market: HiddenRegime) -> Outcomes:
    """The outcomes of one step, as the market's definition gives them."""
    buy, sell, jump = (axis.ravel() for axis in np.meshgrid([0, 1, 2], [0, 1, 2], [-1, 0, 1], indexing="ij"))

    def lots_chance(lots: Array, toward: Array) -> Array:
        """P(lots | regime): the orders of one side, which is the informed one where `toward` is +1."""
        arrives = market.arrival + toward * market.tilt
        large = np.where(toward > 0, market.large_informed, market.large)
        return np.stack([1 - arrives, arrives * (1 - large), arrives * large])[lots]

    chance = np.empty((3, 27))
    for row, regime in enumerate(REGIMES):
        up, down = (market.jump * (1 + side * regime * market.drift) for side in (1, -1))
        moves = np.array([down, 1 - up - down, up])[jump + 1]
        chance[row] = lots_chance(buy, regime) * lots_chance(sell, -regime) * moves
    leave = 1 / market.mean_stay
    transition = np.array(
        [[1 - leave, leave, 0.0], [leave / 2, 1 - leave, leave / 2], [0.0, leave, 1 - leave]]
    )
    move = jump + market.impact * (np.sign(buy) - np.sign(sell))
    return Outcomes(buy, sell, jump, move, chance, transition, np.array([0.25, 0.5, 0.25]), market.impact)


class View(Protocol):
    """What a policy remembers of `hidden-regime`: a summary of all outcomes, and a grid of summaries."""

    start: Array
    """The summary before the first step, (1, d)."""
    nodes: Array
    """The grid, (labels, d)."""

    def follow(self, summary: Array, outcome: Array) -> Array:
        """The summaries, (n, d), once the outcomes, int (n,), are seen too."""

    def locate(self, summary: Array) -> tuple[Array, Array]:
        """Nodes to interpolate from, int (n, k), and their weights, float (n, k)."""


class Blind:
    """Remembers nothing: quotes by time and position."""

    start = nodes = np.zeros((1, 0))

    def follow(self, summary: Array, outcome: Array) -> Array:
        return summary

    def locate(self, summary: Array) -> tuple[Array, Array]:
        return np.zeros((len(summary), 1), np.int64), np.ones((len(summary), 1))


class LastOutcome:
    """Remembers the outcome of the last step; before the first, that of a step without events."""

    nodes = np.arange(27.0)[:, None]

    def __init__(self, market: HiddenRegime) -> None:
        nothing = np.zeros(1)
        self.start = outcomes(market).index(nothing, nothing, nothing)[:, None].astype(float)

    def follow(self, summary: Array, outcome: Array) -> Array:
        return outcome[:, None].astype(float)

    def locate(self, summary: Array) -> tuple[Array, Array]:
        return summary.astype(np.int64), np.ones((len(summary), 1))


class FlowAverage:
    """Remembers an exponential average of the signed flow, buy lots - sell lots.

    Between two nodes the chain goes to either at random with the chances that keep the mean: its average is
    slightly noisier than the real one, so that its value rises to the real one's as the grid gets finer.
    """

    start = np.zeros((1, 1))

    def __init__(self, market: HiddenRegime, count: int, time_constant: float) -> None:
        """`count` nodes, five standard deviations wide; the average forgets 1/e in `time_constant` steps."""
        seen = outcomes(market)
        self._flow = (seen.buy - seen.sell).astype(float)
        self._keep = math.exp(-1 / time_constant)
        mean = seen.chance @ self._flow
        variance = seen.chance @ self._flow**2 - mean**2
        shrink = (1 - self._keep) / (1 + self._keep)
        span = float(np.max(np.abs(mean) + 5 * np.sqrt(variance * shrink)))
        self.nodes = np.linspace(-1, 1, count)[:, None] * max(span, 1e-3)

    def follow(self, summary: Array, outcome: Array) -> Array:
        return self._keep * summary + (1 - self._keep) * self._flow[outcome, None]

    def locate(self, summary: Array) -> tuple[Array, Array]:
        first, step = self.nodes[0, 0], self.nodes[1, 0] - self.nodes[0, 0]
        at = np.clip((summary - first) / step, 0, len(self.nodes) - 1)
        lower = np.minimum(at.astype(np.int64), len(self.nodes) - 2)
        upper_share = at - lower
        return np.hstack([lower, lower + 1]), np.hstack([1 - upper_share, upper_share])


class Belief:
    """Remembers the chances of the three regimes given all outcomes: nothing else of the past matters.

    The grid is triangular with `resolution` (even) intervals along each edge. Interpolation is quadratic on
    the triangles of even nodes; linear interpolation would bound the value from above, because it is convex
    in the belief, but come down to it several times as slowly.
    """

    def __init__(self, market: HiddenRegime, resolution: int) -> None:
        self._seen = outcomes(market)
        self._half = resolution // 2
        self.start = self._seen.stationary[None]
        low, high = np.meshgrid(np.arange(resolution + 1), np.arange(resolution + 1), indexing="ij")
        inside = low + high <= resolution
        self.nodes = np.stack([low, resolution - low - high, high], axis=-1)[inside] / resolution
        # Two rows and columns more: triangles beyond an edge get weight zero, but are looked up.
        self._number = np.zeros((resolution + 3, resolution + 3), np.int64)
        self._number[:-2, :-2][inside] = np.arange(len(self.nodes))

    def follow(self, summary: Array, outcome: Array) -> Array:
        """Bayes on the regime in which the outcome was seen, then one transition of the regime."""
        joint = summary * self._seen.chance.T[outcome]
        total = joint.sum(axis=1, keepdims=True)
        # An outcome that no believed regime explains says nothing.
        posterior = np.where(total > 0, joint / np.where(total > 0, total, 1.0), summary)
        return posterior @ self._seen.transition

    def locate(self, summary: Array) -> tuple[Array, Array]:
        """Lagrange's basis: w (2w - 1) at the corners, 4 w w' in the middle of the edges; w barycentric."""
        x, y = summary[:, 0] * self._half, summary[:, 2] * self._half
        i, j = (np.clip(z, 0, self._half).astype(np.int64) for z in (x, y))
        x, y = x - i, y - j
        upper = x + y > 1
        w = np.where(upper, [x + y - 1, 1 - y, 1 - x], [1 - x - y, x, y])
        i, j = np.stack([i + upper, i + 1, i]), np.stack([j + upper, j, j + 1])
        rolled_i, rolled_j, rolled_w = (np.roll(z, -1, axis=0) for z in (i, j, w))
        nodes = self._number[np.concatenate([2 * i, i + rolled_i]), np.concatenate([2 * j, j + rolled_j])]
        return nodes.T, np.concatenate([w * (2 * w - 1), 4 * w * rolled_w]).T


def hidden_chain(market: HiddenRegime, view: View) -> Chain:
    """The policy sees the view's summary; the regime is hidden behind it."""
    seen = outcomes(market)
    start = _spread(view, view.start).toarray()[0]
    size = 3 * len(view.nodes)
    operators = [sparse.csr_array((size, size)) for _ in range(CLASSES)]
    drift = np.zeros((CLASSES, size))
    for k, order_class in enumerate(seen.order_class):
        summary = _spread(view, view.follow(view.nodes, np.full(len(view.nodes), k)))
        regime = sparse.csr_array(seen.chance[:, k, None] * seen.transition)
        operators[order_class] = operators[order_class] + sparse.csr_array(sparse.kron(summary, regime))
        drift[order_class] += np.tile(seen.chance[:, k] * seen.move[k], len(view.nodes))
    return Chain(tuple(operators), drift, np.kron(start, seen.stationary), hidden=3)


def oracle_chain(market: HiddenRegime) -> Chain:
    """The policy sees the regime: the blind chain with nothing hidden."""
    return dataclasses.replace(hidden_chain(market, Blind()), hidden=1)


def belief_chain(market: HiddenRegime, view: Belief) -> Chain:
    """The policy sees its belief, behind which nothing more is hidden: outcomes come by the believed chances.

    Interpolation weights stand for chances of the next node; a few of them are negative.
    """
    seen = outcomes(market)
    count = len(view.nodes)
    operators = [sparse.csr_array((count, count)) for _ in range(CLASSES)]
    drift = np.zeros((CLASSES, count))
    for k, order_class in enumerate(seen.order_class):
        chance = view.nodes @ seen.chance[:, k]
        following = _spread(view, view.follow(view.nodes, np.full(count, k)))
        operators[order_class] = operators[order_class] + sparse.csr_array(following * chance[:, None])
        drift[order_class] += chance * seen.move[k]
    return Chain(tuple(operators), drift, _spread(view, view.start).toarray()[0])


def _spread(view: View, summary: Array) -> sparse.csr_array:
    """Interpolation of each summary from the nodes, (n, labels)."""
    nodes, weights = view.locate(summary)
    rows = np.repeat(np.arange(len(summary)), nodes.shape[1])
    shape = (len(summary), len(view.nodes))
    return sparse.csr_array((weights.ravel(), (rows, nodes.ravel())), shape=shape)


# --- The best pair of distances -----------------------------------------------------------------------------


@njit(cache=True)
def _reply(first: float, second: float, kappa: float, top: float) -> float:
    """The distance d in [0, top] that maximises exp(-kappa d) (first d + second), first >= 0."""
    if first <= 0.0:
        return top
    return min(max(1.0 / kappa - second / first, 0.0), top)


@njit(cache=True)
def _settle(ask, bid, a1, a, b1, b, d, kappa, top):  # type: ignore[no-untyped-def]
    """Alternate best replies from (ask, bid) until they stay; no step of it lowers the value (*)."""
    for _ in range(1000):
        new_ask = _reply(a1, a + math.exp(-kappa * bid) * d, kappa, top)
        new_bid = _reply(b1, b + math.exp(-kappa * new_ask) * d, kappa, top)
        change = abs(new_ask - ask) + abs(new_bid - bid)
        ask, bid = new_ask, new_bid
        if change < 1e-12:
            break
    u, v = math.exp(-kappa * ask), math.exp(-kappa * bid)
    return ask, bid, u * (a1 * ask + a) + v * (b1 * bid + b) + u * v * d


@njit(cache=True)
def best_pair(a1, a, b1, b, d, kappa, top):  # type: ignore[no-untyped-def]
    """The distances in [0, top]^2 that maximise (*), and what they add to its base.

    For a fixed bid, (*) rises in the ask up to the best reply ask = 1/kappa - (A + v D)/A1 and falls after
    it, so a maximum is a fixed point of the two best replies, clipped. Their slopes are at most kappa |D|/A1
    and kappa |D|/B1: where kappa^2 D^2 < A1 B1 the replies in turn are a contraction, the fixed point is the
    only one, and so it is the maximum. Elsewhere (steep terminal penalties) several may exist: the search
    then starts from a grid of bids and takes the best.
    """
    starts = 1 if kappa * kappa * d * d < a1 * b1 or d == 0.0 else 65
    best_ask, best_bid, best = _settle(top, top, a1, a, b1, b, d, kappa, top)
    for start in range(1, starts):
        ask, bid, value = _settle(top, top * (start - 1) / (starts - 2), a1, a, b1, b, d, kappa, top)
        if value > best:
            best_ask, best_bid, best = ask, bid, value
    return best_ask, best_bid, best


@njit(cache=True)
def best_pairs(coefficients, kappa, top):  # type: ignore[no-untyped-def]
    """`best_pair` for coefficients (5, labels, positions); asks and bids, (labels, positions)."""
    _, labels, positions = coefficients.shape
    asks = np.empty((labels, positions))
    bids = np.empty((labels, positions))
    for i in range(labels):
        for j in range(positions):
            a1, a, b1, b, d = coefficients[:, i, j]
            asks[i, j], bids[i, j], _ = best_pair(a1, a, b1, b, d, kappa, top)
    return asks, bids


# --- The recursion ------------------------------------------------------------------------------------------


class Recursion:
    """Value and occupation of quoting rules on a chain. Tables of quotes are (horizon, labels, positions).

    A side that the position limit forbids is not quoted, whatever its entry says; solved tables hold
    `max_distance` there.
    """

    def __init__(self, chain: Chain, problem: Problem) -> None:
        """Raises `ConfigError` where the tables would not fit in memory."""
        gigabytes = 8e-9 * problem.horizon * chain.states * (2 * problem.limit + 1)
        require(
            gigabytes < 1, "EnvConfig", "horizon", problem.horizon,
            f"less for an exact solution, whose tables would take {gigabytes:.1f} GB each; or use a smaller "
            "position limit or grid"
        )  # fmt: skip
        self.chain, self.problem = chain, problem
        self._forward = sparse.vstack(chain.operators, format="csr")
        self._backward = sparse.csr_array(self._forward.T)
        self._chance = chain.chance[:, :, None]
        square = problem.positions.astype(float) ** 2
        self._now = chain.drift[:, :, None] * problem.positions - problem.phi * square * self._chance
        self._terminal = np.tile(-problem.alpha * square, (chain.states, 1))

    def coefficients(self, following: Array) -> tuple[Array, Array]:
        """A1, A, B1, B, D of (*), float (5, states, positions), and its base, from the next step's value."""
        count, width = self.chain.states, following.shape[1]
        g = (self._forward @ following).reshape(CLASSES, count, width) + self._now
        sold = np.zeros_like(g)  # the class's value one lot lower, above that here; the mirror image `bought`
        bought = np.zeros_like(g)
        sold[:, :, 1:] = g[:, :, :-1] - g[:, :, 1:]
        bought[:, :, :-1] = -sold[:, :, 1:]
        out = np.zeros((5, count, width))
        out[0] = self._chance[1] + self._chance[3]
        out[1] = sold[1] + sold[3]
        out[2] = self._chance[2] + self._chance[3]
        out[3] = bought[2] + bought[3]
        out[4] = -(sold[3] + bought[3])
        out[:2, :, 0] = out[2:4, :, -1] = out[4, :, 0] = out[4, :, -1] = 0.0
        return out, g.sum(axis=0)

    def evaluate(self, ask: Array, bid: Array) -> Array:
        """Exact value of the quotes from each first state and position, float (states, positions)."""
        return self._run(lambda step, coefficients: (ask[step], bid[step]))

    def optimise(
        self, weights: Array | None = None, progress: Progress | None = None
    ) -> tuple[Array, Array, Array]:
        """Best quotes of each label and position, and the value from each first state and position.

        Where a label hides states, the quotes are the best against `weights` (horizon, states, positions) of
        those states; without hidden states they are the exact optimum.
        """
        shape = (self.problem.horizon, self.chain.labels, 2 * self.problem.limit + 1)
        ask, bid = np.empty(shape), np.empty(shape)

        def rule(step: int, coefficients: Array) -> tuple[Array, Array]:
            if weights is not None:
                weighted = coefficients * weights[step]
                coefficients = weighted.reshape(5, self.chain.labels, self.chain.hidden, -1).sum(axis=2)
            ask[step], bid[step] = best_pairs(
                coefficients, self.problem.fill_decay, self.problem.max_distance
            )
            if progress is not None:
                progress()
            return ask[step], bid[step]

        return ask, bid, self._run(rule)

    def _run(self, rule: Callable[[int, Array], tuple[Array, Array]]) -> Array:
        value = self._terminal
        for step in reversed(range(self.problem.horizon)):
            coefficients, base = self.coefficients(value)
            ask, bid = (np.repeat(side, self.chain.hidden, axis=0) for side in rule(step, coefficients))
            u, v = (np.exp(-self.problem.fill_decay * side) for side in (ask, bid))
            a1, a, b1, b, d = coefficients
            value = base + u * (a1 * ask + a) + v * (b1 * bid + b) + u * v * d
        return value

    def occupation(self, ask: Array, bid: Array) -> Array:
        """Chance of each state and position at each step under the quotes, from position 0, float."""
        shape = (self.problem.horizon, self.chain.states, 2 * self.problem.limit + 1)
        result = np.zeros(shape)
        now = np.zeros(shape[1:])
        now[:, self.problem.limit] = self.chain.start
        for step in range(self.problem.horizon):
            result[step] = now
            u, v = (
                np.exp(-self.problem.fill_decay * np.repeat(side[step], self.chain.hidden, axis=0))
                for side in (ask, bid)
            )
            u[:, 0] = v[:, -1] = 0.0
            classes = (now, _moved(now, u, 0 * v), _moved(now, 0 * u, v), _moved(now, u, v))
            now = self._backward @ np.concatenate(classes)
        return result


def _moved(now: Array, u: Array, v: Array) -> Array:
    """Distribution over positions after an ask filled with chance u and a bid with chance v."""
    down, up = now * u * (1 - v), now * v * (1 - u)
    after = now - down - up
    after[:, :-1] += down[:, 1:]
    after[:, 1:] += up[:, :-1]
    return after


def ascend(
    recursion: Recursion, tolerance: float = 1e-6, progress: Progress | None = None
) -> tuple[Array, Array, Array]:
    """Best quotes of a policy that sees labels only; quotes and value as `Recursion.optimise`.

    Without hidden states one backward pass is the optimum. With them the problem is not a dynamic programme:
    what a label says of the hidden state depends, through the position, on the quotes made before (a short
    position says that there were buyers). Each sweep takes the exact joint distribution of hidden state,
    label and position under the present quotes, then goes backward and gives each (step, label, position) the
    quotes that are best for that distribution and for the quotes already chosen for later. The distribution
    at a step depends on earlier quotes only, so no change of a sweep lowers the value from position 0: it
    rises until no step's quotes can be improved by themselves. The first sweep takes the chain's long-run
    distribution.
    """
    chain, limit = recursion.chain, recursion.problem.limit
    if chain.hidden == 1:
        return recursion.optimise(progress=progress)
    long_run = _long_run(chain)[:, None]
    shape = (recursion.problem.horizon, chain.states, 2 * limit + 1)
    weights = np.broadcast_to(_shares(long_run, chain), shape)
    best = -np.inf
    while True:
        ask, bid, value = recursion.optimise(weights, progress)
        reached = float(chain.start @ value[:, limit])
        if reached - best < tolerance * max(1.0, abs(reached)):
            return ask, bid, value
        best = reached
        weights = recursion.occupation(ask, bid)
        for step in range(len(weights)):
            # States that are never reached get the long-run shares, too small to move any other.
            weights[step] = _shares(weights[step] + 1e-12 * long_run, chain)


def _shares(weights: Array, chain: Chain) -> Array:
    """Weights (states, positions) divided by their sum over the hidden states of each label."""
    grouped = weights.reshape(chain.labels, chain.hidden, -1) + 1e-200
    return np.asarray((grouped / grouped.sum(axis=1, keepdims=True)).reshape(weights.shape))


def _long_run(chain: Chain) -> Array:
    """Distribution of the state after many steps, float (states,)."""
    total = sparse.csr_array(sum(chain.operators).T)
    now = chain.start
    for _ in range(10_000):
        before, now = now, total @ now
        if np.abs(now - before).sum() < 1e-12:
            break
    return now


@functools.lru_cache(maxsize=8)
def _tabular_chain(market: Market, sees_last: bool) -> Chain:
    if isinstance(market, HiddenRegime):
        return hidden_chain(market, LastOutcome(market) if sees_last else Blind())
    assert isinstance(market, Brownian)
    return brownian_chain(market)


def evaluate_tabular(config: EnvConfig, ask: Array, bid: Array) -> Array:
    """Exact value of a policy without memory, from each starting position, float (2 limit + 1,).

    `ask` and `bid` are distances from the mid in price units, (horizon, 2 limit + 1) for quotes by step and
    position, or, on `hidden-regime`, (horizon, 27, 2 limit + 1) for quotes that also depend on the outcome of
    the last step (`Outcomes.index`). They are clipped to [0, max_distance], as the desk does; an entry of a
    side that the position limit forbids is not read.
    """
    problem = make_problem(config)
    chain = _tabular_chain(config.market, np.ndim(ask) == 3)
    shape = (problem.horizon, chain.labels, 2 * problem.limit + 1)
    tables = []
    for name, table in (("ask", ask), ("bid", bid)):
        table = np.asarray(table, float)
        table = table[:, None, :] if table.ndim == 2 else table
        good = table.shape == shape and bool(np.isfinite(table).all())
        require(good, "evaluate_tabular", name, np.shape(table), f"finite distances of shape {shape}")
        tables.append(np.clip(table, 0.0, problem.max_distance))
    return chain.start @ Recursion(chain, problem).evaluate(*tables)
