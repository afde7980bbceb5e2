"""`book`: a level-one order book on a tick grid, with our orders in its queues.

A latent *efficient price* diffuses and jumps. Around it others trade, mostly one tick apart, with a queue of
lots on each side:

* Limit orders and cancels come at rates that respond to the mispricing (efficient price minus mid): the queue
  in the way of the price thins out, the other one grows (queue-reactive; Huang, Lehalle and Rosenbaum 2015).
* Uninformed market orders have Pareto sizes. Part of them belong to a metaorder of Pareto length, so that the
  signs have long memory (Lillo, Mike and Farmer 2005). What they take of a queue moves the efficient price,
  less what was to be expected from past signs: the price stays unpredictable although the signs are not
  (Lillo and Farmer 2004; Bouchaud, Gefen, Potters and Wyart 2004).
* Informed traders lift everything up to the efficient price once it leaves the spread, and makers pull their
  quotes from its way; both race for a thin queue. What an order of large impact leaves of a queue, they
  cancel too.
* Each market order excites further ones (Hawkes, a sum of two exponentials). Activity, which scales all rates
  and the volatility, is log-normal with three time constants.

When a queue is gone the price moves (Cont and de Larrard 2013), towards the efficient one and by at least a
tick; the other side follows, mostly at once.

Our orders rest in these queues; see `place` and `fill`. They do not change what others do: the path of the
market depends on the seed alone, so that policies are compared on the same paths. For orders that are small
against the queues that is harmless; large ones get fills here that would in truth have moved the market.

Prices are ticks here and half-ticks in the desk, sizes lots, rates per second. A decision is worked through
in `substeps` micro-steps, each with at most one market order and, per side, one limit order and one cancel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmenv.checks import ConfigError, check_keys, require, require_number
from mmenv.engine.stage import Stage
from mmenv.market import book_levels
from mmenv.market.base import Market, register
from mmenv.market.book_presets import ENVIRONMENT, FILE, PRESETS
from mmenv.market.book_stages import arrival, decision, makers, ours, outcome, reset, traders
from mmenv.market.book_state import NOISE, PARAMS, SCALES

LIMITS = {
    "unit": (0.5, 1e6),
    "volume": (1e-3, 1e9),
    "volatility": (0.0, 1e6),
    "jump_rate": (0.0, 1e3),
    "jump_size": (0.0, 1e6),
    "order_rate": (1e-3, 1e3),
    "order_size": (1.0, 1e8),
    "size_exponent": (0.1, 10.0),
    "max_order_size": (1.0, 1e8),
    "lots_per_print": (1.0, 1e9),
    "meta_share": (0.0, 1.0),
    "meta_length": (1.0, 1e6),
    "meta_exponent": (1.01, 10.0),
    "impact": (0.0, 1e6),
    "width": (0.5, 1e6),
    "informed_rate": (0.0, 1e3),
    "pull_rate": (0.0, 1e3),
    "race": (1e-3, 1e6),
    "flight": (0.0, 1e3),
    "depth": (1.0, 1e4),
    "sweep": (0.0, 1.0),
    "queue": (1.0, 1e8),
    "queue_rate": (1e-3, 1e3),
    "queue_events": (1e-3, 1e3),
    "response": (0.0, 100.0),
    "refill": (1.0, 1e8),
    "lag": (0.0, 1.0),
    "follow": (0.0, 1.0),
    "close_rate": (0.0, 1e4),
}
"""Bounds of the numbers of a `Book`."""


def from_preset() -> Any:
    """A field that takes its value from the preset where the user says nothing."""
    return field(default=None)


@register
@dataclass(frozen=True, kw_only=True)
class Book(Market):
    """A level-one order book around a latent efficient price, with our orders in its queues.

    `preset` names a calibration in `presets/book.toml`; any other parameter can be set on top of it. Prices
    are in ticks, sizes in lots, rates per second.

        gym.make("NeuralMM-v0", market={"name": "book", "preset": "binance-usdm-eth", "latency_steps": 1})
    """

    name = "book"
    on_ticks = True
    hidden = ("latent", "activity")
    later: ClassVar[dict[str, Any]] = {"flight": 0.0, "sweep": 0.0}
    varied = (
        "volatility", "jump_rate", "jump_size", "order_rate", "order_size", "size_exponent", "meta_share",
        "meta_length", "meta_exponent", "impact", "width", "informed_rate", "pull_rate", "race", "flight",
        "depth", "sweep", "queue", "queue_rate", "queue_events", "response", "refill", "lag", "follow",
        "close_rate"
    )  # fmt: skip
    on_step: ClassVar[tuple[Stage, ...]] = (decision, arrival, traders, makers, ours, outcome)
    on_reset: ClassVar[tuple[Stage, ...]] = (reset,)
    takes_levels: ClassVar[bool] = True
    on_reset_of_levels: ClassVar[tuple[Stage, ...]] = (book_levels.reset, reset)

    step_seconds: float = from_preset()
    preset: str = "large-tick"
    """Where the parameters that are not given come from."""
    substeps: int = from_preset()
    """Micro-steps in a decision."""
    latency_steps: int = 0
    """Micro-steps until our new quote takes effect; the old one can fill until then."""
    start_price: int = from_preset()
    """Best bid at the start of an episode, ticks."""
    unit: float = from_preset()
    """Standard deviation of the mid's move in a second, ticks: the scale of actions and observations."""
    volume: float = from_preset()
    """Lots traded in a second: the scale of volume in observations."""

    volatility: float = from_preset()
    """Of the efficient price between jumps, without impact, ticks per square root of a second."""
    jump_rate: float = from_preset()
    """Jumps of the efficient price, per second."""
    jump_size: float = from_preset()
    """Mean size of a jump, ticks; exponential."""
    activity: tuple[float, float, float] = from_preset()
    """Standard deviations of the three components of the logarithm of activity."""
    activity_seconds: tuple[float, float, float] = from_preset()
    """Their time constants."""

    order_rate: float = from_preset()
    """Uninformed market orders per second, of both sides, without excitation."""
    order_size: float = from_preset()
    """Smallest uninformed order, lots."""
    size_exponent: float = from_preset()
    """Pareto exponent of their sizes."""
    max_order_size: float = from_preset()
    """Largest uninformed order, lots."""
    lots_per_print: float = from_preset()
    """A market order counts as one trade for each of these lots that it takes, rounded up."""
    excitation: tuple[float, float] = from_preset()
    """Further uninformed orders that an order sets off, by component."""
    excitation_seconds: tuple[float, float] = from_preset()
    """Their time constants."""
    meta_share: float = from_preset()
    """Correlation of an uninformed order's side with that of the current metaorder."""
    meta_length: float = from_preset()
    """Shortest metaorder, in uninformed orders."""
    meta_exponent: float = from_preset()
    """Pareto exponent of their lengths: signs correlate as lag^-(meta_exponent - 1)."""
    impact: float = from_preset()
    """Mean move of the efficient price by an unexpected uninformed order that takes the queue, ticks."""
    exact_impact: bool = from_preset()
    """Whether what the impact of an order is expected to be is taken off it exactly, given the sizes and
    queues of the moment, so that the efficient price is a martingale; otherwise as `expected` says."""
    pressure_seconds: tuple[float, float] = from_preset()
    """Time constants of the averages of past signed orders, from which the next are expected."""
    expected: tuple[float, float] = from_preset()
    """Their weights in the expectation."""

    width: float = from_preset()
    """Mispricing at which the rates below hold, ticks; they are proportional to it."""
    informed_rate: float = from_preset()
    """Informed orders per second at a mispricing of `width` outside the spread, against a thin queue."""
    pull_rate: float = from_preset()
    """As `informed_rate`: the makers on the wrong side cancel all their orders."""
    race: float = from_preset()
    """Both rates are halved where a queue is this multiple of `queue`: the thin one is raced for."""
    flight: float = from_preset()
    """Makers cancel all that an uninformed order leaves of a queue where it moves the efficient price by more
    than `impact` / `flight` ticks: the price goes with the trade, not after it. 0: they stay."""
    depth: float = from_preset()
    """Assumed lots at each tick behind the touch."""
    sweep: float = from_preset()
    """Ticks by which the price goes on for each that an order takes behind the touch. 0: such an order moves
    it no farther than one that takes the touch alone."""

    queue: float = from_preset()
    """Lots at the touch to which limit orders and cancels lead at no mispricing."""
    queue_rate: float = from_preset()
    """Part of the queue renewed in a second."""
    queue_events: float = from_preset()
    """Limit orders, and cancels, per second and side."""
    response: float = from_preset()
    """Relative change of the rates of limit orders and cancels at a mispricing of `width`; at most 1."""
    refill: float = from_preset()
    """Mean lots of the queue at a new best price; exponential."""
    lag: float = from_preset()
    """When a queue is gone the price goes at least 1 - lag of the way to the efficient one."""
    follow: float = from_preset()
    """Chance that the other side follows at once; the spread is then one tick."""
    close_rate: float = from_preset()
    """Rate at which a wider spread closes."""

    def __post_init__(self) -> None:
        require(self.preset in PRESETS, "Book", "preset", self.preset, "one of " + ", ".join(PRESETS))
        preset = {k: v for k, v in PRESETS[self.preset].items() if k != ENVIRONMENT}
        if all(getattr(self, name) is not None for name in preset if name not in self.later):
            preset |= self.later  # it says all that there was to say: what came later changes nothing
        for name, value in preset.items():
            given = getattr(self, name)
            value = value if given is None else given
            object.__setattr__(self, name, tuple(value) if isinstance(value, list | tuple) else value)
        super().__post_init__()
        require_number(self, "substeps", 1, 100, integer=True)
        require_number(self, "latency_steps", 0, self.substeps - 1, integer=True)
        require_number(self, "start_price", 1, 2**28, integer=True)
        for name, (low, high) in LIMITS.items():
            require_number(self, name, low, high)
        require(
            isinstance(self.exact_impact, bool), "Book", "exact_impact", self.exact_impact, "true or false"
        )
        for name, count, high in (
            ("activity", SCALES, 2.0),
            ("activity_seconds", SCALES, 1e7),
            ("excitation", 2, 0.95),
            ("excitation_seconds", 2, 1e6),
            ("pressure_seconds", 2, 1e6),
            ("expected", 2, 1.0),
        ):
            value = getattr(self, name)
            low = 1e-3 if name.endswith("seconds") else 0.0
            good = isinstance(value, tuple) and len(value) == count
            good = good and all(isinstance(x, int | float) and low <= x <= high for x in value)
            require(good, "Book", name, value, f"{count} numbers from {low:g} to {high:g}")
        require(sum(self.excitation) < 1, "Book", "excitation", self.excitation, "less than 1 in sum")
        events = self.queue_events * self.micro_seconds
        require(
            events <= 0.5,
            "Book",
            "queue_events",
            self.queue_events,
            f"at most {0.5 / self.micro_seconds:g} with these substeps",
        )
        orders = self.order_rate / (1 - sum(self.excitation)) * self.micro_seconds
        require(
            orders <= 0.5,
            "Book",
            "order_rate",
            self.order_rate,
            f"at most {0.5 * self.order_rate / orders:g} with these substeps and excitation",
        )

    @property
    def micro_seconds(self) -> float:
        """Length of a micro-step."""
        return self.step_seconds / self.substeps

    @property
    def price_scale(self) -> int:
        return max(round(2 * self.unit * math.sqrt(self.step_seconds)), 1)

    @property
    def lot_scale(self) -> float:
        return max(self.volume * self.step_seconds, 1.0)

    @property
    def sequence(self) -> tuple[Stage, ...]:
        return (decision, *self._micro_steps(arrival, ours), outcome)

    @property
    def sequence_of_levels(self) -> tuple[Stage, ...]:
        micro_steps = self._micro_steps(book_levels.arrival, book_levels.ours)
        ends = book_levels.nearest, outcome, book_levels.payment
        return (decision, book_levels.decision, *micro_steps, *ends)

    def _micro_steps(self, arrival: Stage, ours: Stage) -> tuple[Stage, ...]:
        """The micro-steps of a decision, our quotes arriving after `latency_steps` of them."""
        micro_step, before = (traders, makers, ours), self.latency_steps
        return (*(micro_step * before), arrival, *(micro_step * (self.substeps - before)))

    def defaults(self) -> dict[str, Any]:
        return {
            "horizon": 600,
            "quote": {"max_half_spread": 14.0, "max_skew": 14.0, "max_distance": 12.0, "withdraw": True},
            "reward": {"inventory_penalty": 0.001, "terminal_penalty": 0.01},
            "features": ("order_flow", "trade_book", "inventory", "clock", "orders", "queues"),
        } | PRESETS[self.preset].get(ENVIRONMENT, {})

    def compiled(self) -> np.ndarray:
        micro = self.micro_seconds
        decay = np.exp(-self.step_seconds / np.array(self.activity_seconds))
        variance = float(np.square(self.activity).sum())
        params = np.zeros(1, PARAMS)
        for name, value in {
            "substeps": self.substeps,
            "latency": self.latency_steps,
            "start": self.start_price,
            "decay": decay,
            "shock": np.array(self.activity) * np.sqrt(1 - decay**2),
            "spread": self.activity,
            "half_variance": variance / 2,
            "deviation": 2 * self.volatility * math.sqrt(micro) * math.exp(-variance / 2) / NOISE,
            "jump": -math.expm1(-self.jump_rate * self.step_seconds),
            "jump_size": 2 * self.jump_size,
            "per_width": 0.5 / self.width,
            "order": self.order_rate * micro,
            "size": self.order_size,
            "size_power": -1 / self.size_exponent,
            "max_size": self.max_order_size,
            "informed": self.informed_rate * micro,
            "pull": self.pull_rate * micro,
            "race": self.race * self.queue,
            "flight": self.flight,
            "depth": self.depth,
            "sweep": self.sweep / self.depth,
            "meta_share": self.meta_share,
            "meta_length": self.meta_length,
            "meta_power": -1 / self.meta_exponent,
            "excite": np.array(self.excitation) / (self.order_rate * np.array(self.excitation_seconds)),
            "excite_decay": np.exp(-micro / np.array(self.excitation_seconds)),
            "excited": np.array(self.excitation) / (1 - sum(self.excitation)),
            "forget": -np.expm1(-micro / np.array(self.pressure_seconds)),
            "expected": 2 * self.impact * np.array(self.expected) * (not self.exact_impact),
            "impact": 2 * self.impact,
            "exact": float(self.exact_impact),
            "event": self.queue_events * micro,
            "limit": self.queue * self.queue_rate / self.queue_events,
            "cancel": self.queue_rate / self.queue_events,
            "response": self.response,
            "refill": self.refill,
            "lag": self.lag,
            "follow": self.follow,
            "close": -math.expm1(-self.close_rate * micro),
            "per_print": 1 / self.lots_per_print,
            "per_unit": 1 / self.price_scale,
        }.items():
            params[name] = value
        return params


def check_presets(presets: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Raise `ConfigError` for a preset of `file` with an unknown, missing or impossible parameter."""
    settings = dataclasses.fields(Book)
    for name, preset in presets.items():
        where = f"{file}, preset {name!r},"
        parameters = {key: value for key, value in preset.items() if key != ENVIRONMENT}
        check_keys(where, parameters, [f.name for f in settings])
        missing = [f.name for f in settings if f.default is None and f.name not in parameters]
        if missing:
            raise ConfigError(f"{where} has no {missing[0]!r}: give it there or in the table [common].")
        try:
            Book(**parameters)
        except ConfigError as error:
            raise ConfigError(f"{where} cannot be: {error}") from None


check_presets(PRESETS, FILE)
