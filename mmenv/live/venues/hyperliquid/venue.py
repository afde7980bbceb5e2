"""Hyperliquid as a venue."""

from __future__ import annotations

from mmenv.live.venues.base import register
from mmenv.live.venues.hyperliquid.client import HyperliquidClient
from mmenv.live.venues.hyperliquid.feed import HyperliquidFeed
from mmenv.live.venues.hyperliquid.market import PERPETUALS
from mmenv.live.venues.hyperliquid.orders import HyperliquidOrders
from mmenv.live.venues.shared import SharedVenue


@register
class Hyperliquid(SharedVenue):
    """Hyperliquid, perpetuals in USDC."""

    format = "hyperliquid"
    clients, feeds, orderings = HyperliquidClient, HyperliquidFeed, HyperliquidOrders
    name, market, example = PERPETUALS.venue, PERPETUALS, PERPETUALS.example
    notes = "20 levels, twice a second; keys are an address and the private key of a wallet"
