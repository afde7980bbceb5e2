"""Binance as venues."""

from __future__ import annotations

from mmenv.live.venues.base import register
from mmenv.live.venues.binance.client import BinanceClient
from mmenv.live.venues.binance.feed import BinanceFeed
from mmenv.live.venues.binance.market import COINM, SPOT, USDM
from mmenv.live.venues.binance.orders import BinanceOrders
from mmenv.live.venues.shared import SharedVenue


class Binance(SharedVenue):
    """One market of Binance's."""

    format = "binance"
    clients, feeds, orderings = BinanceClient, BinanceFeed, BinanceOrders


@register
class Usdm(Binance):
    """Binance, USD-M futures."""

    name, market, example = USDM.venue, USDM, USDM.example
    notes = "its testnet is demo trading; `--countdown` is for a symbol"


@register
class Spot(Binance):
    """Binance, spot."""

    name, market, example = SPOT.venue, SPOT, SPOT.example
    notes = "fees may make what was bought smaller"


@register
class Coinm(Binance):
    """Binance, COIN-M futures."""

    name, market, example = COINM.venue, COINM, COINM.example
    notes = "profits, fees and limits are in the coin; `--countdown` is for a symbol"
