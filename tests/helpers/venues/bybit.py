"""Bybit, API version 5, as its documentation words it."""

from __future__ import annotations

from typing import Any, ClassVar

from mmenv.exchange.connections import Connection
from mmenv.live.orders import Trouble
from tests.helpers.venues.base import Fake, FakeOrder, FakeTrade, Levels, Payment, Refused

SAID: dict[Trouble, tuple[int, int, str]] = {
    Trouble.DUPLICATE: (200, 110072, "OrderLinkedID is duplicate"),
    Trouble.UNKNOWN_ORDER: (200, 110001, "order not exists or too late to cancel"),
    Trouble.NO_FUNDS: (200, 110007, "ab not enough for new order"),
    Trouble.CLOSED: (200, 110066, "Trading is not allowed at the current time"),
    Trouble.BAD_KEY: (200, 10003, "API key is invalid."),
    Trouble.TOO_OFTEN: (403, 10018, "Exceeded the IP Rate Limit."),
    Trouble.TOO_MANY_ORDERS: (200, 10006, "Too many visits!"),
    Trouble.BAD_ORDER: (200, 110094, "Order does not meet minimum order value 5USDT"),
    Trouble.NO_RIGHTS: (200, 10005, "Permission denied, please check your API key permissions."),
    Trouble.IN_DOUBT: (200, 10016, "Server error."),
}
STATES = {
    "new": "New", "partial": "PartiallyFilled", "filled": "Filled", "cancelled": "Cancelled",
    "crossed": "Rejected",
}  # fmt: skip


