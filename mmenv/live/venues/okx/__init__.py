"""OKX, API version 5: spot and linear perpetuals, through ccxt. `market` says where they differ."""

from mmenv.live.venues.okx.venue import Spot, Swap

__all__ = ["Spot", "Swap"]
