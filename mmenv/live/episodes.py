"""The episodes of a desk that goes on and on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmenv.desk.networks import make_desk
from mmenv.engine.state import FEE_DIGITS
from mmenv.live.setup import Player, Setup
from mmenv.market.live import Live


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
        self.terms = np.zeros(4)
        """Spread capture, adverse selection, carry, fees since the start, quote currency."""
        self.over = True
        """Whether the next decision begins an episode."""
        self._player = player
        self._money, self._unit = setup.money, setup.market.price_scale * setup.money
        # Views, so that a decision spends its time on deciding.
        self._profit, self._fees = (self.desk.core[name][0] for name in ("pnl", "fees"))
        self._carried = 0.0

    def learn(self, position: int) -> float:
        """Hand the market's answer to the desk; its reward, 0 before the first decision.

        At the end of an episode, or the start, the next one begins with `position`.
        """
        reward = 0.0
        if not self.over:
            self.link.answer(self.desk.core)
            step = self.desk.finish()
            self.terms += step.ledger[:4, 0] * self._unit
            self.observation, reward = step.observations[0], step.rewards[0]
            self.over = bool(step.terminated[0] | step.truncated[0])
        if self.over:
            self._carried += self._wealth()
            self.observation = self.desk.reset(positions=np.array([position], np.int32))[0]
            if self._player is not None:
                self._player.reset()
            self.over = False
        return reward

    @property
    def wealth(self) -> float:
        """Profit since the start, quote currency."""
        return (self._carried + self._wealth()) * self._money

    def _wealth(self) -> float:
        """Profit of this episode, half-ticks x lots."""
        return float(self._profit[0] - self._fees[0] / FEE_DIGITS)
