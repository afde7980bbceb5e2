"""OKX as venues."""

from __future__ import annotations

from mmenv.live.venues.base import register
from mmenv.live.venues.okx.client import OkxClient
from mmenv.live.venues.okx.feed import OkxFeed
from mmenv.live.venues.okx.market import SPOT, SWAP
from mmenv.live.venues.okx.orders import OkxOrders
from mmenv.live.venues.shared import SharedVenue


class OkxVenue(SharedVenue):
    """One market of OKX's."""

    format = "okx"
    passphrase = True
    clients, feeds, orderings = OkxClient, OkxFeed, OkxOrders


@register
class Spot(OkxVenue):
    """OKX, spot."""

    name, market, example = SPOT.venue, SPOT, SPOT.example
    notes = "400 levels, every 100 ms; keys have a passphrase; `--countdown` is for the whole account"


@register
class Swap(OkxVenue):
    """OKX, perpetuals in USDT and USDC."""

    name, market, example = SWAP.venue, SWAP, SWAP.example
    notes = "as `okx`; sizes of captures are numbers of contracts; one-way mode, cross margin"
