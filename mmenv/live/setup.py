"""What a session is made from, what it asks of a policy, and what it decides."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mmenv.actions.base import Action
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.data.currency import currency_of
from mmenv.live.charges import Charges
from mmenv.live.guard import BEFORE, LEAST_ORDERS, GuardConfig
from mmenv.market.live import Live
from mmenv.venue.outcome import OUTCOME
from mmenv.venue.working import COMMAND

LATER: Final = frozenset({"dust", "base", "quote", "min_lots", "min_value", "reduces", "inverse"})
"""Fields of a `Setup` that old journals lack; they are not written where they say what old ones meant."""
NOTHING_SENT: Final = np.zeros(0, COMMAND)


class Player(Protocol):
    """A policy for one desk, with its memory."""

    state: bytes
    """The memory, from which it goes on where it is set."""

    def reset(self) -> None:
        """A new episode begins."""

    def step(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Action (A,) for the observation (F,)."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything a session is made from; the first frame of its journal. Times are in nanoseconds."""

    config: EnvConfig
    """The desk; its market is `mmenv.market.live.Live`."""
    guard: GuardConfig
    policy: str
    """Name and checksum of the policy."""
    mode: str
    """"paper" or "live"."""
    session: str
    """Unique for ever; the prefix of client ids."""
    start_ns: int
    """The first decision."""
    tick_size: str
    lot_size: str
    low_tick: int
    high_tick: int
    """Prices outside are ignored."""
    position: int = 0
    """Lots held at the start."""
    baseline: int = 0
    """Lots at the venue that are not ours to trade, such as a spot balance."""
    dust: str = "0"
    """What is held at the venue beyond whole lots, in units of the traded asset."""
    base: str = ""
    """The asset that is traded; empty, as in old journals, where fees are not counted as charged."""
    quote: str = ""
    """The asset that profits are in."""
    inverse: bool = False
    """Whether a lot is so much of the currency that prices are in, and profit is paid in coin."""
    min_lots: int = 1
    """Smallest size of an order."""
    min_value: int = 0
    """Smallest value of an order, ticks x lots."""
    reduces: bool = True
    """Whether the venue has orders that only reduce, which may be of any value."""
    last_trade: int = 0
    """Newest trade id of the account before the session."""
    latency_ns: int = 10_000_000
    """One-way latency of paper orders."""
    queue_model: str = "risk-adverse"
    queue_exponent: float = 3.0
    partial_fills: bool = True

    @property
    def market(self) -> Live:
        """The market of the desk."""
        assert isinstance(self.config.market, Live)
        return self.config.market

    @property
    def interval_ns(self) -> int:
        """Time between two decisions."""
        return self.config.market.step_ns

    @property
    def money(self) -> float:
        """What a half-tick x lot is in the currency of profits; of an inverse contract, where it began."""
        linear = float(self.tick_size) * float(self.lot_size) / 2
        if self.inverse:
            return linear / ((self.low_tick + self.high_tick) / 2 * float(self.tick_size)) ** 2
        return linear

    @property
    def currency(self) -> str:
        """What profits are in."""
        return self.quote or currency_of(self.market.symbol, "inverse" if self.inverse else "linear")

    def charges(self) -> Charges:
        """An account of what the venue charges, from its start."""
        rate = self.config.maker_fee_bp / 1e4
        tick, lot = Decimal(self.tick_size), Decimal(self.lot_size)
        return Charges(self.base, self.quote, tick, lot, rate, self.inverse)

    def to_json(self) -> bytes:
        """The first frame of a journal."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        guard = dataclasses.asdict(self.guard)
        # As journals have it from before there were such fields.
        guard = {name: value for name, value in guard.items() if value or name not in BEFORE}
        absent = {field.name: field.default for field in dataclasses.fields(self) if field.name in LATER}
        plain = {name: value for name, value in plain.items() if absent.get(name, ...) != value}
        plain |= {"guard": guard, "config": self.config.to_dict()}
        return json.dumps(plain, sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Setup:
        """Read what `to_json` gave."""
        plain = json.loads(text)
        plain["config"] = make_config(**plain["config"])
        plain["guard"] = GuardConfig(**BEFORE | plain["guard"])
        return cls(**plain)


def orders_a_decision(quote: Action) -> int:
    """How many orders a decision of an action sends at most."""
    return 2 * quote.side_orders + (quote.taking is not None)


def require_orders(quote: Action, allowed: int, name: str) -> None:
    """Raise `ConfigError` where the limit of new orders `name` is too low for any decision of an action."""
    most = orders_a_decision(quote)
    least = max(most, LEAST_ORDERS)
    if allowed < least:
        raise ConfigError(
            f"{name} = {allowed} is not possible: it must be at least {least}, for a decision of quote "
            f"{quote.name!r} sends up to {most} orders."
        )


def usual_orders(quote: Action) -> int:
    """The limit of a guard's order rate where none is given: so many for each order a side of the action."""
    return GuardConfig.max_orders * quote.side_orders


@dataclass(frozen=True)
class Outgoing:
    """Commands for the venue, in order; with `cancel_all`, all orders of the symbol are cancelled first."""

    commands: NDArray[np.void]
    reduce_only: bool
    cancel_all: bool
    at_once: bool = False
    """Market orders: filled at once, at their tick at worst, or gone."""


def decision_type(width: int, numbers: int = 2, levels: int = 1) -> np.dtype:
    """Record of a decision with `width` observation entries, of an action of so many numbers and orders a
    side."""
    return np.dtype(
        [
            ("time_ns", "<i8"),
            ("number", "<i8"),
            ("age", "<i8"),
            ("state", "<i8"),
            ("outcome", OUTCOME),
            ("reward", "<f8"),
            ("wealth", "<f8"),
            ("observation", "<f4", (width,)),
            ("action", "<f4", (numbers,)),
            ("quotes", "<i8", (4 * levels,)),
        ]
    )


OF_POLICY: Final = ("observation", "action", "quotes")
"""Last fields of a decision."""
