"""Paper sessions for tests: a random market, a policy that depends on its memory, any limits."""

from __future__ import annotations

import functools
import tempfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmenv import make_config
from mmenv.data.importer import Import
from mmenv.data.tape import tapes
from mmenv.live.guard import BEFORE, GuardConfig
from mmenv.live.journal import Memory, Sink
from mmenv.live.session import Session
from mmenv.live.setup import Setup
from mmenv.market.live import Live
from tests.helpers.captures import market, write

MS = 1_000_000


@functools.cache
def rows(seconds: float = 40.0, seed: int = 3) -> NDArray[np.void]:
    """ROW rows of a random market as they would reach a desk whose clock is right."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "capture.gz", market(seconds=seconds, seed=seed).lines)
        Import("binance", (path,), Path(folder) / "store", strict=True, progress=False).run()
        tape = tapes(Path(folder) / "store")[0]
        found = np.concatenate(list(tape.rows()))
    found["local_ns"] += tape.info.clock_offset_ns + 2 * MS
    return found


class Wanderer:
    """Quotes at random, drawn from what it has seen in this episode and so far: forgetting shows."""

    def __init__(self, low: float = -1.0, high: float = -0.5, numbers: int = 2) -> None:
        self.low, self.high, self.numbers = low, high, numbers
        self.memory = 0

    def reset(self) -> None:
        self.memory = 0

    def step(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        self.memory = (self.memory * 31 + zlib.crc32(observation.tobytes())) % (1 << 61)
        return (
            np.random.default_rng(self.memory).uniform(self.low, self.high, self.numbers).astype(np.float32)
        )

    @property
    def state(self) -> bytes:
        return str(self.memory).encode()

    @state.setter
    def state(self, saved: bytes) -> None:
        self.memory = int(saved)


def setup(latency_ms: float = 20.0, mode: str = "paper", guard: dict | None = None, **config) -> Setup:
    """A session over `rows`, two seconds after they begin."""
    live = Live(venue="binance-usdm", symbol="BTCUSDT", price_unit=4, lot_unit=20.0)
    limits = {"daily_loss": 1e9, "drawdown": 1e9, "position_limit": 100, "max_orders": 100_000} | (
        BEFORE | (guard or {})
    )
    return Setup(
        config=make_config(live, **{"horizon": 150, "maker_fee_bp": 2.0} | config),
        guard=GuardConfig(**limits),
        policy="wanderer",
        mode=mode,
        session="test",
        start_ns=int(rows()["local_ns"][0]) + 2_000 * MS,
        tick_size="0.1",
        lot_size="0.001",
        low_tick=5000,
        high_tick=7000,
        latency_ns=round(latency_ms * MS),
    )


def run(session: Session, given: NDArray[np.void], seed: int = 0, snapshots: float = 0.0) -> Session:
    """Feed rows in batches of random size, with snapshots before this share of them."""
    random, at = np.random.default_rng(seed), 0
    session.feed(True, "")
    while at < len(given):
        count = int(random.integers(1, 50))
        if snapshots and random.random() < snapshots:
            session.snapshot()
        session.take(given[at : at + count])
        at += count
    return session


def paper(
    sink: Sink, seed: int = 0, player: Wanderer | None = None, snapshots: float = 0.0, **settings
) -> Session:
    """A whole paper session."""
    return run(Session(setup(**settings), player or Wanderer(), sink), rows(), seed, snapshots)


def at_venue(*action: float, **config) -> Session:
    """A session at a venue with a book, after the first decision of a player who asks for the same always:
    `action` is what `to_action` of the quote takes."""
    asked = setup(mode="live", **config)

    class Steady(Wanderer):
        def step(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
            return asked.config.quote.to_action(*action)

    session = Session(asked, Steady(), Memory())
    session.feed(True, "")
    given = rows()
    session.see(given[given["local_ns"] < asked.start_ns])
    session.tick(session.next_ns)
    return session
