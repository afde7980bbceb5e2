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
import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse

from mmenv.engine.products import product
from mmenv.market.brownian import Brownian
from mmenv.market.hidden_regime import HiddenRegime
from policies.solver.outcomes import outcomes
from policies.solver.views import Belief, Blind, View

Array = np.ndarray

CLASSES = 4


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
        chance = product(view.nodes, seen.chance[:, k])
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
