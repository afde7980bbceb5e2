"""A policy at the desk, decision by decision, and the record of what it did.

The desk is the one it was trained at. On a simulated market every *session* (an episode) is a path of its
own, and many are played side by side; on a tape sessions follow each other: the policy starts anew, the
market, its orders and its position go on.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mmenv.backtest.loop import DECISION, record, record_book, simulated_steps
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.desk.desk import Desk
from mmenv.desk.levels import ASK, BID, DISTANCE, LOTS, QuotedLevels
from mmenv.desk.networks import make_desk
from mmenv.market.stretch import Stretch, StretchFeed
from mmenv.observation import observation_names

ROWS = 2_000_000
"""Decisions held in memory at a time, about."""

MOST_LANES = 1024
"""Most sessions of a simulated market that are played side by side."""

CHUNK = 4096
"""Decisions of a `Tabulated` policy in one compiled call."""


class BacktestError(ValueError):
    """A policy cannot be played: the message says what it did, when, and what is expected."""


class Player(Protocol):
    """What is backtested: see `policies.base.Policy`."""

    def reset(self, n: int) -> Any:
        """Memory for n environments that have just been reset."""

    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """Action, float32 (n, A), for the observation, float32 (n, F), and the memory after it."""


class Quoting(Player, Protocol):
    """A policy whose quotes depend on step and position alone, such as `policies.base.QuotingPolicy`."""

    def distances(self, step: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of ask and bid from the mid, price units, as `act` quotes them (broadcast)."""


@dataclass(frozen=True)
class Tabulated:
    """A policy whose quotes are looked up in a table instead of asked for: the same, and much faster."""

    policy: Quoting


