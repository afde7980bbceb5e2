"""A policy at the desk, decision by decision, and the record of what it did.

The desk is the one it was trained at. On a simulated market every *session* (an episode) is a path of its
own, and many are played side by side; on a tape sessions follow each other: the policy starts anew, the
market, its orders and its position go on.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numba import njit

from mmenv.backtest.stretch import Stretch, StretchFeed
from mmenv.config import ConfigError, EnvConfig
from mmenv.desk import Desk
from mmenv.features import observation_names
from mmenv.kernel import LANES
from mmenv.quote import to_action

ROWS = 2_000_000
"""About as many decisions are held in memory at a time."""

MOST_LANES = 1024

DECISION = np.dtype(
    [
        ("time_ns", "i8"),
        ("session", "i4"),
        ("mid", "i4"),  # half-ticks, at the decision, as all here
        ("spread", "i4"),
        ("best_bid_lots", "i4"),
        ("best_ask_lots", "i4"),
        ("position", "i4"),  # before the decision
        ("ask_distance", "i4"),
        ("bid_distance", "i4"),
        ("ask_lots", "i4"),  # quoted, after all limits
        ("bid_lots", "i4"),
        ("ask_fill", "i4"),
        ("bid_fill", "i4"),
        ("ask_edge", "f8"),  # lots x distance from the mid at the decision
        ("bid_edge", "f8"),
        ("move", "i4"),  # of the mid until the next decision
        ("buy_lots", "i4"),  # traded by others until then
        ("sell_lots", "i4"),
        ("risk_state", "i4"),
        ("unusable", "i4"),  # 1: the policy's action was not finite, so nothing was quoted
        ("signal", "f4"),
    ],
    align=True,
)
"""A decision and what came of it."""


class BacktestError(ValueError):
    """A policy that cannot be played: the message says what it did, when, and what is expected."""


class Player(Protocol):
    """What is backtested: see `policies.base.Policy`."""

    def reset(self, n: int) -> Any: ...

    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]: ...


@dataclass(frozen=True)
class Tabulated:
    """A policy whose quotes depend on step and position alone: looked up instead of asked for, which is the
    same and much faster. `distances(step, position)` broadcasts, price units."""

    distances: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass
class Clock:
    """How long a policy took."""

    calls: int = 0
    seconds: float = 0.0
    slowest: float = 0.0

    def add(self, seconds: float) -> None:
        self.calls += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)


@dataclass(frozen=True)
class Played:
    """The record of a policy on one market."""

    rows: np.ndarray
    """DECISION (N,), path by path, in time."""
    path: np.ndarray
    """int32 (N,): the session on simulated markets, 0 on a tape, where the market never starts anew."""
    clock: Clock


def signal_column(config: EnvConfig, name: str | None) -> int:
    """The observation entry recorded as the signal; by default book imbalance, else order flow."""
    names = observation_names(config)
    if name is not None and name not in names:
        raise ConfigError(f"signal = {name!r} is not observed: it must be one of {', '.join(names)}.")
    book = isinstance(config.market, Stretch) or config.market.name == "book"
    liked = ["book_imbalance", "flow_imbalance"] if book else ["flow_imbalance"]
    return names.index(name or next((n for n in liked if n in names), names[0]))


def play(
    policy: Player | Tabulated,
    name: str,
    config: EnvConfig,
    *,
    seeds: Sequence[int] = (0,),
    signal_name: str | None = None,
    patience: float = 10.0,
    progress: Callable[[int], Any] = lambda decisions: None,
) -> Played:
    """Play `policy` through a stretch of a tape, or one session for each of `seeds` of a simulated market.

    Raises `BacktestError` where the policy raises, returns something else than finite-or-not numbers of the
    right shape, or takes longer than `patience` seconds for a decision.
    """
    market = config.market
    column = signal_column(config, signal_name)
    step_ns = round(market.step_seconds * 1e9)
    if isinstance(market, Stretch):
        decisions = (market.end_ns - market.start_ns) // step_ns
        game = _Game(policy, name, config, [0], decisions, column, patience, progress)
        table = game.run()
        return Played(table[:, 0], np.zeros(len(table), np.int32), game.clock)
    batch = max(min(MOST_LANES, ROWS // config.horizon), 1)
    parts, clock = [], Clock()
    for first in range(0, len(seeds), batch):
        some = seeds[first : first + batch]
        game = _Game(policy, name, config, some, config.horizon, column, patience, progress)
        game.clock = clock
        table = game.run()
        session = np.arange(first, first + len(some))
        table["session"] = session
        table["time_ns"] = (session * config.horizon + np.arange(len(table))[:, None]) * step_ns
        parts.append(np.ascontiguousarray(table.T).reshape(-1))
    rows = np.concatenate(parts)
    return Played(rows, rows["session"].copy(), clock)


class _Game:
    """One batch of lanes."""

    def __init__(
        self,
        policy: Player | Tabulated,
        name: str,
        config: EnvConfig,
        seeds: Sequence[int],
        decisions: int,
        column: int,
        patience: float,
        progress: Callable[[int], Any],
    ) -> None:
        self.policy, self.name, self.config, self.n = policy, name, config, len(seeds)
        self.decisions, self.column, self.patience, self.progress = decisions, column, patience, progress
        self.seeds = seeds
        self.clock = Clock()
        self.made = 0

    def run(self) -> np.ndarray:
        """DECISION (decisions, n); shorter where a tape ends before."""
        desk = Desk(self.config, self.n, autoreset=False)
        try:
            desk.seed(self.seeds)
            with alarm(self):
                return self._run(desk)
        finally:
            desk.close()

    def _run(self, desk: Desk) -> np.ndarray:
        table = np.zeros((self.decisions + 1, self.n), DECISION)
        self.observations = desk.reset()
        decide = self._decider()
        feed = desk.external if isinstance(desk.external, StretchFeed) else None
        _record_book(desk.core, table, 0)
        session, told, out = 0, time.monotonic(), desk.out
        for t in range(self.decisions):
            self.made = t
            if feed is not None:
                table["time_ns"][t] = feed.time_ns
                table["session"][t] = session
            table["signal"][t] = self.observations[:, self.column]
            desk.actions[...] = decide(table["position"][t])
            desk.step_in_place()
            _record(desk.core, desk.actions, table, t)
            self.observations = out.observations.copy()
            if out.truncated.any():
                return table[: t + 1]
            if out.terminated.any() and t + 1 < self.decisions:
                self._next_session(desk)
                decide = self._decider()
                session += 1
            if time.monotonic() - told > 0.2:
                self.progress((t + 1 - self._told) * self.n)
                self._told, told = t + 1, time.monotonic()
        self.progress((self.decisions - self._told) * self.n)
        return table[: self.decisions]

    _told = 0

    def _next_session(self, desk: Desk) -> None:
        """A new episode with the position, the profit and the risk state of the last."""
        kept = {name: desk.get(name) for name in ("position", "pnl", "fees", "risk_state")}
        self.observations = desk.reset(positions=kept["position"])
        for name, values in kept.items():
            desk.set(name, values)

    # The policy.

    def _decider(self) -> Callable[[np.ndarray], np.ndarray]:
        """What gives the actions of this session from the positions, which a network need not be told."""
        if isinstance(self.policy, Tabulated):
            return _Lookup(self.policy, self.config)
        self.state = self._ask(lambda: self.policy.reset(self.n))  # type: ignore[union-attr]
        return self._act

    def _act(self, position: np.ndarray) -> np.ndarray:
        started = time.perf_counter()
        answer = self._ask(lambda: self.policy.act(self.observations, self.state))  # type: ignore[union-attr]
        self.clock.add(time.perf_counter() - started)
        try:
            actions, self.state = answer
            actions = np.asarray(actions, np.float32)
        except (TypeError, ValueError):
            actions = np.zeros(0)
        if actions.shape != (self.n, 2):
            raise BacktestError(
                f"policy {self.name!r} returned {_shown(answer)} at decision {self.made}: act must return "
                f"(actions, state) with actions of shape ({self.n}, 2), a half-spread and a skew for each "
                "environment."
            )
        return actions

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except BacktestError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise BacktestError(
                f"policy {self.name!r} raised {what} at decision {self.made}; nothing of this part was kept."
            ) from error


def _shown(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= 80 else text[:77] + "..."


class _Lookup:
    """Actions of a `Tabulated` policy, some steps of every position at a time."""

    STEPS = 4096

    def __init__(self, policy: Tabulated, config: EnvConfig) -> None:
        self.policy, self.config, self.limit = policy, config, config.risk.position_limit
        self.step = 0
        self.table = np.zeros((0, 0, 2), np.float32)

    def __call__(self, position: np.ndarray) -> np.ndarray:
        at = self.step % self.STEPS
        if at == 0:
            steps = np.arange(self.step, min(self.step + self.STEPS, self.config.horizon))
            positions = np.arange(-self.limit, self.limit + 1)
            self.table = to_action(
                self.config.quote, *self.policy.distances(steps[:, None], positions[None, :])
            )
        self.step += 1
        return self.table[at, position + self.limit]


@contextmanager
def alarm(game: _Game) -> Iterator[None]:
    """Raise in the policy where a decision takes longer than `patience`, without asking the time at each.

    A timer looks twice in a row and finds the same decision. Only in the main thread, where signals arrive,
    and where the system has them.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    seen = [-1, 0]

    def look(number: int, frame: Any) -> None:
        seen[1] = seen[1] + 1 if seen[0] == game.made else 0
        seen[0] = game.made
        if seen[1] >= 2:
            raise BacktestError(
                f"policy {game.name!r} took more than {game.patience:g} s at decision {game.made}; make it "
                "faster, or raise --patience."
            )

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, game.patience, game.patience)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@njit(cache=True)
def _record_book(core, table, t):  # type: ignore[no-untyped-def]
    """The book that decision t sees."""
    for lane in range(table.shape[1]):
        s, i, row = core[lane // LANES], lane % LANES, table[t, lane]
        row.mid, row.spread = s.mid[i], s.spread[i]
        row.best_bid_lots, row.best_ask_lots = s.best_bid_lots[i], s.best_ask_lots[i]
        row.position = s.position[i]


@njit(cache=True)
def _record(core, actions, table, t):  # type: ignore[no-untyped-def]
    """What was quoted at decision t, what came of it, and the book that the next one sees."""
    for lane in range(table.shape[1]):
        s, i, row = core[lane // LANES], lane % LANES, table[t, lane]
        row.ask_distance, row.bid_distance = s.ask_distance[i], s.bid_distance[i]
        row.ask_lots, row.bid_lots = s.ask_lots[i], s.bid_lots[i]
        row.ask_fill, row.bid_fill = s.ask_fill[i], s.bid_fill[i]
        row.ask_edge, row.bid_edge = s.ask_edge[i], s.bid_edge[i]
        row.move, row.risk_state = s.move[i], s.risk_state[i]
        row.buy_lots, row.sell_lots = s.buy_lots[i], s.sell_lots[i]
        finite = math.isfinite(actions[lane, 0]) and math.isfinite(actions[lane, 1])
        row.unusable = 0 if finite else 1
    _record_book(core, table, t + 1)
