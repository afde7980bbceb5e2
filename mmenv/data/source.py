"""What a capture is a recording of, and what trading there costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FEES_BP: Final = {
    "binance-usdm": (2.0, 5.0),
    "binance-coinm": (2.0, 5.0),
    "binance-spot": (10.0, 10.0),
    "bybit": (2.0, 5.5),
    "bybit-spot": (10.0, 10.0),
    "okx": (8.0, 10.0),
    "okx-swap": (2.0, 5.0),
    "hyperliquid": (1.5, 4.5),
}
"""Regular (VIP 0) maker and taker fee by venue, in basis points; a desk's own go into its configuration or
`--maker-fee-bp`."""


SAFE: Final = re.compile(r"[^\s/\\\x00]{1,100}")
"""What a venue or symbol may be called: it becomes the name of a folder."""
VENUES: Final = {
    "binance-futures": "binance-usdm",
    "binance-delivery": "binance-coinm",
    "binance": "binance-spot",
    "xnas.itch": "nasdaq",
    "glbx.mdp3": "cme",
    "xnys.pillar": "nyse",
    "arcx.pillar": "nyse-arca",
    "xase.pillar": "nyse-american",
    "bats.pitch": "cboe-bzx",
    "baty.pitch": "cboe-byx",
    "edga.pitch": "cboe-edga",
    "edgx.pitch": "cboe-edgx",
    "iexg.tops": "iex",
    "memx.memoir": "memx",
    "ifeu.impact": "ice-europe",
    "okex": "okx",
    "okex-swap": "okx-swap",
}
"""What vendors call a venue, and what we do: a venue has one name, whatever the format."""


@dataclass(frozen=True)
class Source:
    """What a capture records, and the venue's usual fees in basis points of notional."""

    venue: str
    symbol: str
    contract: str = "linear"
    contract_size: str = "1"
    maker_fee_bp: float = 0.0
    taker_fee_bp: float = 0.0


def source_of(venue: str, symbol: str) -> Source:
    """A linear contract at a venue, by whatever name a vendor or user calls it."""
    name = VENUES.get(venue.lower(), venue)
    return Source(name, symbol, "linear", "1", *FEES_BP.get(name, (0.0, 0.0)))
