"""Hyperliquid: perpetuals in USDC, through ccxt.

A key is an account's address; its secret is the private key of a wallet that may trade for it.
"""

from mmenv.live.venues.hyperliquid.venue import Hyperliquid

__all__ = ["Hyperliquid"]
