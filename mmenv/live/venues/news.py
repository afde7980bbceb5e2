"""What a venue says of an order, in words that all venues share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from mmenv.live.orders import Fill, Trouble


class End(StrEnum):
    """Why an order is no more."""

    FILLED = "filled"
    CANCELLED = "cancelled"
    """By whoever asked for it."""
    EXPIRED = "expired"
    """By the venue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderView:
    """An order as the venue shows it: sizes in lots, `end` None while it may trade."""

    client_id: str
    order_id: int
    lots: int
    filled: int
    end: End | None = None
    exch_ns: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What the user stream says of an order, and the fill that it tells of, if any."""

    view: OrderView
    fill: Fill | None = None


@dataclass(frozen=True, slots=True)
class NotTaken:
    """An order is not at the venue and never will be."""

    client_id: str
    code: int
    reason: str
    trouble: Trouble


@dataclass(frozen=True, slots=True)
class Paid:
    """Funding was paid."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream says that it is over."""

    reason: str


News: TypeAlias = Report | Fill | NotTaken | Paid | Ended