class Bybit(Fake):
    """USDT perpetuals."""

    venue = "bybit"
    category: ClassVar[str] = "linear"
    late_reject = True

    def kind(self, method: str, path: str, params: dict[str, Any]) -> str:
        return {"/v5/order/create": "order", "/v5/order/cancel": "cancel"}.get(path, path)

    def refusal(self, trouble: Trouble, kind: str) -> tuple[int, dict[str, str], Any]:
        status, code, text = SAID[trouble]
        return status, {}, {"retCode": code, "retMsg": text, "result": {}, "retExtInfo": {}, "time": self.ms}

    def route(self, method: str, path: str, params: dict[str, Any]) -> Any:
        found = self._result(path.removeprefix("/v5/"), params)
        return {"retCode": 0, "retMsg": "OK", "result": found, "retExtInfo": {}, "time": self.ms}

    def _result(self, path: str, params: dict[str, Any]) -> Any:
        if path == "market/time":
            return {"timeSecond": str(self.ms // 1000), "timeNano": str(self.now_ns)}
        if path == "market/instruments-info":
            if params["symbol"] != self.symbol:
                return {"category": self.category, "list": [], "nextPageCursor": ""}
            return {"category": self.category, "list": [self.instrument()], "nextPageCursor": ""}
        if path == "market/tickers":
            return {"list": [{"symbol": params["symbol"], "lastPrice": "600", "nextFundingTime": "0"}]}
        if path == "order/create":
            order = self.new(
                params["orderLinkId"], params["side"] == "Buy", params.get("price", "0"), params["qty"],
                params.get("timeInForce") == "PostOnly", bool(params.get("reduceOnly")),
                params.get("timeInForce") == "IOC",
            )  # fmt: skip
            return {"orderId": self.id(order), "orderLinkId": order.name}
        if path == "order/cancel":
            order = self.cancel(params["orderLinkId"])
            return {"orderId": self.id(order), "orderLinkId": order.name}
        if path == "order/cancel-all":
            for order in self.orders:
                if order.open:
                    self.cancel(order.name)
            return {"list": [], "success": "1"}
        if path in ("order/realtime", "order/history"):
            open_only = path == "order/realtime" and not int(params.get("openOnly", 0))
            orders = [order for order in self.orders if order.open or not open_only]
            if "orderLinkId" in params:
                orders = [order for order in orders if order.name == params["orderLinkId"]]
            return {"list": [self.order(order) for order in orders], "nextPageCursor": ""}
        if path == "execution/list":
            trades = [trade for trade in self.trades if trade.ms >= int(params.get("startTime", 0))]
            if "orderLinkId" in params:
                trades = [trade for trade in trades if trade.order.name == params["orderLinkId"]]
            views = [self.execution(trade) for trade in trades[::-1]][: int(params["limit"])]
            return {"list": views, "nextPageCursor": ""}
        if path == "account/transaction-log":
            since, until = int(params["startTime"]), int(params["endTime"])
            found = [self.settlement(each) for each in self.payments if since <= each.ms <= until]
            return {"list": found[::-1], "nextPageCursor": ""}
        if path == "account/wallet-balance":
            coins = [{"coin": "USDT", "walletBalance": "1000"}, {"coin": "BTC", "walletBalance": "2"}]
            return {"list": [{"accountType": "UNIFIED", "coin": coins}]}
        if path == "account/fee-rate":
            return {"list": [{"symbol": self.symbol, "makerFeeRate": "0.0001", "takerFeeRate": "0.0006"}]}
        if path == "position/list":
            sides = (1, 2) if self.hedged else (0,)
            return {
                "list": [{"symbol": self.symbol, "positionIdx": n, "side": "", "size": "0"} for n in sides]
            }
        if path == "user/query-api":
            rights = {"ContractTrade": ["Order", "Position"], "Spot": ["SpotTrade"]}
            return {"readOnly": int(not self.may_trade), "permissions": rights}
        raise Refused(Trouble.IN_DOUBT)

    def instrument(self) -> Any:
        return {
            "symbol": self.symbol, "status": self.status or "Trading", "baseCoin": "BTC", "quoteCoin": "USDT",
            "priceFilter": {"tickSize": self.tick},
            "lotSizeFilter": {"qtyStep": self.lot, "minOrderQty": self.lot, "minNotionalValue": "5"},
        }  # fmt: skip

    def id(self, order: FakeOrder) -> str:
        return f"aa11bb22-0000-4000-8000-{order.id:012}"

    def order(self, order: FakeOrder) -> Any:
        reason = {"crossed": "EC_PostOnlyWillTakeLiquidity", "cancelled": "EC_PerCancelRequest"}
        return {
            "category": self.category, "symbol": self.symbol, "orderId": self.id(order),
            "orderLinkId": order.name, "side": "Buy" if order.buys else "Sell",
            "orderStatus": STATES[order.state], "rejectReason": reason.get(order.state, "EC_NoError"),
            "cancelType": "CancelByUser" if order.state == "cancelled" else "UNKNOWN",
            "price": order.price, "qty": str(order.size), "cumExecQty": str(order.filled),
            "reduceOnly": order.reduce_only, "updatedTime": str(self.ms), "createdTime": str(order.ms),
        }  # fmt: skip

    def execution(self, trade: FakeTrade) -> Any:
        return {
            "category": self.category, "symbol": self.symbol, "execType": "Trade",
            "execId": f"7e{trade.id:06}-cafe", "orderId": self.id(trade.order),
            "orderLinkId": trade.order.name, "side": "Buy" if trade.order.buys else "Sell",
            "execPrice": trade.price, "execQty": str(trade.size), "execFee": trade.fee,
            "feeCurrency": trade.asset, "isMaker": True, "execTime": str(trade.ms),
        }  # fmt: skip

    def settlement(self, payment: Payment) -> Any:
        return {
            "id": f"592324{payment.id}_BTCUSDT_161440249321", "symbol": self.symbol, "type": "SETTLEMENT",
            "category": self.category, "currency": payment.asset, "funding": payment.amount, "fee": "0",
            "transactionTime": str(payment.ms),
        }  # fmt: skip

    def heard(self, connection: Connection, message: Any) -> list[Any]:
        answer = {"success": True, "ret_msg": "", "op": message["op"], "conn_id": "1"}
        if message["op"] == "auth":
            good = message["args"][0] == self.key
            connection.account = self if good else None  # type: ignore[assignment]
            return [answer if good else answer | {"success": False, "ret_msg": "API key is invalid."}]
        if message["op"] == "subscribe" and connection.account is None:
            connection.streams |= set(message["args"])
        return [answer | {"op": "pong"} if message["op"] == "ping" else answer]

    def order_news(self, order: FakeOrder) -> list[Any]:
        return [{"id": "1", "topic": "order", "creationTime": self.ms, "data": [self.order(order)]}]

    def fill_news(self, trade: FakeTrade) -> list[Any]:
        told = {"id": "2", "topic": "execution", "creationTime": self.ms, "data": [self.execution(trade)]}
        return [told, *self.order_news(trade.order)]

    def funding_news(self, payment: Payment) -> list[Any]:
        paid = {
            "category": self.category, "symbol": self.symbol, "execType": "Funding", "execFee": "1",
            "execTime": str(self.ms),
        }  # fmt: skip
        return [{"id": "3", "topic": "execution", "creationTime": self.ms, "data": [paid]}]

    def book(self, number: int, first: bool, bids: Levels, asks: Levels) -> list[Any]:
        data = {"s": self.symbol, "b": list(bids), "a": list(asks), "u": number, "seq": 7 * number}
        kind = "snapshot" if first else "delta"
        topic = f"orderbook.50.{self.symbol}"
        return [{"topic": topic, "type": kind, "ts": self.ms + 1, "data": data, "cts": self.ms}]

    def deal(self, number: int, buys: bool, price: str, size: str) -> list[Any]:
        data = {"T": self.ms, "s": self.symbol, "S": "Buy" if buys else "Sell", "v": size, "p": price}
        data |= {"i": f"a-{number}", "BT": False}
        return [{"topic": f"publicTrade.{self.symbol}", "type": "snapshot", "ts": self.ms, "data": [data]}]


class BybitSpot(Bybit):
    """Spot."""

    venue = "bybit-spot"
    category = "spot"
    futures = hedges = False

    def instrument(self) -> Any:
        sizes = {"basePrecision": self.lot, "minOrderQty": self.lot, "minOrderAmt": "5"}
        return super().instrument() | {"lotSizeFilter": sizes}
