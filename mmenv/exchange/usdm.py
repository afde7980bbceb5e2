"""Binance USD-M futures: one wallet in the quote asset, and a position in each symbol."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, ClassVar, Final

from mmenv.data.rows import BUY
from mmenv.exchange import views
from mmenv.exchange.books import (
    ZERO,
    Account,
    Dialect,
    ExchangeOrder,
    ExchangeTrade,
    Json,
    Listing,
    Position,
    RateRule,
)
from mmenv.exchange.endpoints import Endpoints
from mmenv.exchange.matching import Matching
from mmenv.exchange.present import Present
from mmenv.exchange.protocol import Params, missing, most
from mmenv.exchange.views import EIGHT, text
from mmenv.times import MILLISECOND

LEVERAGE: Final = 20


def add_fill(position: Position, side: int, lots: int, value: Decimal) -> Decimal:
    """Add a fill to a position; the profit it realises, rounded to eight places.

    What rounding leaves stays in the position's cost, so wallet less cost is exact.
    """
    realised = ZERO
    if position.lots * side < 0:
        closing = min(lots, abs(position.lots))
        returned = value * closing / lots
        part = (position.cost * closing / abs(position.lots)).quantize(EIGHT, ROUND_HALF_EVEN)
        if closing == abs(position.lots):
            part = position.cost
        realised = (-side * returned - part).quantize(EIGHT, ROUND_HALF_EVEN)
        position.cost += side * returned + realised
        position.lots += side * closing
        lots, value = lots - closing, value - returned
    position.lots += side * lots
    position.cost += side * value
    return realised


def unrealised(account: Account, listing: Listing) -> Decimal:
    """Profit of a position at the last trade's price."""
    position = account.position(listing)
    return position.lots * listing.lot * listing.last_tick * listing.tick - position.cost


def entry_price(position: Position, listing: Listing) -> str:
    """What a position cost in the mean."""
    size = position.lots * listing.lot
    return text(abs(position.cost / size).quantize(EIGHT)) if size else "0"


def mean_price(order: ExchangeOrder) -> str:
    """Mean price at which an order has traded."""
    if not order.filled:
        return "0"
    return text((order.paid * order.listing.tick / order.filled).quantize(EIGHT))


