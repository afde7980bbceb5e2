"""What the JSON of Binance's markets has in common; `spot` and `usdm` add what is their own."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from mmenv.data.rows import BUY
from mmenv.exchange.books import ExchangeOrder, ExchangeTrade, Json, Listing
from mmenv.times import MILLISECOND

EIGHT: Final = Decimal("0.00000001")
"""Step of an amount of money."""


def text(value: Decimal) -> str:
    """Plain decimal text."""
    return f"{value.normalize():f}" if value else "0"


def side_name(order: ExchangeOrder) -> str:
    """Which side an order is on."""
    return "BUY" if order.side == BUY else "SELL"


def symbol_view(listing: Listing) -> Json:
    """A symbol of exchangeInfo."""
    tick, lot = (text(step) for step in listing.grid)
    return {
        "symbol": listing.symbol,
        "status": listing.status,
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "100000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "100000", "stepSize": lot},
            {"filterType": "MARKET_LOT_SIZE", "minQty": lot, "maxQty": "100000", "stepSize": lot},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200, "maxNumOrders": 200},
        ],
    }


def levels_view(listing: Listing, levels: Iterable[tuple[int, int]]) -> list[list[str]]:
    """Levels of a book, (tick, lots) of the tape, as text."""
    return [listing.level_text(tick, lots) for tick, lots in levels]


def order_view(order: ExchangeOrder) -> Json:
    """An order as the answer to a request shows it."""
    listing = order.listing
    return {
        "symbol": listing.symbol,
        "orderId": order.id,
        "clientOrderId": order.client_id,
        "price": listing.price_text(order.tick),
        "origQty": listing.size_text(order.lots),
        "executedQty": listing.size_text(order.filled),
        "status": order.status,
        "timeInForce": order.force,
        "type": order.kind,
        "side": side_name(order),
        "time": order.created_ns // MILLISECOND,
        "updateTime": order.updated_ns // MILLISECOND,
    }


def trade_view(trade: ExchangeTrade) -> Json:
    """A trade as the answer to a request shows it."""
    listing = trade.order.listing
    return {
        "symbol": listing.symbol,
        "id": trade.id,
        "orderId": trade.order.id,
        "price": listing.price_text(trade.tick),
        "qty": listing.size_text(trade.lots),
        "quoteQty": text(listing.value(trade.tick * trade.lots)),
        "commission": text(trade.fee),
        "commissionAsset": trade.fee_asset,
        "time": trade.time_ns // MILLISECOND,
    }


def report_view(order: ExchangeOrder, what: str, trade: ExchangeTrade | None, stamp: int) -> Json:
    """What happened to an order, as the user stream tells it; `trade` if it is that."""
    listing = order.listing
    return {
        "s": listing.symbol,
        "c": order.client_id,
        "S": side_name(order),
        "o": order.kind,
        "f": order.force,
        "q": listing.size_text(order.lots),
        "p": listing.price_text(order.tick),
        "x": what,
        "X": order.status,
        "i": order.id,
        "l": listing.size_text(trade.lots if trade else 0),
        "z": listing.size_text(order.filled),
        "L": listing.price_text(trade.tick if trade else 0),
        "n": text(trade.fee) if trade else "0",
        "N": trade.fee_asset if trade else None,
        "T": stamp,
        "t": trade.id if trade else 0,
        "m": trade.maker if trade else False,
    }
