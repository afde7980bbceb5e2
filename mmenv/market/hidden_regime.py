"""`hidden-regime`: informed flow behind a hidden state. Solvable up to a belief: proof that memory pays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import prange

from mmenv.checks import require, require_number
from mmenv.engine.maths import F, I, U, unit
from mmenv.engine.rng import RESET_STEP, philox
from mmenv.engine.stage import Stage, at, stage
from mmenv.engine.state import per_lane
from mmenv.market.base import START_PRICE, Market, register
from mmenv.market.fills import market_order, match

STATE = np.dtype([per_lane("regime", "i4")], align=True)

PARAMS = np.dtype(
    [
        ("leave", "f4"),
        ("arrival", "f4"),
        ("tilt", "f4"),
        ("jump", "f4"),
        ("drift", "f4"),
        ("large", "f4"),
        ("large_informed", "f4"),
        ("reach", "f4"),  # mean reach of a market order beyond the mid, half-ticks
        ("scale", "i4"),  # half-ticks in a price unit
        ("impact", "i4"),  # half-ticks
        ("start", "i4"),
    ],
    align=True,
)


@stage(STATE, PARAMS)
def step(s, w, p, x):
    """Market orders with sizes and reach (see `brownian`), the move of the mid, then the regime's change."""
    for i in prange(s.count):
        arrival, tilt, jump, drift = at(p.arrival, i), at(p.tilt, i), at(p.jump, i), at(p.drift, i)
        large_informed, large, reach = at(p.large_informed, i), at(p.large, i), at(p.reach, i)
        scale, impact, leave = at(p.scale, i), at(p.impact, i), at(p.leave, i)
        key0, key1 = s.key0[i], s.key1[i]
        age = U(s.age[i])
        buy, sell, jump_word, stay_word = philox(age, s.episode[i], U(0), U(0), key0, key1)
        buy_size, sell_size, _, _ = philox(age, s.episode[i], U(1), U(0), key0, key1)
        z = w.regime[i]
        informed = F(z)
        buy_chance = arrival + informed * tilt
        sell_chance = arrival - informed * tilt
        buys, s.ask_reach[i] = market_order(buy, buy_chance, reach)
        sells, s.bid_reach[i] = market_order(sell, sell_chance, reach)
        large_buy = I(1) if unit(buy_size) < (large_informed if z > 0 else large) else I(0)
        large_sell = I(1) if unit(sell_size) < (large_informed if z < 0 else large) else I(0)
        s.buy_lots[i] = buys + (buys & large_buy)
        s.sell_lots[i] = sells + (sells & large_sell)
        s.trades[i] = buys + sells
        s.buy_chance[i], s.sell_chance[i], s.mean_reach[i] = buy_chance, sell_chance, reach

        up = jump * (F(1) + drift * informed)
        down = jump * (F(1) - drift * informed)
        draw = unit(jump_word)
        jumps = (I(1) if draw < up else I(0)) - (I(1) if draw > F(1) - down else I(0))
        move = jumps * scale + (buys - sells) * impact
        s.move[i] = move
        s.mid[i] += move
        s.noise_move[i] = (F(jumps) - (up - down)) * F(scale)
        s.order_flow_noise[i] = (F(buys - sells) - (buy_chance - sell_chance)) * F(impact)

        # From an informed state to balanced; from balanced to either with equal chance.
        draw = unit(stay_word)
        side = I(1) if draw < F(0.5) * leave else I(-1)
        moved = side if z == 0 else I(0)
        after = moved if draw < leave else z
        w.regime[i] = after
        s.latent[i] = F(after)
        s.latent_drift[i] = F(after) - informed * (F(1) - leave)
        s.latent_square_drift[i] = F(after * after) - (leave if z == 0 else F(1) - leave)


@stage(STATE, PARAMS)
def reset(s, w, p, x):
    """Start at the same price, in a regime drawn from the stationary distribution (1/4, 1/2, 1/4)."""
    for i in prange(s.count):
        _, word, _, _ = philox(RESET_STEP, s.episode[i], U(0), U(0), s.key0[i], s.key1[i])
        draw = unit(word)
        z = (I(1) if draw < F(0.25) else I(0)) - (I(1) if draw > F(0.75) else I(0))
        z = z if s.done[i] != 0 else w.regime[i]
        w.regime[i] = z
        s.latent[i] = F(z)
        s.mid[i] = at(p.start, i) if s.done[i] != 0 else s.mid[i]


@register
@dataclass(frozen=True, kw_only=True)
class HiddenRegime(Market):
    """A latent Z in {-1, 0, +1} (informed selling, balanced, informed buying) tilts flow, sizes and price.

    One step: a buy arrives with chance arrival + Z tilt, a sell with arrival - Z tilt; each is large (2 lots)
    with chance `large_informed` on the informed side and `large` otherwise, else 1 lot; the mid moves by
    w + impact (buy - sell) with P(w = +-1) = jump (1 +- Z drift). Then Z changes with chance 1/mean_stay:
    from an informed state to balanced, from balanced to either with equal chance.
    """

    name = "hidden-regime"
    varied = (
        "mean_stay", "arrival", "tilt", "jump", "drift", "impact", "large", "large_informed", "fill_decay"
    )  # fmt: skip
    on_step: ClassVar[tuple[Stage, ...]] = (step, match)
    on_reset: ClassVar[tuple[Stage, ...]] = (reset,)

    mean_stay: float = 60.0
    """Mean number of steps in a regime."""
    arrival: float = 0.35
    """p0: chance of a market order per step and side when balanced."""
    tilt: float = 0.10
    """eta: what the informed side adds to its chance and takes from the other's."""
    jump: float = 0.25
    """v: chance of each move of one price unit when balanced."""
    drift: float = 0.12
    """b: tilt of the move by the regime."""
    impact: float = 0.5
    """eps: price units a buy lifts and a sell lowers the mid."""
    large: float = 0.2
    """g0: chance that an order is large (2 lots), uninformed."""
    large_informed: float = 0.4
    """g1: chance that an order is large on the informed side."""
    fill_decay: float = 1.0
    """kappa: a market order reaches a quote at distance d with chance exp(-kappa d)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "mean_stay", 1.0, 1e9)
        require_number(self, "arrival", 0.0, 1.0)
        spare = min(self.arrival, 1.0 - self.arrival)
        require(
            0 <= self.tilt <= spare,
            "HiddenRegime",
            "tilt",
            self.tilt,
            f"from 0 to {spare:g} (arrival +- tilt is a chance)",
        )
        require_number(self, "jump", 0.0, 0.5)
        require_number(self, "drift", -1.0, 1.0)
        require_number(self, "impact", 0.0, 1e2)
        require_number(self, "large", 0.0, 1.0)
        require_number(self, "large_informed", 0.0, 1.0)
        require_number(self, "fill_decay", 1e-2, 1e2)

    def defaults(self) -> dict[str, Any]:
        return {
            "horizon": 300,
            "quote": {"max_half_spread": 6.0, "max_skew": 6.0, "max_distance": 6.0},
            "reward": {"inventory_penalty": 0.01, "terminal_penalty": 0.05},
        }

    def compiled(self) -> np.ndarray:
        scale = self.price_scale
        params = np.zeros(1, PARAMS)
        params["leave"] = 1.0 / self.mean_stay
        for name in ("arrival", "tilt", "jump", "drift", "large", "large_informed"):
            params[name] = getattr(self, name)
        params["reach"] = scale / self.fill_decay
        params["scale"] = scale
        params["impact"] = round(scale * self.impact)
        params["start"] = START_PRICE * scale
        return params
