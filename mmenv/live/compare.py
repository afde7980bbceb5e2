"""A paper session beside a backtest of the same market."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmenv.data.tape import Tape
from mmenv.desk.networks import make_desk
from mmenv.engine.state import ACTIVE, STATES
from mmenv.live.journal import JournalError
from mmenv.live.rerun import Mismatch, decisions, setup_of
from mmenv.live.setup import Setup
from mmenv.market.stretch import StretchFeed
from mmenv.venue.engines import open_venue
from mmenv.venue.settings import ReplayConfig


@dataclass(frozen=True)
class Backtest:
    """How far a backtest did what the session had done."""

    engine: str
    compared: int
    """Decisions that agreed, from the first."""
    why: str
    """Why no more were compared; empty if all were."""
    fills: int


def backtest(path: Path, tape: Tape, engine: str) -> Backtest:
    """Replay a paper journal's market through the backtester, with its actions, and compare every decision.

    Parameters
    ----------
    tape
        What `to_tape` made of the journal.
    engine
        "hftbacktest", which needs the extra `replay`, or "matcher", our own.

    Raises
    ------
    Mismatch
        Observation, outcome (book, trades, fills, position), quotes or reward differs in a byte.
    JournalError
        It is not the journal of a paper session that began flat.
    ImportError
        The engine is not installed.
    """
    setup = setup_of(path)
    if setup.mode != "paper" or setup.position:
        raise JournalError(f"{path} is not of a paper session that began flat.")
    config = ReplayConfig(
        decision_interval_ns=setup.interval_ns, order_latency_ns=setup.latency_ns, feed_latency_ns=0,
        queue_model=setup.queue_model, queue_exponent=setup.queue_exponent,
        partial_fills=setup.partial_fills, episode_ns=setup.interval_ns,
        position_limit_lots=setup.config.risk.position_limit,
    )  # fmt: skip
    desk = make_desk(setup.config, 1, autoreset=False)
    with open_venue(engine, [tape], 1, config) as venue:
        desk.external = feed = StretchFeed(venue, [(venue.spans[0], setup.start_ns)])
        desk.tell(feed)
        outcomes = venue.outcomes
        compared, fills, why, over = 0, 0, "", True
        observation, reward = np.zeros(desk.entries, np.float32), 0.0
        for made in decisions(path):
            why = _not_comparable(made, setup, compared, bool(outcomes["data_end"][0]))
            if why:
                break
            if over:
                observation = desk.reset(positions=outcomes["position_lots"].astype(np.int32))[0]
            _same("outcome", compared, outcomes[0], made["outcome"])
            _same("observation", compared, observation, made["observation"])
            _same("reward", compared, np.array(reward), made["reward"])
            step = desk.step(made["action"][None])
            _same("quotes", compared, feed.quotes[0], made["quotes"])
            observation, reward = step.observations[0], step.rewards[0]
            over = bool(step.terminated[0])
            fills += sum(int(outcomes[name][0] > 0) for name in ("ask_fill_lots", "bid_fill_lots"))
            compared += 1
        return Backtest(engine, compared, why, fills)


def _not_comparable(made: np.void, setup: Setup, number: int, ended: bool) -> str:
    """Why this decision has no counterpart in a backtest; empty if it has."""
    if made["state"] != ACTIVE:
        return f"decision {number} was made {STATES[made['state']]}, which no backtest is"
    if made["time_ns"] != setup.start_ns + number * setup.interval_ns:
        return f"the session was interrupted before decision {number}"
    return "the tape ends" if number and ended else ""


def _same(what: str, number: int, ours: NDArray, theirs: NDArray) -> None:
    if ours.tobytes() != theirs.tobytes():
        raise Mismatch(f"{what} of decision {number} differs: {ours.tolist()}, recorded {theirs.tolist()}")
