"""Binance, spot, USD-M and COIN-M futures, through ccxt. `market` says where they differ."""

from mmenv.live.venues.binance.venue import Coinm, Spot, Usdm

__all__ = ["Coinm", "Spot", "Usdm"]
