"""Speed of replay at order level beside that of levels: `python -m benchmarks.by_order STORE`.

Every tape of single orders is replayed by each engine, from levels and from orders, with quotes at the touch
that most steps cancel and send anew. Printed are medians, of processor time, and the ratio.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from mmenv.data.tape import Tape, tapes
from mmenv.times import MILLISECOND
from mmenv.venue.engines import ENGINES, open_venue
from mmenv.venue.settings import FIFO, ReplayConfig


@dataclass(frozen=True)
class ByOrder:
    """Measure replay from single orders."""

    store: tyro.conf.Positional[Path]
    """Store of tapes."""
    interval_ms: int = 100
    """Between two decisions."""
    steps: int = 1_000
    """In each of the rounds."""
    rounds: int = 5

    def run(self) -> None:
        """Print a line for each tape and engine."""
        print("tape", "engine", "steps/s, levels", "steps/s, orders", "ratio", sep="\t")
        for tape in tapes(self.store):
            for engine in ENGINES if tape.info.orders else ():
                levels, orders = (self.speed(tape, engine, model) for model in ("risk-adverse", FIFO))
                name = f"{tape.info.symbol} {tape.info.day}"
                print(name, engine, f"{levels:,.0f}", f"{orders:,.0f}", f"{orders / levels:.2f}", sep="\t")

    def speed(self, tape: Tape, engine: str, model: str) -> float:
        """Steps a second of processor time, resets not counted."""
        config = ReplayConfig(
            decision_interval_ns=self.interval_ms * MILLISECOND,
            episode_ns=(self.steps + 10) * self.interval_ms * MILLISECOND,
            queue_model=model,
            partial_fills=False,
        )
        found = []
        with open_venue(engine, [tape], 1, config) as venue:
            for number in range(self.rounds + 1):
                venue.reset(0, np.random.default_rng(number))
                quotes = np.zeros((1, 4), np.int64)
                quotes[:, 1::2] = 1
                begin = time.process_time()
                for _ in range(self.steps):
                    quotes[:, 0] = venue.outcomes["best_ask_ticks"]
                    quotes[:, 2] = venue.outcomes["best_bid_ticks"]
                    venue.advance(quotes)
                found.append(self.steps / (time.process_time() - begin))
        return statistics.median(found[1:])  # the first one compiles


if __name__ == "__main__":
    tyro.cli(ByOrder).run()
