"""The best quotes for a family of `brownian` markets of a policy that is not told which one it is in, and the
game against an adversary who chooses it.

Members differ in the rate of orders, the decay of fills and in how far the mid moves against whoever holds
a position (`train.papers.adversary`). The volatility changes no mean, nor does a drift that no position
decides.

A policy that sees time and position alone quotes the same in all of them. What a position says of the member
depends on the quotes made before, so the best such policy is no dynamic programme; as in
`policies.solver.recursion.ascend`, each sweep takes the exact distribution of the position in each member,
then goes backward and gives each time and position the quotes that are best for all members together, and
none lowers the weighted value. What is found is a local optimum that no change of quotes at one time and
position improves.

The adversary weighs the members so that the policy's score is least (Spooner and Savani 2020 let one choose
drift and fill decay). He plays Hedge (Freund and Schapire 1997): a member's weight falls exponentially with
the sum of the policy's scores on it, and the policy answers with what is best against these weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmenv.checks import require
from mmenv.config import EnvConfig
from mmenv.engine.products import product
from mmenv.market.brownian import Brownian
from policies.solver.best_blind import improve, step_back, step_forward
from policies.solver.chain import order_chance
from policies.solver.problem import Progress, make_problem, solved_market

Array = np.ndarray

TICK = 0.05
"""What quotes are multiples of, price units."""


@dataclass(frozen=True)
class Quotes:
    """Distances of ask and bid by time and position, (horizon, positions), price units."""

    ask: Array
    bid: Array


@dataclass(frozen=True)
class Round:
    """A round of the game: what both sides played, and how it went."""

    quotes: Quotes
    weights: Array
    """Of the members that the quotes are the best for, (members,)."""
    scores: Array
    """Of the quotes in each member, (members,)."""

    @property
    def least(self) -> float:
        """The score in the worst member."""
        return float(self.scores.min())

    @property
    def expected(self) -> float:
        """The score under the weights, which no quotes that are known earn more than."""
        return product(self.weights, self.scores)


class BlindFamily:
    """A family of members that a policy is not told."""

    def __init__(self, configs: Sequence[EnvConfig], drifts: Sequence[float] | None = None) -> None:
        """`configs`: the members, alike in all but the market; `drifts`: of their mids against the position
        at the decision, price units a second.

        Raises `ConfigError` where a member has no exact solution or is another problem.
        """
        problems = [make_problem(config) for config in configs]
        markets = [solved_market(config.market, (Brownian,)) for config in configs]
        first = self.problem = problems[0]
        for config, each in zip(configs, problems, strict=True):
            alike = (each.horizon, each.limit, each.max_distance, each.phi, each.alpha) == (
                first.horizon, first.limit, first.max_distance, first.phi, first.alpha
            )  # fmt: skip
            require(alike, "BlindFamily", "configs", config, "alike in all but rate and decay of orders")
        given = np.zeros(len(markets)) if drifts is None else np.asarray(drifts, float)
        require(len(given) == len(markets), "BlindFamily", "drifts", drifts, f"{len(markets)} numbers")
        self._drift = given * np.array([market.step_seconds for market in markets])
        self._arrival = np.array([order_chance(market) for market in markets])
        self._kappas = np.array([market.fill_decay for market in markets])
        square = self.problem.positions.astype(float) ** 2
        self._cost = self.problem.phi * square
        self._ended = np.tile(-self.problem.alpha * square, (self.size, 1))

    @property
    def size(self) -> int:
        """How many members there are."""
        return len(self._kappas)

    def values(self, quotes: Quotes) -> Array:
        """Exact value of the quotes in each member, from position 0, (members,)."""
        value = self._ended
        for step in reversed(range(self.problem.horizon)):
            value = self._back(value, quotes.ask[step], quotes.bid[step])
        return np.asarray(value[:, self.problem.limit])

    def best(
        self, weights: Array, start: Quotes | None = None, tolerance: float = 1e-5
    ) -> tuple[Quotes, Array]:
        """The best quotes for members weighted by `weights`, (members,), from those of `start` on, and their
        values in each. Sweeps end with one that raises the weighted value by less than `tolerance` of it."""
        quotes = start or self._first()
        values = self.values(quotes)
        while True:
            before = product(weights, values)
            quotes, values = self._sweep(quotes, weights)
            if product(weights, values) - before <= tolerance * abs(before):
                return quotes, values

    def play(self, rounds: int, scale: Array, progress: Progress | None = None) -> list[Round]:
        """The game in which the score of a member is the value there over its `scale`, (members,)."""
        played: list[Round] = []
        sums, quotes, spread = np.zeros(self.size), self._first(), 1.0
        for count in range(1, rounds + 1):
            # The rate of Hedge for as many rounds of scores that differ by `spread`.
            rate = math.sqrt(8 * math.log(self.size) / count) / spread
            weights = np.exp(-rate * (sums - sums.min()))
            weights /= weights.sum()
            quotes, values = self.best(weights / scale, quotes)
            scores = values / scale
            played.append(Round(quotes, weights, scores))
            sums += scores
            if count == 1:
                spread = max(float(np.ptp(scores)), 1e-12)
            if progress is not None:
                progress()
        return played

    def _first(self) -> Quotes:
        """Both sides at the distance that earns most in a member of mean fill decay."""
        shape = (self.problem.horizon, 2 * self.problem.limit + 1)
        typical = np.round(1 / self._kappas.mean() / TICK) * TICK
        return Quotes(np.full(shape, typical), np.full(shape, typical))

    def _sweep(self, quotes: Quotes, weights: Array) -> tuple[Quotes, Array]:
        reached = self._reached(quotes) * weights[:, None]
        # Positions that are never reached get quotes too, those for all members alike.
        reached += 1e-12 * (weights / weights.sum())[:, None]
        ask, bid, value = quotes.ask.copy(), quotes.bid.copy(), self._ended
        for step in reversed(range(self.problem.horizon)):
            improve(
                value, ask[step], bid[step], reached[step], self._drift, self._cost, self._arrival,
                self._kappas, TICK, self.problem.max_distance,
            )  # fmt: skip
            value = self._back(value, ask[step], bid[step])
        return Quotes(ask, bid), np.asarray(value[:, self.problem.limit])

    def _back(self, value: Array, ask: Array, bid: Array) -> Array:
        """Values one step before those given, under quotes by position."""
        return np.asarray(step_back(value, ask, bid, self._drift, self._cost, self._arrival, self._kappas))

    def _reached(self, quotes: Quotes) -> Array:
        """Chance of each position at each step, (horizon, members, positions)."""
        found = np.zeros((self.problem.horizon, *self._ended.shape))
        now = np.zeros(self._ended.shape)
        now[:, self.problem.limit] = 1
        for step in range(self.problem.horizon):
            found[step] = now
            now = step_forward(now, quotes.ask[step], quotes.bid[step], self._arrival, self._kappas)
        return found
