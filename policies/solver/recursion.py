"""The one backward recursion over an information chain that optimises quotes and evaluates them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import scipy.sparse as sparse

from mmenv.actions.spread_skew import SpreadSkew
from mmenv.checks import require
from mmenv.config import EnvConfig
from mmenv.engine.products import product
from mmenv.market.base import Market
from mmenv.market.brownian import Brownian
from mmenv.market.hidden_regime import HiddenRegime
from policies.solver.best_pair import best_pairs
from policies.solver.chain import CLASSES, Chain, brownian_chain, hidden_chain
from policies.solver.orders import Orders, OrdersRecursion, Tables
from policies.solver.problem import Problem, Progress, make_problem
from policies.solver.utility import UtilityRecursion
from policies.solver.views import Blind, LastOutcome

Array = np.ndarray


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
    recursion: Recursion | UtilityRecursion, tolerance: float = 1e-6, progress: Progress | None = None
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
    if isinstance(recursion, UtilityRecursion) or recursion.chain.hidden == 1:
        return recursion.optimise(progress=progress)
    chain, limit = recursion.chain, recursion.problem.limit
    long_run = _long_run(chain)[:, None]
    shape = (recursion.problem.horizon, chain.states, 2 * limit + 1)
    weights = np.broadcast_to(_shares(long_run, chain), shape)
    best = -np.inf
    while True:
        ask, bid, value = recursion.optimise(weights, progress)
        reached = float(product(chain.start, value[:, limit]))
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


def recursion_of(config: EnvConfig, chain: Chain) -> Recursion | UtilityRecursion:
    """The recursion over `chain` that goes with the objective of `config`: mean or certainty equivalent."""
    problem = make_problem(config)
    if problem.risk_aversion == 0:
        return Recursion(chain, problem)
    assert isinstance(config.market, Brownian)
    return UtilityRecursion(config.market, problem)


def evaluate_tabular(config: EnvConfig, ask: Array, bid: Array) -> Array:
    """Exact value of a policy without memory, from each starting position, float (2 limit + 1,): its mean, or
    its certainty equivalent where the configuration has a risk aversion.

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
    if type(config.quote) is not SpreadSkew:
        quotes = Tables.empty(problem.horizon, 2 * problem.limit + 1, 1)
        quotes.ask[..., 0], quotes.bid[..., 0] = (table[:, 0] for table in tables)
        return OrdersRecursion.of(config, Orders(((config.risk.order_lots,),))).evaluate(quotes)
    return product(chain.start, recursion_of(config, chain).evaluate(*tables))
