"""What `neuralmm backtest` is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mmenv.measure.options import MARKET_HELP
from mmenv.venue.settings import LATENCY_MODELS, QUEUE_MODELS, SPLITS


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """Play policies over recorded or simulated markets and write their tear sheet.

    The last argument is DATA: a store of recorded tapes (`neuralmm import`) or a simulated market. Each
    POLICY before it is a trained model (its folder or .zip), a bundle (.mmz), a registered one such as glft
    or glft:gamma=0.1 (without parameters it is tuned; `neuralmm list policies`), or module:attribute of a
    Python object with `reset` and `act`, or of what makes one from a configuration. The first one is what
    others are compared with. Interrupted, the same command continues.
    """

    arguments: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="POLICY... DATA",
            name="",
            help_behavior_hint="(required)",
            help=f"One or more policies, then the data: a store, or {MARKET_HELP}.",
        ),
    ]
    start: str | None = None
    """First moment of recorded data, UTC, such as 2024-08-08T23:55."""
    end: str | None = None
    """Last moment of recorded data, UTC."""
    fees: float | None = None
    """Maker fee, basis points, negative for a rebate; by default each tape's own, or the market's."""
    latency: float = 10.0
    """To the exchange, and as long again back, milliseconds (tapes)."""
    latency_model: Annotated[
        str,
        tyro.conf.arg(help=f"How it varies (tapes): one of {', '.join(LATENCY_MODELS)}; see docs/data.md."),
    ] = "constant"
    latency_file: Path | None = None
    """Round trips for empirical and recorded (tapes)."""
    queue: Annotated[
        str,
        tyro.conf.arg(
            help=f"How cancels ahead of us move us up the queue (tapes): one of {', '.join(QUEUE_MODELS)}; "
            "risk-adverse is the strictest. Or fifo: our exact place, on tapes of single orders."
        ),
    ] = "risk-adverse"
    venue: str = "*"
    """Venues of the store: a name or pattern."""
    symbol: str = "*"
    """Symbols of the store: a name or pattern."""
    day: str = "*"
    """Days of the store: a name such as 2024-08-08, or a pattern."""
    calibration: Path | None = None
    """What `neuralmm calibrate` wrote: analytic policies are fed from it; by default they are calibrated on
    the training part, under this latency and queue."""
    split: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"Part of the recorded time: one of {', '.join(SPLITS)}. By default test where a policy "
            "learned from this store, else all."
        ),
    ] = None
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of the recorded time for train, validation and test."""
    step: float | None = None
    """Time between two decisions, seconds; by default as trained, else the market's, 0.1 on tapes."""
    session: int | None = None
    """Decisions after which a policy starts anew; by default as trained, or the market's horizon."""
    days: float = 1.0
    """Days of a simulated market."""
    seed: int = 3_000_000_000
    """Seed of its first session."""
    signal: str | None = None
    """Observation that the picture of the policy is drawn against."""
    loss_limit: float | None = None
    """Loss at which the desk halts for the day, price units x lots; by default as trained, or 500."""
    capital: float | None = None
    """Money that returns are related to; by default the value of a position at its limit."""
    rates: tuple[str, ...] = ()
    """Count profits of several currencies in one: prices such as BTC/USDT=61000, or BTC/USDT for the mean
    price on the tapes of that pair. Without, there is a result for each currency."""
    funding: str | None = None
    """File of funding rates (CSV, of Binance's archive or API, or Tardis's) that positions in perpetual
    contracts pay or receive (tapes)."""
    borrow: float = 0.0
    """What is paid in a year for what was sold short, part of its value: 0.05 is 5% (tapes)."""
    tries: int = 1
    """Configurations that were tried before these were chosen: the Sharpe ratio is deflated for them."""
    sensitivity: bool = True
    """Play again under other latencies and queue models (tapes)."""
    patience: float = 10.0
    """A decision that takes longer, seconds, ends the backtest."""
    jobs: int | None = None
    """Processes; by default one for each processor."""
    ray: str | None = None
    """Run on a Ray cluster: its address, "auto" for the one running here, "local" to start one for this."""
    out: Path | None = None
    """Folder of the results; by default under logs/, one for each choice of all the above."""
