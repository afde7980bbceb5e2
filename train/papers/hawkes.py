"""`hawkes`: market orders and moves of the mid that excite each other.

Source: Hawkes (1971), "Spectra of some self-exciting and mutually exciting point processes", with exponential
kernels, in discrete time; as the events of an order book Gasperov and Kostanjcar (2022), "Deep reinforcement
learning for market making under a Hawkes process-based limit order book model". Theirs has more kinds of
events (orders that arrive and are cancelled); here are those that a market maker lives on: orders that fill
it, and events that move the mid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import prange

from mmenv.checks import ConfigError, require_number
from mmenv.engine.maths import F, I, U, exp, unit
from mmenv.engine.rng import philox
from mmenv.engine.stage import Stage, at, stage
from mmenv.engine.state import per_lane
from mmenv.market.base import START_PRICE, Market, register
from mmenv.market.fills import market_order, match

SIDES = ("buy", "sell", "up", "down")
STATE = np.dtype([per_lane(side, "f4") for side in SIDES], align=True)
"""Events a second that the past has excited, beyond the base rates."""
PARAMS = np.dtype(
    [
        ("order_base", "f4"),  # per second and side
        ("move_base", "f4"),
        ("order_order", "f4"),  # what an event adds to a rate at once, per second: order to order, same side
        ("order_move", "f4"),
        ("move_order", "f4"),
        ("move_back", "f4"),
        ("keep", "f4"),  # share of the excitement that is left after a step
        ("step", "f4"),  # seconds
        ("reach", "f4"),  # mean reach of an order beyond the mid, half-ticks
        ("jump", "f4"),  # half-ticks of a move
        ("start", "i4"),
    ],
    align=True,
)


@stage(STATE, PARAMS)
def step(s, w, p, x):
    """Each kind of event comes with chance 1 - exp(-rate x step); what came excites the rates of the next."""
    for i in prange(s.count):
        order_base, move_base, seconds = at(p.order_base, i), at(p.move_base, i), at(p.step, i)
        reach, jump, keep = at(p.reach, i), at(p.jump, i), at(p.keep, i)
        buy_word, sell_word, up_word, down_word = philox(
            U(s.age[i]), s.episode[i], U(0), U(0), s.key0[i], s.key1[i]
        )
        buy_chance = F(1) - exp(-(order_base + w.buy[i]) * seconds)
        sell_chance = F(1) - exp(-(order_base + w.sell[i]) * seconds)
        up_chance = F(1) - exp(-(move_base + w.up[i]) * seconds)
        down_chance = F(1) - exp(-(move_base + w.down[i]) * seconds)
        buys, s.ask_reach[i] = market_order(buy_word, buy_chance, reach)
        sells, s.bid_reach[i] = market_order(sell_word, sell_chance, reach)
        ups = I(1) if unit(up_word) < up_chance else I(0)
        downs = I(1) if unit(down_word) < down_chance else I(0)
        s.buy_lots[i], s.sell_lots[i], s.trades[i] = buys, sells, buys + sells
        s.buy_chance[i], s.sell_chance[i], s.mean_reach[i] = buy_chance, sell_chance, reach

        move = (ups - downs) * I(jump)
        s.move[i] = move
        s.mid[i] += move
        s.noise_move[i] = F(move) - (up_chance - down_chance) * jump

        order_order, order_move = at(p.order_order, i), at(p.order_move, i)
        move_order, move_back = at(p.move_order, i), at(p.move_back, i)
        w.buy[i] = keep * w.buy[i] + order_order * F(buys) + move_order * F(ups)
        w.sell[i] = keep * w.sell[i] + order_order * F(sells) + move_order * F(downs)
        w.up[i] = keep * w.up[i] + order_move * F(buys) + move_back * F(downs)
        w.down[i] = keep * w.down[i] + order_move * F(sells) + move_back * F(ups)
        s.latent[i] = (w.up[i] - w.down[i]) * seconds


@stage(STATE, PARAMS)
def reset(s, w, p, x):
    """Start at the same price, unexcited."""
    for i in prange(s.count):
        kept = F(0) if s.done[i] != 0 else F(1)
        w.buy[i] *= kept
        w.sell[i] *= kept
        w.up[i] *= kept
        w.down[i] *= kept
        s.latent[i] *= kept
        s.mid[i] = at(p.start, i) if s.done[i] != 0 else s.mid[i]


@register
@dataclass(frozen=True, kw_only=True)
class Hawkes(Market):
    """Orders to buy and to sell, and moves up and down, that excite each other.

    An order excites orders of its side and moves its way, a move excites orders its way and the move back;
    excitement fades as exp(-decay x time). An order reaches a quote at distance d from the mid with chance
    exp(-fill_decay x d); a move is `jump` price units.
    """

    name = "hawkes"
    on_step: ClassVar[tuple[Stage, ...]] = (step, match)
    on_reset: ClassVar[tuple[Stage, ...]] = (reset,)

    step_seconds: float = 0.2
    order_rate: float = 1.0
    """Orders per second and side that nothing has excited."""
    move_rate: float = 0.3
    """Moves per second and direction that nothing has excited."""
    decay: float = 2.0
    """How fast excitement fades, per second."""
    order_order: float = 0.4
    """Orders of the same side that an order brings, on average, at first hand."""
    order_move: float = 0.3
    """Moves its way that an order brings."""
    move_order: float = 0.2
    """Orders its way that a move brings."""
    move_back: float = 0.3
    """Moves back that a move brings."""
    jump: float = 0.5
    """Price units of a move."""
    fill_decay: float = 1.5
    """Per price unit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "decay", 1e-3, 1e3)
        require_number(self, "fill_decay", 1e-2, 1e2)
        require_number(self, "jump", 0.0, 1e2)
        for name in ("order_rate", "move_rate"):
            require_number(self, name, 0.0, 1e3)
        for name in ("order_order", "order_move", "move_order", "move_back"):
            require_number(self, name, 0.0, 1.0)
        most = np.abs(np.linalg.eigvals(self.brings())).max()
        if most >= 1:
            raise ConfigError(
                f"Hawkes: each event brings {most:.2f} others, so there is no end of them: lower "
                "order_order, order_move, move_order or move_back until it is below 1."
            )

    def brings(self) -> np.ndarray:
        """Events of each kind (rows, as `SIDES`) that one of each kind (columns) brings at once, (4, 4)."""
        buy, sell, up, down = range(4)
        found = np.zeros((4, 4))
        found[[buy, sell], [buy, sell]] = self.order_order
        found[[up, down], [buy, sell]] = self.order_move
        found[[buy, sell], [up, down]] = self.move_order
        found[[up, down], [down, up]] = self.move_back
        return found

    def defaults(self) -> dict[str, Any]:
        return {
            "horizon": 500,
            "quote": {"max_half_spread": 2.0, "max_skew": 2.0, "max_distance": 4.0},
            "reward": {"inventory_penalty": 0.02, "terminal_penalty": 0.05},
        }

    def compiled(self) -> np.ndarray:
        unit = self.price_scale
        params = np.zeros(1, PARAMS)
        keep = math.exp(-self.decay * self.step_seconds)
        params["order_base"], params["move_base"] = self.order_rate, self.move_rate
        for name in ("order_order", "order_move", "move_order", "move_back"):
            # Excitement that begins at a, over steps h of which each keeps a share, brings a h / (1 - keep).
            params[name] = getattr(self, name) * (1 - keep) / self.step_seconds
        params["keep"] = keep
        params["step"] = self.step_seconds
        params["reach"] = unit / self.fill_decay
        params["jump"] = round(unit * self.jump)
        params["start"] = START_PRICE * unit
        return params
