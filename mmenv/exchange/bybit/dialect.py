"""How Bybit words what it says of orders; money is kept as by Binance's linear futures."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from mmenv.data.rows import BUY
from mmenv.exchange.books import Account, ExchangeOrder, ExchangeTrade, Income, Json, Listing
from mmenv.exchange.usdm import Usdm
from mmenv.exchange.views import text
from mmenv.times import MILLISECOND

STATES: Final = {
    "NEW": "New", "PARTIALLY_FILLED": "PartiallyFilled", "FILLED": "Filled", "CANCELED": "Cancelled",
    "EXPIRED": "Cancelled", "REJECTED": "Rejected",
}  # fmt: skip
CROSSED: Final = "EC_PostOnlyWillTakeLiquidity"
FORCES: Final = {"GTX": "PostOnly"}


class Linear(Usdm):
    """USDT perpetuals."""

    venue = "bybit"
    rest = stream = websocket_api = "v5"
    crossed = (0, CROSSED)
    duplicate = (110072, "OrderLinkedID is duplicate")
    closed = (110066, "Trading is currently not allowed.")
    too_small = (110094, "Order does not meet minimum order value {}USDT")
    poor = (110007, "ab not enough for new order")

    def order(self, order: ExchangeOrder) -> Json:
        listing = order.listing
        reason = {"REJECTED": CROSSED, "CANCELED": "EC_PerCancelRequest"}.get(order.status, "EC_NoError")
        cancel = {"CANCELED": "CancelByUser", "EXPIRED": "CancelByReduceOnly"}.get(order.status, "UNKNOWN")
        return {
            "category": "linear",
            "symbol": listing.symbol,
            "orderId": order_id(order),
            "orderLinkId": order.client_id,
            "side": side(order),
            "orderType": order.kind.capitalize(),
            "timeInForce": FORCES.get(order.force, order.force),
            "orderStatus": STATES[order.status],
            "rejectReason": reason,
            "cancelType": cancel,
            "price": listing.price_text(order.tick),
            "qty": listing.size_text(order.lots),
            "cumExecQty": listing.size_text(order.filled),
            "leavesQty": listing.size_text(order.left if order.open else 0),
            "reduceOnly": order.reduce_only,
            "createdTime": str(order.created_ns // MILLISECOND),
            "updatedTime": str(order.updated_ns // MILLISECOND),
        }

    def trade(self, trade: ExchangeTrade) -> Json:
        order, listing = trade.order, trade.order.listing
        return {
            "category": "linear",
            "symbol": listing.symbol,
            "execType": "Trade",
            "execId": f"{trade.id:08x}-7e57-4e5e",
            "orderId": order_id(order),
            "orderLinkId": order.client_id,
            "side": side(order),
            "execPrice": listing.price_text(trade.tick),
            "execQty": listing.size_text(trade.lots),
            "execValue": text(listing.value(trade.tick * trade.lots)),
            "execFee": text(trade.fee),
            "feeCurrency": trade.fee_asset,
            "isMaker": trade.maker,
            "execTime": str(trade.time_ns // MILLISECOND),
        }

    def messages(
        self, order: ExchangeOrder, what: str, trade: ExchangeTrade | None, stamp: int
    ) -> list[Json]:
        """An execution comes before what it makes of its order."""
        told = [("execution", self.trade(trade))] if trade is not None else []
        return [_topic(topic, data, stamp) for topic, data in (*told, ("order", self.order(order)))]

    def account_message(self, account: Account, listing: Listing, stamp: int) -> Json:
        coin = {"coin": listing.quote, "walletBalance": text(account.wallet)}
        return _topic("wallet", {"accountType": "UNIFIED", "coin": [coin]}, stamp)

    def funding_message(self, account: Account, listing: Listing, amount: Decimal, stamp: int) -> Json:
        paid = {
            "category": "linear", "symbol": listing.symbol, "execType": "Funding",
            "execFee": text(-amount), "execTime": str(stamp),
        }  # fmt: skip
        return _topic("execution", paid, stamp)

    def settlement(self, income: Income) -> Json:
        """A payment of funding as the log of transactions has it."""
        return {
            "id": f"{income.id}_{income.listing.symbol}",
            "symbol": income.listing.symbol,
            "category": "linear",
            "type": "SETTLEMENT",
            "currency": income.listing.quote,
            "funding": text(income.amount),
            "fee": "0",
            "transactionTime": str(income.time_ns // MILLISECOND),
        }

    def instrument(self, listing: Listing) -> Json:
        """A symbol as the list of instruments describes it."""
        tick, lot = (text(step) for step in listing.grid)
        least = str(listing.min_notional)
        return {
            "symbol": listing.symbol,
            "status": "Trading" if listing.status == "TRADING" else "Closed",
            "baseCoin": listing.base,
            "quoteCoin": listing.quote,
            "settleCoin": listing.quote,
            "priceFilter": {"tickSize": tick, "minPrice": tick},
            "lotSizeFilter": {"qtyStep": lot, "minOrderQty": lot, "minNotionalValue": least},
        }


def order_id(order: ExchangeOrder) -> str:
    """The id of an order, which is text."""
    return f"{order.id:08x}-0000-4000-8000-000000000000"


def side(order: ExchangeOrder) -> str:
    """Which side an order is on."""
    return "Buy" if order.side == BUY else "Sell"


def _topic(topic: str, data: Json, stamp: int) -> Json:
    return {"id": f"{topic}-{stamp}", "topic": topic, "creationTime": stamp, "data": [data]}
