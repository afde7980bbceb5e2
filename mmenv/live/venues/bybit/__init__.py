"""Bybit, API version 5: USDT and USDC perpetuals and spot, through ccxt. `market` says where they differ."""

from mmenv.live.venues.bybit.venue import Linear, Spot

__all__ = ["Linear", "Spot"]
