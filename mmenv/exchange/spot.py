"""Binance spot: accounts are balances of assets."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from mmenv.data.rows import BUY
from mmenv.exchange import views
from mmenv.exchange.books import ZERO, Account, Dialect, ExchangeOrder, ExchangeTrade, Json, Listing, RateRule
from mmenv.exchange.endpoints import Endpoints
from mmenv.exchange.matching import Matching
from mmenv.exchange.present import Present
from mmenv.exchange.protocol import ApiError, Params
from mmenv.times import MILLISECOND


def locked(account: Account, asset: str) -> Decimal:
    """What open orders may use of a balance."""
    total = ZERO
    for order in account.open(venue=Spot.venue):
        listing = order.listing
        if order.side == BUY and asset == listing.quote:
            total += listing.value(order.left * order.tick)
        elif order.side != BUY and asset == listing.base:
            total += order.left * listing.lot
    return total


def balances(account: Account, asset: str, free: str, used: str) -> list[dict[str, str]]:
    """All balances as text, under names that a message gives them."""
    found = []
    for name, total in account.balances.items():
        held = locked(account, name)
        found.append({asset: name, free: views.text(total - held), used: views.text(held)})
    return found


class Spot(Dialect):
    """See the module."""

    venue = "binance-spot"
    rest, websocket_api, stream = "api", "ws-api", "stream.spot"
    depth_speed_ms = 1000
    stamped = False
    reducing = False
    rates = (
        RateRule("REQUEST_WEIGHT", 6_000, 1, "MINUTE"),
        RateRule("ORDERS", 100, 10, "SECOND"),
        RateRule("ORDERS", 200_000, 1, "DAY"),
    )
    weights: ClassVar[Mapping[tuple[str, str], int]] = {
        ("GET", "depth"): 50, ("GET", "exchangeInfo"): 20, ("GET", "order"): 4, ("GET", "openOrders"): 6,
        ("GET", "myTrades"): 20, ("GET", "account"): 20, ("GET", "account/commission"): 20,
        ("GET", "ticker/price"): 2,
    }  # fmt: skip
    crossed = (-2010, "Order would immediately match and take.")
    duplicate = (-2010, "Duplicate order sent.")
    closed = (-1013, "Market is closed.")
    too_small = (-1013, "Filter failure: NOTIONAL")
    poor = (-2010, "Account has insufficient balance for requested action.")

    def can_pay(self, order: ExchangeOrder, notional: Decimal) -> bool:
        account, listing = order.account, order.listing
        asset, need = listing.quote, notional
        if order.side != BUY:
            asset, need = listing.base, order.lots * listing.lot
        return need <= account.balances.get(asset, ZERO) - locked(account, asset)

    def settle(
        self, order: ExchangeOrder, lots: int, value: Decimal, fee: Decimal, fee_asset: str
    ) -> Decimal:
        listing, held = order.listing, order.account.balances
        held[listing.base] = held.get(listing.base, ZERO) + order.side * lots * listing.lot
        held[listing.quote] = held.get(listing.quote, ZERO) - order.side * value
        held[fee_asset] = held.get(fee_asset, ZERO) - fee
        return ZERO

    def symbol(self, listing: Listing) -> Json:
        found = views.symbol_view(listing)
        if listing.min_notional:
            smallest = views.text(listing.min_notional)
            found["filters"].append({"filterType": "NOTIONAL", "minNotional": smallest})
        return found | {
            "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "permissions": ["SPOT"],
        }

    def order(self, order: ExchangeOrder) -> Json:
        return views.order_view(order) | {
            "orderListId": -1,
            "cummulativeQuoteQty": views.text(order.listing.value(order.paid)),
            "stopPrice": "0",
            "isWorking": True,
            "transactTime": order.updated_ns // MILLISECOND,
            "origQuoteOrderQty": "0",
        }

    def trade(self, trade: ExchangeTrade) -> Json:
        own = {"isBuyer": trade.order.side == BUY, "isMaker": trade.maker, "isBestMatch": True}
        return views.trade_view(trade) | own

    def cancelled(self, orders: list[ExchangeOrder]) -> Any:
        if not orders:
            raise ApiError(-2011, "Unknown order sent.")
        return [self.order(order) for order in orders]

    def aggressor(self, buy: bool) -> Json:
        return {"m": not buy, "M": True}

    def order_message(self, order: ExchangeOrder, what: str, trade: ExchangeTrade | None, stamp: int) -> Json:
        listing = order.listing
        last = listing.value(trade.tick * trade.lots) if trade else ZERO
        report = views.report_view(order, what, trade, stamp) | {
            "e": "executionReport", "E": stamp, "P": "0", "F": "0", "g": -1, "C": "", "r": "NONE",
            "w": order.open, "M": False, "O": order.created_ns // MILLISECOND, "I": 0,
            "Z": views.text(listing.value(order.paid)), "Y": views.text(last), "Q": "0",
        }  # fmt: skip
        if trade is None:
            report["t"] = -1
        if what == "CANCELED":
            report["C"] = order.client_id
        return report

    def account_message(self, account: Account, listing: Listing, stamp: int) -> Json:
        held = balances(account, "a", "f", "l")
        return {"e": "outboundAccountPosition", "E": stamp, "u": stamp, "B": held}


class SpotEndpoints(Endpoints):
    """The requests of spot."""

    dialect = Spot()
    listen_key = "userDataStream"

    def __init__(self, listings: Mapping[str, Listing], matching: Matching, present: Present) -> None:
        super().__init__(listings, matching, present)
        self.signed |= {
            ("DELETE", "openOrders"): self.cancel_all,
            ("GET", "account"): self._account,
            ("GET", "myTrades"): self.trades,
            ("GET", "account/commission"): self._commission,
        }

    def _commission(self, account: Account, params: Params) -> Any:
        listing = self.listing(params)
        rates = {"maker": views.text(listing.maker), "taker": views.text(listing.taker)}
        none = {"maker": "0", "taker": "0", "buyer": "0", "seller": "0"}
        discount = {
            "enabledForAccount": False, "enabledForSymbol": True, "discountAsset": "BNB", "discount": "0.75",
        }  # fmt: skip
        return {
            "symbol": listing.symbol, "standardCommission": none | rates, "specialCommission": none,
            "taxCommission": none, "discount": discount,
        }  # fmt: skip

    def _account(self, account: Account, params: Params) -> Any:
        return {
            "accountType": "SPOT",
            "canTrade": True,
            "updateTime": self.present.clock_ms,
            "balances": balances(account, "asset", "free", "locked"),
        }
