"""The settings of a replay: latency, queue, and which part of the recorded time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mmenv.checks import require
from mmenv.times import MILLISECOND, SECOND

ENGINES: Final = ("hftbacktest", "matcher")
"""Who matches our orders: hftbacktest, or our own matcher, as in paper trading."""

LATENCY_MODELS: Final = ("constant", "lognormal", "feed", "empirical", "recorded")
"""How the latency of orders varies; see `mmenv.venue.latency`."""

LATENCIES_FROM_FILE: Final = ("empirical", "recorded")

QUEUE_MODELS: Final = (
    "risk-adverse",
    "log-prob",
    "log-prob-2",
    "power-prob",
    "power-prob-2",
    "power-prob-3",
)
"""How our place in the queue moves where levels alone are known, by hftbacktest's names; see
`mmenv.venue.matcher`."""

FIFO: Final = "fifo"
"""On tapes of single orders our place is known: first in, first out; see `mmenv.venue.by_order`."""

MAX_LOTS: Final = 1 << 31
"""Orders are smaller than this, so that sizes are exact in the engine's arithmetic."""

SPLITS: Final = ("train", "validation", "test", "all")


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """How recorded tapes are replayed. Times in nanoseconds.

    Raises
    ------
    ConfigError
        A value that cannot be; the message names the field.
    """

    decision_interval_ns: int = 100 * MILLISECOND
    """Time between two decisions."""
    order_latency_ns: int = 10 * MILLISECOND
    """From us to the exchange, and as long again for its answer; the median where `order_latency` varies."""
    order_latency: str = "constant"
    """How it varies: one of `LATENCY_MODELS`."""
    latency_spread: float = 0.5
    """Standard deviation of the logarithm of a "lognormal" latency."""
    latency_file: str = ""
    """Round trips for "empirical" and "recorded"; see `mmenv.venue.latency.read`."""
    latency_seed: int = 0
    """Draws of the latency depend on this and on the time at which an episode starts."""
    feed_latency_ns: int = 2 * MILLISECOND
    """Delay of the fastest market data message; the others keep their recorded delay on top of it."""
    book_ticker: bool = True
    """Keep the touch as recent as the recorded book tickers; otherwise as the conflated depth messages."""
    queue_model: str = "risk-adverse"
    """One of `QUEUE_MODELS`, or `FIFO` for tapes of single orders. "risk-adverse": only trades move us up the
    queue. The others let cancels ahead of us do so too, by a probability; "log-prob" ones depend on the unit
    of size, here lots."""
    queue_exponent: float = 3.0
    """Exponent of the "power-prob" models."""
    partial_fills: bool = True
    """Fill what the trade leaves for us; otherwise the whole order as soon as any of it would fill."""
    split: str = "all"
    """Part of the recorded time to draw from: "train", "validation", "test" or "all"."""
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of train, validation and test, in this order in time."""
    gap_ns: int = 10 * SECOND
    """Recorded time left unused between two parts."""
    episode_ns: int = 30 * SECOND
    """A random start leaves at least this much of its span."""
    position_limit_lots: int | None = None
    """If set, no combination of fills in flight can take the position past it: a replacement that could
    waits until the old order's cancel is confirmed."""

    def __post_init__(self) -> None:
        hour = 3_600 * SECOND
        self._require("decision_interval_ns", 0 < self.decision_interval_ns <= hour, "1 ns to an hour")
        for name in ("order_latency_ns", "feed_latency_ns", "gap_ns"):
            self._require(name, 0 <= getattr(self, name) <= hour, "0 to an hour")
        self._require_one("order_latency", LATENCY_MODELS)
        self._require("latency_spread", 0 <= self.latency_spread <= 3, "0 to 3")
        self._require("latency_seed", self.latency_seed >= 0, "0 or more")
        needed = self.order_latency in LATENCIES_FROM_FILE
        models = " or ".join(LATENCIES_FROM_FILE)
        self._require(
            "latency_file",
            bool(self.latency_file) == needed,
            f"given with order_latency {models}, and only then",
        )
        self._require("episode_ns", self.episode_ns > 0, "positive")
        self._require_one("queue_model", (*QUEUE_MODELS, FIFO))
        self._require("queue_exponent", 0 < self.queue_exponent <= 100, "in (0, 100]")
        self._require_one("split", SPLITS)
        shares = self.fractions
        good = len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-9
        self._require("fractions", good, "three shares that sum to 1")
        limit = self.position_limit_lots
        self._require(
            "position_limit_lots", limit is None or 0 < limit < MAX_LOTS, f"None or 1 to {MAX_LOTS - 1}"
        )

    def _require(self, name: str, condition: bool, allowed: str) -> None:
        require(condition, "ReplayConfig", name, getattr(self, name), allowed)

    def _require_one(self, name: str, allowed: tuple[str, ...]) -> None:
        self._require(name, getattr(self, name) in allowed, "one of " + ", ".join(allowed))
