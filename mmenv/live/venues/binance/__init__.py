"""Binance, spot and USD-M futures, through ccxt. `market` says where the two differ."""

from mmenv.live.venues.binance.venue import Spot, Usdm

__all__ = ["Spot", "Usdm"]
