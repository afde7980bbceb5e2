"""The recursion of `brownian` for actions that choose more than a pair of distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmenv.actions.ladder import Ladder
from mmenv.actions.size import Size
from mmenv.actions.spread_skew import SpreadSkew
from mmenv.actions.taker import Taker
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.market.brownian import Brownian
from policies.solver.best_orders import orders_back
from policies.solver.chain import order_chance
from policies.solver.problem import Problem, Progress, make_problem

Array = np.ndarray


@dataclass(frozen=True)
class Orders:
    """What an action may choose from at every step."""

    sizes: tuple[tuple[int, ...], ...]
    """Lots of each level of a side, the nearest first: one of these on either side."""
    taker_lots: int = 0
    """The most lots of a market order."""
    taker_cost: float = 0.0
    """What one pays a lot, price units."""
    arguments: tuple[str, ...] = ()
    """What `to_action` takes beside the distances; see `best_orders`."""


def orders_of(config: EnvConfig) -> Orders:
    """What the action of `config` may choose from; `ConfigError` for one whose optimum is not known."""
    action, lots = config.quote, config.risk.order_lots
    if type(action) is Taker:
        return Orders(((lots,),), action.taker_lots, action.half_spread, ("lots",))
    if type(action) is Ladder:
        return Orders(((1,) * action.levels,), arguments=("ask_step", "bid_step"))
    if type(action) is Size:
        return Orders(tuple((k,) for k in range(lots + 1)), arguments=("ask_share", "bid_share"))
    if type(action) is SpreadSkew:
        return Orders(((lots,),))
    raise ConfigError(f"EnvConfig.quote = {action.name!r} is not possible: it has no exact optimum.")


@dataclass(frozen=True)
class Tables:
    """Orders by step and position: arrays whose first axes are (horizon, 2 limit + 1)."""

    ask: Array
    """Distances of the levels from the mid, price units, (..., levels); `max_distance` where the limit leaves
    no room."""
    bid: Array
    ask_size: Array
    """Row of `Orders.sizes` that is quoted, int."""
    bid_size: Array
    taker: Array
    """Lots of the market order, above 0 to buy, int."""

    @classmethod
    def empty(cls, horizon: int, positions: int, levels: int) -> Tables:
        """No market orders, and the first size at the mid."""
        ask, bid = np.zeros((2, horizon, positions, levels))
        return cls(ask, bid, *np.zeros((3, horizon, positions), np.int64))

    def at(self, step: int) -> tuple[Array, ...]:
        """Those of a step."""
        return tuple(a[step] for a in (self.ask, self.bid, self.ask_size, self.bid_size, self.taker))


class OrdersRecursion:
    """Value of rules that send `Orders` on `brownian`, by (*) of `policies.solver.best_orders`."""

    def __init__(self, market: Brownian, problem: Problem, orders: Orders) -> None:
        self.problem, self.orders = problem, orders
        self._chance = order_chance(market)
        self._square = problem.positions.astype(float) ** 2

    @classmethod
    def of(cls, config: EnvConfig, orders: Orders | None = None) -> OrdersRecursion:
        """That of a configuration, with other `orders` than those of its action where given."""
        problem = make_problem(config)
        assert isinstance(config.market, Brownian)
        return cls(config.market, problem, orders or orders_of(config))

    def optimise(self, progress: Progress | None = None) -> tuple[Tables, Array]:
        """The best orders, and the value of an episode from each position, float64 (2 limit + 1,)."""
        shape = self.problem.horizon, len(self._square), len(self.orders.sizes[0])
        tables = Tables.empty(*shape)
        return tables, self._run(tables, fixed=False, progress=progress)

    def evaluate(self, tables: Tables) -> Array:
        """Value of an episode of these orders from each position, float64 (2 limit + 1,)."""
        return self._run(tables, fixed=True)

    def _run(self, tables: Tables, fixed: bool, progress: Progress | None = None) -> Array:
        problem, orders = self.problem, self.orders
        sizes = np.array(orders.sizes, np.int64)
        value = -problem.alpha * self._square
        for step in reversed(range(problem.horizon)):
            value = orders_back(
                value - problem.phi * self._square, tables.at(step), sizes, orders.taker_lots,
                orders.taker_cost, fixed, self._chance, problem.fill_decay, problem.max_distance,
            )  # fmt: skip
            if progress is not None:
                progress()
        return value


def best_orders(
    config: EnvConfig, progress: Progress | None = None
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """The best orders of the action of `config`: distances of the nearest level of ask and bid, (horizon, 1,
    positions) each, the value from each position, and the further arguments of `to_action`, by name."""
    orders = orders_of(config)
    tables, values = OrdersRecursion.of(config, orders).optimise(progress)
    share = np.array(orders.sizes).sum(axis=1) / config.risk.order_lots
    found = {
        "lots": tables.taker,
        "ask_share": share[tables.ask_size],
        "bid_share": share[tables.bid_size],
        "ask_step": tables.ask[..., -1] - tables.ask[..., 0],
        "bid_step": tables.bid[..., -1] - tables.bid[..., 0],
    }
    more = {name: found[name][:, None] for name in orders.arguments}
    return tables.ask[:, None, :, 0], tables.bid[:, None, :, 0], values, more