class Usdm(Dialect):
    """See the module."""

    venue = "binance-usdm"
    rest, websocket_api, stream = "fapi", "ws-fapi", "fstream"
    depth_speed_ms = 250
    stamped = True
    reducing = True
    rates = (
        RateRule("REQUEST_WEIGHT", 2_400, 1, "MINUTE"),
        RateRule("ORDERS", 1_200, 1, "MINUTE"),
        RateRule("ORDERS", 300, 10, "SECOND"),
    )
    weights: ClassVar[Mapping[tuple[str, str], int]] = {
        ("POST", "order"): 0, ("GET", "depth"): 20, ("GET", "userTrades"): 5, ("GET", "balance"): 5,
        ("GET", "positionRisk"): 5, ("GET", "account"): 5, ("POST", "countdownCancelAll"): 10,
        ("GET", "commissionRate"): 20, ("GET", "income"): 30, ("GET", "positionSide/dual"): 30,
    }  # fmt: skip
    crossed = (
        -5022,
        "Due to the order could not be executed as maker, the Post Only order will be rejected.",
    )
    duplicate = (-4116, "ClientOrderId is duplicated.")
    closed = (-4141, "Symbol is closed.")
    too_small = (-4164, "Order's notional must be no smaller than {} (unless you choose reduce only).")
    poor = (-2019, "Margin is insufficient.")

    def can_pay(self, order: ExchangeOrder, notional: Decimal) -> bool:
        if order.reduce_only:
            return True
        account = order.account
        held = sum(abs(position.cost) for position in account.positions.values())
        waiting = sum(
            other.listing.value(other.left * other.tick) for other in account.open(venue=self.venue)
        )
        return notional + held + waiting <= account.wallet * LEVERAGE

    def settle(
        self, order: ExchangeOrder, lots: int, value: Decimal, fee: Decimal, fee_asset: str
    ) -> Decimal:
        account = order.account
        realised = add_fill(account.position(order.listing), order.side, lots, value)
        account.wallet += realised
        if fee_asset == order.listing.quote:
            account.wallet -= fee
        else:
            account.coins[fee_asset] = account.coins.get(fee_asset, ZERO) - fee
        return realised

    def symbol(self, listing: Listing) -> Json:
        found = views.symbol_view(listing)
        if listing.min_notional:
            found["filters"].append({"filterType": "MIN_NOTIONAL", "notional": text(listing.min_notional)})
        return found | {
            "pair": listing.symbol,
            "contractType": "PERPETUAL",
            "deliveryDate": 4133404800000,
            "onboardDate": 1569398400000,
            "marginAsset": listing.quote,
            "pricePrecision": max(-int(listing.grid[0].as_tuple().exponent), 0),
            "quantityPrecision": max(-int(listing.grid[1].as_tuple().exponent), 0),
            "orderTypes": ["LIMIT", "MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        }

    def order(self, order: ExchangeOrder) -> Json:
        return views.order_view(order) | {
            "avgPrice": mean_price(order), "cumQuote": text(order.listing.value(order.paid)),
            "reduceOnly": order.reduce_only, "closePosition": False, "positionSide": "BOTH",
            "stopPrice": "0", "origType": order.kind, "workingType": "CONTRACT_PRICE", "priceProtect": False,
        }  # fmt: skip

    def trade(self, trade: ExchangeTrade) -> Json:
        order = trade.order
        return views.trade_view(trade) | {
            "side": views.side_name(order), "positionSide": "BOTH", "buyer": order.side == BUY,
            "maker": trade.maker, "realizedPnl": text(trade.realised),
        }  # fmt: skip

    def cancelled(self, orders: list[ExchangeOrder]) -> Any:
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def aggressor(self, buy: bool) -> Json:
        return {"X": "MARKET", "m": not buy}

    def order_message(self, order: ExchangeOrder, what: str, trade: ExchangeTrade | None, stamp: int) -> Json:
        report = views.report_view(order, what, trade, stamp) | {
            "ap": mean_price(order), "sp": "0", "b": "0", "a": "0", "R": order.reduce_only, "ps": "BOTH",
            "wt": "CONTRACT_PRICE", "ot": order.kind, "cp": False,
            "rp": text(trade.realised) if trade else "0",
        }  # fmt: skip
        return {"e": "ORDER_TRADE_UPDATE", "E": stamp, "T": stamp, "o": report}

    def funding_message(self, account: Account, listing: Listing, amount: Decimal, stamp: int) -> Json:
        """A payment of funding, as the user stream tells it."""
        wallet = text(account.wallet)
        balance = {"a": listing.quote, "wb": wallet, "cw": wallet, "bc": text(amount)}
        return {
            "e": "ACCOUNT_UPDATE",
            "E": stamp,
            "T": stamp,
            "a": {"m": "FUNDING_FEE", "B": [balance], "P": []},
        }

    def account_message(self, account: Account, listing: Listing, stamp: int) -> Json:
        position, wallet = account.position(listing), text(account.wallet)
        held = {
            "s": listing.symbol, "pa": text(position.lots * listing.lot),
            "ep": entry_price(position, listing), "cr": "0", "up": text(unrealised(account, listing)),
            "mt": "cross", "iw": "0", "ps": "BOTH",
        }  # fmt: skip
        balance = {"a": listing.quote, "wb": wallet, "cw": wallet, "bc": "0"}
        update = {"m": "ORDER", "B": [balance], "P": [held]}
        return {"e": "ACCOUNT_UPDATE", "E": stamp, "T": stamp, "a": update}


class UsdmEndpoints(Endpoints):
    """The requests of USD-M futures."""

    dialect = Usdm()
    listen_key = "listenKey"

    def __init__(self, listings: Mapping[str, Listing], matching: Matching, present: Present) -> None:
        super().__init__(listings, matching, present)
        self.signed |= {
            ("DELETE", "allOpenOrders"): self.cancel_all,
            ("GET", "account"): self._account,
            ("GET", "balance"): lambda account, params: self._account(account, params)["assets"],
            ("GET", "positionRisk"): self._position_risk,
            ("GET", "userTrades"): self.trades,
            ("GET", "leverageBracket"): self._leverage_bracket,
            ("POST", "leverage"): self._leverage,
            ("POST", "countdownCancelAll"): self._countdown,
            ("GET", "commissionRate"): self._commission_rate,
            ("GET", "accountConfig"): lambda account, params: {
                "feeTier": 0, "canTrade": True, "dualSidePosition": account.hedged,
            },
            ("GET", "income"): self._income,
        }  # fmt: skip
        self.public |= {"premiumIndex": self._premium_index}

    def _commission_rate(self, account: Account, params: Params) -> Any:
        listing = self.listing(params)
        rates = {"makerCommissionRate": text(listing.maker), "takerCommissionRate": text(listing.taker)}
        return {"symbol": listing.symbol, **rates}

    def _premium_index(self, params: Params) -> Any:
        listing = self.listing(params)
        return {
            "symbol": listing.symbol, "markPrice": text(listing.last_tick * listing.tick),
            "lastFundingRate": text(listing.funding_rate),
            "nextFundingTime": listing.funding_ns // MILLISECOND, "time": self.present.clock_ms,
        }  # fmt: skip

    def _income(self, account: Account, params: Params) -> Any:
        listing, start = self.listing(params), int(params.get("startTime", "0"))
        found = [one for one in account.income if one.listing is listing]
        return [
            {
                "symbol": listing.symbol, "incomeType": "FUNDING_FEE", "income": text(one.amount),
                "asset": listing.quote, "info": "FUNDING_FEE", "time": one.time_ns // MILLISECOND,
                "tranId": one.id, "tradeId": "",
            }
            for one in found
            if one.time_ns // MILLISECOND >= start
        ][: most(params)]  # fmt: skip

    def _account(self, account: Account, params: Params) -> Any:
        profit = sum((unrealised(account, listing) for listing in account.positions), ZERO)
        total, margin = text(account.wallet), text(account.wallet + profit)
        assets = {
            "asset": "USDT",
            "walletBalance": total,
            "unrealizedProfit": text(profit),
            "marginBalance": margin,
            "availableBalance": margin,
            "crossWalletBalance": total,
            "crossUnPnl": text(profit),
            "initialMargin": "0",
            "maintMargin": "0",
            "positionInitialMargin": "0",
            "openOrderInitialMargin": "0",
            "maxWithdrawAmount": margin,
            "updateTime": self.present.clock_ms,
        }
        return {
            "canTrade": True,
            "totalWalletBalance": total,
            "totalUnrealizedProfit": text(profit),
            "totalMarginBalance": margin,
            "availableBalance": margin,
            "assets": [assets],
            "positions": self._position_risk(account, {}),
        }

    def _position_risk(self, account: Account, params: Params) -> Any:
        asked = params.get("symbol")
        return [
            self._risk(account, listing)
            for symbol, listing in self.listings.items()
            if asked in (None, symbol)
        ]

    def _risk(self, account: Account, listing: Listing) -> Json:
        position, mark = account.position(listing), listing.last_tick * listing.tick
        size, profit = position.lots * listing.lot, text(unrealised(account, listing))
        entry = entry_price(position, listing)
        return {
            "symbol": listing.symbol,
            "positionSide": "BOTH",
            "positionAmt": text(size),
            "entryPrice": entry,
            "breakEvenPrice": entry,
            "markPrice": text(mark),
            "unRealizedProfit": profit,
            "unrealizedProfit": profit,
            "liquidationPrice": "0",
            "leverage": str(LEVERAGE),
            "marginType": "cross",
            "marginAsset": listing.quote,
            "isolatedMargin": "0",
            "isolatedWallet": "0",
            "notional": text(size * mark),
            "initialMargin": text(abs(size * mark) / LEVERAGE),
            "maintMargin": "0",
            "updateTime": self.present.clock_ms,
        }

    def _leverage_bracket(self, account: Account, params: Params) -> Any:
        bracket = {
            "bracket": 1,
            "initialLeverage": LEVERAGE,
            "notionalCap": 10**12,
            "notionalFloor": 0,
            "maintMarginRatio": 0.004,
            "cum": 0.0,
        }
        return [{"symbol": symbol, "brackets": [bracket]} for symbol in self.listings]

    def _leverage(self, account: Account, params: Params) -> Any:
        return {"symbol": params.get("symbol"), "leverage": LEVERAGE, "maxNotionalValue": "1000000000"}

    def _countdown(self, account: Account, params: Params) -> Any:
        listing = self.listing(params)
        try:
            wait_ms = int(params["countdownTime"])
        except (KeyError, ValueError):
            raise missing("countdownTime") from None
        if wait_ms:
            account.cancel_at_ns[listing] = self.present.now_ns + wait_ms * MILLISECOND
        else:
            account.cancel_at_ns.pop(listing, None)
        return {"symbol": listing.symbol, "countdownTime": str(wait_ms)}

    def _keep_listen_key(self, account: Account, params: Params) -> Any:
        super()._keep_listen_key(account, params)
        return {"listenKey": account.listen_key}
