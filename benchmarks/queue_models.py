"""How wrong each queue model of levels is: fills, profit and rank of five policies against our exact place.

`python -m benchmarks.queue_models STORE --symbol MSFT` plays them over tapes of single orders (LOBSTER,
Databento mbo, Bitstamp, ITCH), once with the place that the orders give, and once with what each model
guesses from levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import tyro

from mmenv.data.tape import tapes
from mmenv.times import MILLISECOND, SECOND
from mmenv.venue.engines import open_venue
from mmenv.venue.settings import FIFO, QUEUE_MODELS, ReplayConfig

Quotes = tuple[int, int, int, int]
"""Ask tick, lots, bid tick, lots."""


def touch(seen: np.void, lots: int) -> Quotes:
    """Both sides of the touch, always."""
    return seen["best_ask_ticks"], lots, seen["best_bid_ticks"], lots


def behind(seen: np.void, lots: int) -> Quotes:
    """A tick behind the touch."""
    return seen["best_ask_ticks"] + 1, lots, seen["best_bid_ticks"] - 1, lots


def leaning(seen: np.void, lots: int) -> Quotes:
    """The touch; a side that would add to five lots or more steps back by a tick."""
    ask, bid = int(seen["best_ask_ticks"]), int(seen["best_bid_ticks"])
    held = seen["position_lots"]
    return ask + (held <= -5 * lots), lots, bid - (held >= 5 * lots), lots


def thick(seen: np.void, lots: int) -> Quotes:
    """The touch, but no side whose queue is less than half of the other."""
    ask, bid = int(seen["best_ask_lots"]), int(seen["best_bid_lots"])
    return (
        seen["best_ask_ticks"], lots * (2 * ask >= bid), seen["best_bid_ticks"], lots * (2 * bid >= ask),
    )  # fmt: skip


def patient(seen: np.void, lots: int) -> Quotes:
    """The touch, and the opposite side alone while a position is held."""
    ask, bid = touch(seen, lots)[0], touch(seen, lots)[2]
    held = seen["position_lots"]
    return ask, lots * (held >= 0), bid, lots * (held <= 0)


POLICIES: Final[dict[str, Callable[[np.void, int], Quotes]]] = {
    "touch": touch,
    "behind": behind,
    "leaning": leaning,
    "thick": thick,
    "patient": patient,
}


@dataclass(frozen=True)
class Compare:
    """Play five policies under every queue model and at their exact place."""

    store: tyro.conf.Positional[Path]
    """Store of tapes of single orders."""
    symbol: str = "*"
    """Symbols to play."""
    lots: int = 100
    """Size of an order."""
    latency_ms: float = 1.0
    """Order latency, each way."""
    step_ms: float = 100.0
    """Time between two decisions."""

    def play(self, model: str) -> dict[str, tuple[int, float]]:
        """Lots filled and profit, in ticks x lots at the last mid, of each policy."""
        config = ReplayConfig(
            queue_model=model,
            order_latency_ns=round(self.latency_ms * MILLISECOND),
            decision_interval_ns=round(self.step_ms * MILLISECOND),
            position_limit_lots=10 * self.lots,
            episode_ns=SECOND,
        )
        found = dict.fromkeys(POLICIES, (0, 0.0))
        with open_venue("matcher", tapes(self.store, symbol=self.symbol), len(POLICIES), config) as venue:
            for span in venue.spans:
                seen = [venue.start(lane, span, span.first_ns) for lane in range(len(POLICIES))]
                filled, cash = np.zeros(len(POLICIES), np.int64), np.zeros(len(POLICIES))
                while not seen[0]["data_end"]:
                    quotes = [
                        policy(each, self.lots) for policy, each in zip(POLICIES.values(), seen, strict=True)
                    ]
                    outcomes = venue.advance(np.array(quotes, np.int64))
                    filled += outcomes["ask_fill_lots"] + outcomes["bid_fill_lots"]
                    cash += outcomes["ask_fill_notional"] - outcomes["bid_fill_notional"]
                    seen = list(outcomes.copy())
                for lane, name in enumerate(POLICIES):
                    mid = (seen[lane]["best_bid_ticks"] + seen[lane]["best_ask_ticks"]) / 2
                    lots, profit = found[name]
                    worth = cash[lane] + seen[lane]["position_lots"] * mid
                    found[name] = lots + int(filled[lane]), profit + float(worth)
        return found

    def run(self) -> None:
        """Print a table: fills as a share of the exact ones, profit in ticks an order's lots, rank."""
        print("model", *(f"{name}: fills, of exact, profit, rank" for name in POLICIES), sep="\t")
        exact = self.play(FIFO)
        for model in (FIFO, *QUEUE_MODELS):
            found = exact if model == FIFO else self.play(model)
            order = sorted(found, key=lambda name: -found[name][1])
            cells = (
                f"{lots / self.lots:.0f}, {lots / max(exact[name][0], 1):.2f}, {profit / self.lots:.0f}, "
                f"{order.index(name) + 1}"
                for name, (lots, profit) in found.items()
            )
            print(model, *cells, sep="\t", flush=True)


if __name__ == "__main__":
    tyro.cli(Compare).run()