@dataclass
class Clock:
    """How long a policy took: its calls, all of them together, and the slowest, seconds."""

    calls: int = 0
    seconds: float = 0.0
    slowest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a call."""
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
    orders: np.ndarray | None = None
    """Where an action has several orders a side, each of them: int32 (N, 2, levels, 3), as
    `mmenv.desk.levels.QuotedLevels.read` gives them."""


def signal_column(config: EnvConfig, name: str | None) -> int:
    """Choose the observation entry recorded as the signal; by default book imbalance, else order flow."""
    names = observation_names(config)
    if name is not None and name not in names:
        raise ConfigError(f"signal = {name!r} is not observed: it must be one of {', '.join(names)}.")
    liked = ["book_imbalance", "flow_imbalance"] if config.market.on_ticks else ["flow_imbalance"]
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

    Raises
    ------
    BacktestError
        Where the policy raises, returns something else than numbers of the right shape, finite or not, or
        takes longer than `patience` seconds for a decision.
    """
    market = config.market
    column = signal_column(config, signal_name)
    if isinstance(market, Stretch):
        game = _Game(policy, name, config, [0], market.decisions, column, patience, progress)
        table = game.run()
        orders = None if game.orders is None else game.orders[: len(table), 0]
        return Played(table[:, 0], np.zeros(len(table), np.int32), game.clock, orders)
    batch = max(min(MOST_LANES, ROWS // config.horizon), 1)
    parts, orders_of_parts, clock = [], [], Clock()
    for first in range(0, len(seeds), batch):
        some = seeds[first : first + batch]
        game = _Game(policy, name, config, some, config.horizon, column, patience, progress, clock)
        table = game.run()
        session = np.arange(first, first + len(some))
        table["session"] = session
        table["time_ns"] = (session * config.horizon + np.arange(len(table))[:, None]) * market.step_ns
        parts.append(np.ascontiguousarray(table.T).reshape(-1))
        if game.orders is not None:
            by_session = game.orders[: len(table)].swapaxes(0, 1)
            orders_of_parts.append(by_session.reshape(-1, *by_session.shape[2:]))
    rows = np.concatenate(parts)
    several = np.concatenate(orders_of_parts) if orders_of_parts else None
    return Played(rows, rows["session"].copy(), clock, several)


@dataclass
class _Game:
    """One batch of environments: a policy at a desk, and how far it has come."""

    policy: Player | Tabulated
    name: str
    config: EnvConfig
    seeds: Sequence[int]
    decisions: int
    column: int
    """Entry of the observation that is recorded as the signal."""
    patience: float
    progress: Callable[[int], Any]
    clock: Clock = field(default_factory=Clock)
    made: int = 0
    """The decision that is being made."""
    asking: bool = False
    """Whether the policy is at work now."""

    def __post_init__(self) -> None:
        self.table = self.policy.policy if isinstance(self.policy, Tabulated) else None
        self.player: Player = self.policy.policy if isinstance(self.policy, Tabulated) else self.policy
        self.n = len(self.seeds)
        self._untold, self._told = 0, time.monotonic()
        self.orders: np.ndarray | None = None
        """As `Played.orders`, (decisions, n, 2, levels, 3)."""

    def run(self) -> np.ndarray:
        """Play all sessions: DECISION (decisions, n), shorter where a tape ends before."""
        desk = make_desk(self.config, self.n, autoreset=False)
        try:
            desk.seed(self.seeds)
            with alarm(self):
                return self._run(desk)
        finally:
            desk.close()

    def _run(self, desk: Desk) -> np.ndarray:
        """Play one session after another."""
        table = np.zeros((self.decisions + 1, self.n), DECISION)
        self.observations = desk.reset()
        record_book(desk.core, table, 0)
        levels = QuotedLevels(desk) if self.config.quote.side_orders > 1 else None
        if levels is not None:
            self.orders = np.zeros((self.decisions, *levels.orders.shape), np.int32)
        play_session = self._look_up if self.table is not None and has_compiled_loop(desk) else self._ask_for
        self._levels = levels
        done, session = 0, 0
        while True:
            end = min(done + self.config.horizon, self.decisions)
            reached = play_session(desk, table, done, end)
            table["session"][done:reached] = session
            if reached == self.decisions or desk.out.truncated.any():
                return table[:reached]
            self._next_session(desk)
            done, session = reached, session + 1

    def _tell(self, decisions: int) -> None:
        """Pass the progress on, a few times a second."""
        self._untold += decisions * self.n
        if time.monotonic() - self._told > 0.2 or self.made + 1 >= self.decisions:
            self.progress(self._untold)
            self._untold, self._told = 0, time.monotonic()

    def _ask_for(self, desk: Desk, table: np.ndarray, begin: int, end: int) -> int:
        """Play a session in which the policy is asked at every decision; where it ended."""
        feed, out = desk.external, desk.out
        self.state = self._ask(lambda: self.player.reset(self.n))
        for t in range(begin, end):
            self.made = t
            if isinstance(feed, StretchFeed):
                table["time_ns"][t] = feed.time_ns
            table["signal"][t] = self.observations[:, self.column]
            desk.actions[...] = self._act()
            desk.step_in_place()
            record(desk.core, desk.actions, table, t)
            if self.orders is not None and self._levels is not None:
                self.orders[t] = self._levels.read()
                # The nearest level may have no lots: then the nearest order is another's.
                for at, name in ((ASK, "ask_distance"), (BID, "bid_distance")):
                    first = self.orders[t, :, at, 0]
                    table[name][t] = np.where(first[:, LOTS] > 0, first[:, DISTANCE], table[name][t])
            self.observations = out.observations.copy()
            self._tell(1)
            if out.truncated.any():
                return t + 1
        return end

    def _look_up(self, desk: Desk, table: np.ndarray, begin: int, end: int) -> int:
        """Play a session of a `Tabulated` policy, many decisions in one compiled call; where it ended."""
        assert self.table is not None
        steps = simulated_steps
        if desk.external is not None:
            from mmenv.backtest.tape_loop import tape_steps as steps  # here, for not all have hftbacktest
        out, limit = desk.out, self.config.risk.position_limit
        out.observations[:] = self.observations
        out.truncated[:] = False
        positions = np.arange(-limit, limit + 1)
        shared = desk.core, desk.actions, out.observations, out.truncated, self.column
        for first in range(begin, end, CHUNK):
            last = min(first + CHUNK, end)
            distances = self.table.distances(np.arange(first, last)[:, None] - begin, positions[None, :])
            actions = self.config.quote.to_action(*distances)
            self.made = last - 1
            reached = steps(desk, *shared, actions, table, first)
            self._tell(reached - first)
            if reached < last or out.truncated.any():
                return reached
        self.observations = out.observations.copy()
        return end

    def _next_session(self, desk: Desk) -> None:
        """Start a new episode with the position, the profit and the risk state of the last."""
        kept = {name: desk.get(name) for name in ("position", "pnl", "fees", "risk_state")}
        self.observations = desk.reset(positions=kept["position"])
        for name, values in kept.items():
            desk.set(name, values)

    def _act(self) -> np.ndarray:
        """Ask the policy for its actions, timed and checked."""
        started = time.perf_counter()
        answer = self._ask(lambda: self.player.act(self.observations, self.state))
        self.clock.add(time.perf_counter() - started)
        try:
            actions, self.state = answer
            actions = np.asarray(actions, np.float32)
        except (TypeError, ValueError):
            actions = np.zeros(0)
        entries = self.config.quote.entries
        if actions.shape != (self.n, len(entries)):
            text = repr(answer)
            raise BacktestError(
                f"policy {self.name!r} returned {text if len(text) <= 80 else text[:77] + '...'} at decision "
                f"{self.made}: act must return (actions, state) with actions of shape ({self.n}, "
                f"{len(entries)}), {' and '.join(entry.name for entry in entries)} for each environment."
            )
        return actions

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Let the policy answer; what it raises becomes a `BacktestError`."""
        self.asking = True
        try:
            return question()
        except BacktestError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise BacktestError(
                f"policy {self.name!r} raised {what} at decision {self.made}; nothing of this part was kept."
            ) from error
        finally:
            self.asking = False


def has_compiled_loop(desk: Desk) -> bool:
    """Whether the loop of decisions can be one compiled call: not with our own matcher, networks, or several
    orders a side."""
    feed = desk.external
    if desk.config.networks or desk.config.quote.side_orders > 1:
        return False
    return feed is None or (isinstance(feed, StretchFeed) and feed.venue.compiled and feed.levels is None)


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
        # Not while the desk works: its first step may have to be compiled.
        seen[1] = seen[1] + 1 if game.asking and seen[0] == game.made else 0
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
