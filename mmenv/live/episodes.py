"""The episodes of a desk that goes on and on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmenv.desk.networks import make_desk
from mmenv.engine.state import FEE_DIGITS, fee_rate
from mmenv.live.charges import Charges
from mmenv.live.setup import Player, Setup
from mmenv.live.snapshot import Kept, give_back, keep
from mmenv.market.live import Live
from mmenv.measure.metrics import coin_prices

_STATE = ("observation", "terms", "over", "ended", "_carried", "_gap")


class Episodes:
    """A desk whose episodes follow one another: memory and windows start afresh, position and profit stay.

    Episodes are those of training, so that a policy meets nothing new in a long session.
    """

    def __init__(self, setup: Setup, player: Player | None) -> None:
        self.desk = make_desk(setup.config, 1, autoreset=False)
        assert isinstance(self.desk.external, Live.Link)
        self.link = self.desk.external
        self.link.window[0] = setup.low_tick, setup.high_tick
        self.observation: NDArray[np.float32] = np.zeros(self.desk.entries, np.float32)
        """What the policy sees."""
        self.terms = np.zeros(5)
        """Spread capture, adverse selection, carry, fees, funding since the start, currency of profits."""
        self.over = True
        """Whether the next decision begins an episode."""
        self.ended = False
        """Whether the interval up to it is still to be booked, and the episode then ends."""
        self._player = player
        self._money, self._unit = setup.money, setup.market.price_scale * setup.money
        self._half_tick = float(setup.tick_size) / 2
        self._inverse = setup.inverse
        self._lot, self._fee_rate = float(setup.lot_size), fee_rate(setup.config.maker_fee_bp) / FEE_DIGITS
        taking = setup.config.quote.taking
        self._taker_rate = fee_rate(taking.fee_bp) / FEE_DIGITS if taking is not None else self._fee_rate
        # Views, so that a decision spends its time on deciding.
        names = ("pnl", "fees", "fee", "position", "mid", "move")
        self._profit, self._fees, self._fee, self._position, self._mid, self._move = (
            self.desk.core[name][0] for name in names
        )
        self._carried = 0.0
        self._gap: list[float] = []
        """Where the instrument has changed: the mid of before, in the quote asset."""

    def learn(self, position: int, fills: NDArray[np.void], charges: Charges | None = None) -> float:
        """Hand the market's answer to the desk; its reward, 0 before the first decision.

        At the end of an episode, or the start, the next one begins with `position`. `fills` are the FILL [k]
        in the answer. Fees are those of the `charges`, where they are known, in place of a rate.
        """
        reward = 0.0
        if not self.over:
            if charges is not None:
                # What fees have taken of the position was not there when the price moved.
                self._position[0] -= charges.lots_gone
            self.link.answer(self.desk.core)
            in_coin = self._in_coin(fills) if self._inverse else None
            step = self.desk.finish()
            self.terms[:4] += step.ledger[:4, 0] * self._unit if in_coin is None else in_coin
            if charges is not None:
                by_rate = float(self._fee[0]) / FEE_DIGITS * self._money
                self._charge(charges, by_rate if in_coin is None else float(in_coin[3]))
            self.observation, reward = step.observations[0], step.rewards[0]
            self.over = bool(step.terminated[0] | step.truncated[0]) or self.ended
            self.ended = False
        if self.over:
            self._carried += self._wealth()
            self.observation = self.desk.reset(positions=np.array([position], np.int32))[0]
            if self._player is not None:
                self._player.reset()
            self.over = False
            self._close_gap(position)
        return reward

    def take_over(self, before: Episodes) -> None:
        """Go on from episodes of which the instrument was another, an interval of theirs being booked.

        What the position gains or loses until the next is booked there, as carry.
        """
        self.terms[:] = before.terms
        self._carried = before.wealth / self._money
        self._gap = before._gap if before.over else [float(before._mid[0]) * before._half_tick]

    def _close_gap(self, position: int) -> None:
        if self._gap and (mid := float(self._mid[0]) * self._half_tick) > 0:
            before = self._gap.pop()
            gained = position * (mid - before) / self._half_tick * self._money
            self._carried += gained / self._money
            self.terms[2] += position * (self._worth(mid) - self._worth(before)) if self._inverse else gained

    def kept(self) -> Kept:
        """All that it knows beside the policy's memory; see `restore`."""
        return keep(self, *_STATE) | {"desk": self.desk.get_state()["stages"]}

    def restore(self, state: Kept) -> None:
        """Go on from what `kept` gave."""
        self.desk.take_back(state.pop("desk"))
        give_back(self, state)

    def _worth(self, price: float) -> float:
        """What a lot of an inverse contract is worth at a price, up to a constant, coin."""
        return self._lot * float(coin_prices(price))

    def _in_coin(self, fills: NDArray[np.void]) -> NDArray[np.float64]:
        """Spread capture, adverse selection, carry and fees by the rate, in coin, of an interval that ends.

        The desk itself counts every contract as a linear one, as in training: its reward and what the policy
        sees of its profit are in price units.
        """
        end = float(self._mid[0]) * self._half_tick
        start = end - float(self._move[0]) * self._half_tick
        before, after = self._worth(start), self._worth(end)
        capture = adverse = fees = 0.0
        for fill in fills:
            paid = self._worth(int(fill["tick"]) * 2 * self._half_tick)
            bought = int(fill["side"] * fill["lots"])
            capture += bought * (before - paid)
            adverse += bought * (after - before)
            fees += abs(bought * paid) * self._fee_rate
        for lots, notional in self.link.taken.view(np.int64).reshape(2, 2):
            if lots:
                paid = self._worth(notional / lots * 2 * self._half_tick)
                fees += abs(lots * paid) * (self._taker_rate - self._fee_rate)
        return np.array([capture, adverse, int(self._position[0]) * (after - before), fees])

    def _charge(self, charges: Charges, by_rate: float) -> None:
        """Book what the venue has charged in place of what a rate would have."""
        half_tick = self._half_tick
        fees, funding = charges.settle(float(self._mid[0]) * half_tick, float(self._move[0]) * half_tick)
        self._fees[0] += (fees - by_rate - funding) / self._money * FEE_DIGITS
        self.terms[3] += fees - by_rate
        self.terms[4] += funding

    @property
    def wealth(self) -> float:
        """Profit since the start, currency of profits."""
        if self._inverse:
            return float(self.terms[:3].sum() - self.terms[3] + self.terms[4])
        return (self._carried + self._wealth()) * self._money

    def _wealth(self) -> float:
        """Profit of this episode, half-ticks x lots."""
        return float(self._profit[0] - self._fees[0] / FEE_DIGITS)
