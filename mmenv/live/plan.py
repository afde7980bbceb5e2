"""What one desk is to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmenv.config import EnvConfig
from mmenv.live.guard import GuardConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Policy, symbol, folder and limits of one desk."""

    config: EnvConfig
    """The policy's own; its market is replaced by `mmenv.market.live.Live`."""
    policy: str
    """Name and checksum of the policy."""
    venue: str
    symbol: str
    folder: Path
    """Where the journal lies, and where `neuralmm halt` leaves its word."""
    mode: str = "paper"
    """"paper" or "live"."""
    guard: GuardConfig | None = None
    """None: the limits of `config`, in the instrument's currency."""
    max_orders: int | None = None
    """New orders in the guard's window, ten seconds, at most; None: what `guard` says, or what suits the
    action. Fewer where the venue takes fewer."""
    latency_ms: float = 10.0
    """One-way latency of paper orders."""
    queue_model: str = "risk-adverse"
    maker_fee_bp: float | None = None
    """None: what the feed says."""
    price_unit: int = 0
    """Half-ticks; 0 measures it before the first decision."""
    lot_unit: float = 0.0
    """Lots; 0 measures it before the first decision."""
    warm_up_s: float = 10.0
    """Rows gathered before the first decision, and measured."""
    resume_s: float = 60.0
    """A desk that was down for less goes on with its memory; after longer a new episode begins."""
    countdown_s: float = 10.0
    """The venue cancels everything when it has not heard from us for so long, where it can."""
    desks: int = 1
    """Desks of the account, which share what the venue takes of it."""
    rotate_mb: float = 1_000.0
    """The journal goes on in a new file at this size, and at midnight UTC."""
    look_s: float = 60.0
    """The venue is asked this often what the symbol is now, and at least every five seconds while it is not
    traded."""
    snapshot_work: int = 500_000
    """A snapshot is made after so many rows, or what takes as long: a few seconds of playing them again."""
    sync: bool = False
    """Let the journal outlive the machine, not only the process: a disk write for each decision."""

    @property
    def journal(self) -> Path:
        """The newest file of the journal."""
        return self.folder / f"{self.mode}-{self.venue}-{self.symbol}.journal"
