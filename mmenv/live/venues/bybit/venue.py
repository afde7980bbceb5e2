"""Bybit as venues."""

from __future__ import annotations

from mmenv.live.venues.base import register
from mmenv.live.venues.bybit.client import BybitClient
from mmenv.live.venues.bybit.feed import BybitFeed
from mmenv.live.venues.bybit.market import LINEAR, SPOT
from mmenv.live.venues.bybit.orders import BybitOrders
from mmenv.live.venues.shared import SharedVenue


class Bybit(SharedVenue):
    """One market of Bybit's."""

    format = "bybit"
    clients, feeds, orderings = BybitClient, BybitFeed, BybitOrders


@register
class Linear(Bybit):
    """Bybit, perpetuals in USDT and USDC."""

    name, market, example = LINEAR.venue, LINEAR, LINEAR.example
    notes = "50 levels, every 20 ms; unified account, one-way mode"


@register
class Spot(Bybit):
    """Bybit, spot."""

    name, market, example = SPOT.venue, SPOT, SPOT.example
    notes = "50 levels, every 20 ms; unified account"
