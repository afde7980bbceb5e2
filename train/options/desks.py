"""What the commands of desks are given: `neuralmm paper`, `live`, `halt` and `replay-journal`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import tyro

JOURNALS: Final = Path("journals")


@dataclass(frozen=True, kw_only=True)
class Common:
    """What paper and real trading share."""

    policy: str
    """A bundle (policy.mmz), a trained model (.zip, or the folder of a run), the name of a policy such as
    fixed-spread, or module:name."""
    parameters: dict[str, float] = field(default_factory=dict)
    """Parameters of a policy by name, such as `--parameters half_spread 1.0`."""
    venue: str = "binance-usdm"
    """Name of a venue, such as binance-usdm or bybit, or "module:name" of one; `neuralmm list venues`."""
    symbol: tuple[str, ...] = ("BTCUSDT",)
    """One or more symbols; each gets a desk of its own."""
    url: str | None = None
    """Address of another server of the same protocol, such as http://127.0.0.1:8080."""
    testnet: bool = False
    """Trade at the venue's testnet, where nothing is worth anything."""
    journals: Path = JOURNALS
    """Folder of the journals; a desk that finds its own there goes on with it."""
    rotate_mb: float = 1_000.0
    """A journal goes on in a new file at this size, and at midnight UTC."""
    position_limit: int | None = None
    """Largest absolute position, lots; otherwise the policy's."""
    order_lots: int | None = None
    """Size of each quote, lots; otherwise the policy's."""
    max_loss: float | None = None
    """Halt after losing so much in a day, or from its peak, currency of profits; otherwise the policy's."""
    account_loss: float | None = None
    """Halt every desk when together they have lost so much from their best, currency of profits."""
    max_orders: int | None = None
    """New orders of a desk in ten seconds at most; otherwise 250 for each order a side, and never more than
    the venue takes. Each level of a ladder is an order."""
    step_seconds: float = 0.1
    """Time between two decisions; a bundle's own if it has one."""
    price_unit: int = 0
    """Half-ticks in a price unit; 0 measures it first."""
    lot_unit: float = 0.0
    """Lots in a volume unit; 0 measures it first."""
    warm_up: float = 10.0
    """Seconds of market data before the first decision; the units are measured on them."""
    seconds: float = float("inf")
    """Stop after so long."""
    sync: bool = False
    """Write every decision through to the disk, against the loss of the machine."""
    show: bool = sys.stdout.isatty()
    """Show the screen."""
    metrics: int | None = None
    """Port on which Prometheus can ask."""


@dataclass(frozen=True, kw_only=True)
class Paper(Common):
    """Trade on paper: live market data, fills from our own matcher with queue, latency and fees."""

    latency_ms: float = 10.0
    """Time from us to the exchange, and as long again for its answer."""
    queue_model: str = "risk-adverse"
    """How cancels ahead of us move us up the queue; see mmenv.venue.matcher."""
    maker_fee_bp: float | None = None
    """Otherwise the venue's usual one."""
    store: Path | None = None
    """Play the tapes of this store in place of a venue, without a network."""


@dataclass(frozen=True, kw_only=True)
class Real(Common):
    """Trade with real orders. Off unless the key, --real-orders and every limit are given."""

    real_orders: bool = False
    """Say that you mean it."""
    key_file: Path | None = None
    """File with key, secret and, where the venue has one, passphrase, a line each, readable by its owner
    alone; otherwise the environment variables NEURALMM_API_KEY, NEURALMM_API_SECRET and
    NEURALMM_API_PASSPHRASE."""
    maker_fee_bp: float | None = None
    """Otherwise what the venue charges this account. An estimate: fees are counted as they are charged."""
    countdown: float = 10.0
    """The venue cancels all our orders when it has not heard from us for so many seconds (USD-M, OKX)."""


@dataclass(frozen=True)
class Halt:
    """Stop all desks of a folder: they cancel everything and quote no more until cleared."""

    journals: Path = JOURNALS
    """Folder of their journals."""
    flatten: bool = False
    """Then work out of the position, with reducing orders at the touch."""
    reduce: bool = False
    """Do not halt, but only reduce the position."""
    resume: bool = False
    """Take back what these have said; what the desks found out by themselves stays."""
    clear: bool = False
    """Take back whatever waits for the operator by now, limits of loss included."""
    reason: str = "neuralmm halt"
    """Reason to write down."""


@dataclass(frozen=True)
class ReplayJournal:
    """Play a journal again and compare every byte; a paper session's also through the backtester."""

    journal: tyro.conf.Positional[Path]
    """The file."""
    policy: str | None = None
    """The policy it was made with; without it the recorded actions are taken."""
    parameters: dict[str, float] = field(default_factory=dict)
    """Parameters of a policy by name."""
    backtest: bool = True
    """Also replay its market through hftbacktest and through our matcher, and compare every decision."""
