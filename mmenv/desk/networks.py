"""A desk with trained networks in it: signals that it shows the policy, and the risk manager.

After every step each network takes one step too, from the features of the decision that is due, so that its
output stands beside them; the risk manager's limits the quotes of that decision. Memories start afresh with
each episode.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.desk.buffers import Step
from mmenv.desk.desk import Desk
from mmenv.engine.state import FEE_DIGITS
from mmenv.observation import before_signals, observation_features, observation_names
from mmenv.signals import Signal
from mmenv.step import sizing
from mmenv.step.sizing import ManagerConfig

if TYPE_CHECKING:
    from mmenv.desk.desk import Desk

VOLATILITY = "volatility"
"""Feature, in group `trade_book`, that the risk manager measures losses by."""


@dataclass
class Running:
    """A signal at work."""

    signal: Signal
    columns: np.ndarray
    """Its inputs among the features."""
    states: np.ndarray
    """float32 (n, state_size)."""

    def step(self, features: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Outputs of the environments `rows`, whose `features`, (len(rows), F), these are."""
        states = self.states[rows]
        outputs = self.signal.step(np.ascontiguousarray(features[:, self.columns]), states)
        self.states[rows] = states
        return outputs


class SignalDesk(Desk):
    """`Desk`, with the outputs of `config.signals` in its observations, its limit by `config.manager`."""

    def __init__(self, config: EnvConfig, n: int, **settings: Any) -> None:
        wanted = dict.fromkeys(group for signal in config.networks for group in signal.groups)
        if config.manager is not None:
            wanted["trade_book"] = None
        groups = (*config.features, *(group for group in wanted if group not in config.features))
        plain = dataclasses.replace(config, features=groups, signals=(), manager=None)
        self._shown = len(observation_features(dataclasses.replace(config, signals=(), manager=None)))
        self._before = before_signals(config)
        bounds = [feature for signal in config.signals for feature in signal.outputs]
        self._low = np.array([feature.low for feature in bounds], np.float32)
        self._high = np.array([feature.high for feature in bounds], np.float32)
        self._final_shown = np.zeros((n, self._shown + len(bounds)), np.float32)
        super().__init__(plain, n, **settings)
        self.config = config
        names = observation_names(plain)
        self._signals, self._manager = (
            [
                Running(
                    signal,
                    np.array([names.index(feature.name) for feature in signal.inputs], np.int64),
                    np.zeros((n, signal.state_size), np.float32),
                )
                for signal in signals
            ]
            for signals in (config.signals, (config.manager.signal,) if config.manager else ())
        )
        self._volatility = names.index(VOLATILITY) if config.manager else 0
        self._last = np.zeros((n, len(bounds)), np.float32)
        self._states += [self._last, *(one.states for one in (*self._signals, *self._manager))]

    @property
    def out(self) -> Step:
        return self._seen

    def _renew_out(self) -> None:
        super()._renew_out()
        self._seen = dataclasses.replace(
            self._out,
            observations=np.empty((self.n, self._final_shown.shape[1]), np.float32),
            final_observations=self._final_shown,
        )

    def reset(
        self,
        lanes: np.ndarray | None = None,
        positions: np.ndarray | None = None,
        parameters: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        features = self._restart(lanes, positions, parameters)
        self._start(features, np.arange(self.n) if lanes is None else np.flatnonzero(lanes))
        return self._show(features, np.empty_like(self._seen.observations))

    def step_in_place(self) -> None:
        super().step_in_place()
        self._take_step()

    def finish(self) -> Step:
        super().finish()
        self._take_step()
        return self._seen

    def _take_step(self) -> None:
        """The networks' step after the desk's."""
        out = self._out
        ended = np.flatnonzero(out.terminated | out.truncated) if self.autoreset else np.zeros(0, int)
        features = out.observations
        if len(ended):
            features = features.copy()
            features[ended] = out.final_observations[ended]
        self._advance(features, slice(None))
        if len(ended):
            self._final_shown[ended] = self._show(features, np.empty_like(self._seen.observations))[ended]
            self._start(out.observations, ended)
        self._show(out.observations, self._seen.observations)

    def _start(self, features: np.ndarray, rows: np.ndarray) -> None:
        """The first step of the networks in environments `rows`, without memory."""
        for running in (*self._signals, *self._manager):
            running.states[rows] = 0
        self._advance(features[rows], rows)

    def _advance(self, features: np.ndarray, rows: np.ndarray | slice) -> None:
        """One step of the networks in environments `rows`, whose `features` these are."""
        if self._signals:
            outputs = np.concatenate([running.step(features, rows) for running in self._signals], axis=1)
            self._last[rows] = np.clip(outputs, self._low, self._high)
        for running in self._manager:
            score = running.step(features, rows)[:, 0].astype(np.float64)
            self._limit(score, features[:, self._volatility].astype(np.float64), rows)

    def _limit(self, score: np.ndarray, volatility: np.ndarray, rows: np.ndarray | slice) -> None:
        """Take off the position limit what the score asks for."""
        manager = self.config.manager
        assert isinstance(manager, ManagerConfig)
        unit = self.config.market.price_scale
        lost = (self.get("fees") / FEE_DIGITS - self.get("pnl"))[rows] / unit
        loss = sizing.loss_per_lot(volatility, manager.horizon, manager.quantile)
        base = sizing.base_size(manager.share * (self.config.risk.daily_loss_limit - lost), loss)
        limit = self.config.risk.position_limit
        size = np.minimum(np.floor(sizing.position_size(base, score)), limit)
        cut = self.get("limit_reduction")
        cut[rows] = limit - size.astype(np.int64)
        self.set("limit_reduction", cut)

    def _show(self, features: np.ndarray, observations: np.ndarray) -> np.ndarray:
        after = self._before + self._last.shape[1]
        observations[:, : self._before] = features[:, : self._before]
        observations[:, self._before : after] = self._last
        observations[:, after:] = features[:, self._before : self._shown]
        return observations


def make_desk(config: EnvConfig, n: int, **settings: Any) -> Desk:
    """A desk, with the networks that `config` names."""
    if config.networks:
        return SignalDesk(config, n, **settings)
    return Desk(config, n, **settings)


def set_external(desk: Desk, *, news: float | None = None, macro: float | None = None) -> None:
    """Set what the environments of `desk` observe as `news` and `macro`, in [-1, 1], until set anew."""
    own = desk.group_state("risk")
    for name, value in (("news", news), ("macro", macro)):
        if value is not None:
            if not (math.isfinite(value) and -1 <= value <= 1):
                raise ConfigError(f"{name} = {value!r} is not possible: give a number from -1 to 1.")
            own[name] = value
