"""What a capture is a recording of, and what trading there costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FEES_BP: Final = {
    "binance-usdm": (2.0, 5.0),
    "binance-coinm": (2.0, 5.0),
    "binance-spot": (10.0, 10.0),
}
"""Regular (VIP 0) maker and taker fee by venue, in basis points; a desk's own go into its configuration or
`--maker-fee-bp`."""


@dataclass(frozen=True)
class Source:
    """What a capture records, and the venue's usual fees in basis points of notional."""

    venue: str
    symbol: str
    contract: str = "linear"
    contract_size: str = "1"
    maker_fee_bp: float = 0.0
    taker_fee_bp: float = 0.0
