"""Binance USD-M and COIN-M futures, as its documentation words them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from mmenv.exchange.connections import Connection
from mmenv.live.orders import Trouble
from tests.helpers.venues.base import Fake, FakeOrder, FakeTrade, Levels, Payment, Refused

SAID: dict[Trouble, tuple[int, int, str]] = {
    Trouble.CROSSED: (
        400,
        -5022,
        "Due to the order could not be executed as maker, the Post Only order will be rejected.",
    ),
    Trouble.DUPLICATE: (400, -4116, "ClientOrderId is duplicated."),
    Trouble.UNKNOWN_ORDER: (400, -2011, "Unknown order sent."),
    Trouble.NO_FUNDS: (400, -2019, "Margin is insufficient."),
    Trouble.CLOSED: (400, -4140, "Invalid symbol status for opening position."),
    Trouble.BAD_ORDER: (400, -1111, "Precision is over the maximum defined for this asset."),
    Trouble.BAD_KEY: (401, -2015, "Invalid API-key, IP, or permissions for action."),
    Trouble.TOO_OFTEN: (418, -1003, "Way too many requests; IP banned."),
    Trouble.IN_DOUBT: (400, -1007, "Timeout waiting for response from backend server."),
}
STATES = {"new": "NEW", "partial": "PARTIALLY_FILLED", "filled": "FILLED", "cancelled": "CANCELED"}


class Usdm(Fake):
    """USD-M futures."""

    venue = "binance-usdm"
    snapshot: tuple[int, Levels, Levels] = (0, (), ())

    def kind(self, method: str, path: str, params: dict[str, Any]) -> str:
        return {"POST": "order", "DELETE": "cancel"}.get(method, path) if path.endswith("/order") else path

    def refusal(self, trouble: Trouble, kind: str) -> tuple[int, dict[str, str], Any]:
        status, code, text = SAID[trouble]
        return status, {}, {"code": code, "msg": text}

    def route(self, method: str, path: str, params: dict[str, Any]) -> Any:
        name = path.removeprefix("/fapi/").partition("/")[2]
        if path.startswith(("/sapi", "/dapi")):
            return [] if path.startswith("/sapi") else {"symbols": []}
        if name == "exchangeInfo":
            return {"rateLimits": [], "symbols": [self.instrument()], "serverTime": self.ms}
        if name == "time":
            return {"serverTime": self.ms}
        if name == "depth":
            number, bids, asks = self.snapshot
            return {"lastUpdateId": number, "E": self.ms, "T": self.ms, "bids": bids, "asks": asks}
        if name == "listenKey":
            return {"listenKey": "listen" * 10}
        if (method, name) == ("POST", "order"):
            buys, force = params["side"] == "BUY", params.get("timeInForce")
            reduces = params.get("reduceOnly") == "true"
            price = params.get("price", "0")
            named = params["newClientOrderId"]
            size = params["quantity"]
            return self.order(self.new(named, buys, price, size, force == "GTX", reduces, force == "IOC"))
        if (method, name) == ("DELETE", "order"):
            return self.order(self.cancel(params["origClientOrderId"]))
        if name == "order":
            return self.order(self.find(params["origClientOrderId"]))
        if name == "allOpenOrders":
            for order in self.orders:
                if order.open:
                    self.cancel(order.name)
            return {"code": 200, "msg": "The operation of cancel all open order is done."}
        if name == "openOrders":
            return [self.order(order) for order in self.orders if order.open]
        if name == "userTrades":
            trades = [trade for trade in self.trades if trade.id >= int(params.get("fromId", 0))]
            if "orderId" in params:
                trades = [trade for trade in trades if str(trade.order.id) == params["orderId"]]
            return [self.trade(trade) for trade in trades]
        if name == "accountConfig":
            return {"canTrade": self.may_trade, "dualSidePosition": self.hedged}
        if name == "commissionRate":
            return {"makerCommissionRate": "0.0001", "takerCommissionRate": "0.0006"}
        if name == "balance":
            return [{"asset": "USDT", "balance": "1000"}]
        if name == "positionRisk":
            return []
        if name == "income":
            since = int(params["startTime"])
            return [
                {"tranId": each.id, "asset": each.asset, "income": each.amount, "time": each.ms}
                for each in self.payments
                if each.ms >= since
            ]
        if name == "premiumIndex":
            return {"nextFundingTime": 0}
        if name == "ticker/price":
            return {"symbol": params["symbol"], "price": "600"}
        raise Refused(Trouble.IN_DOUBT)

    def instrument(self) -> Any:
        return {
            "symbol": self.symbol, "pair": self.symbol, "contractType": "PERPETUAL", "baseAsset": "BTC",
            "quoteAsset": "USDT", "marginAsset": "USDT", "status": self.status.upper() or "TRADING",
            "deliveryDate": 4133404800000, "onboardDate": 1569398400000,
            "filters": [
                {"filterType": "PRICE_FILTER", "tickSize": self.tick, "minPrice": "0", "maxPrice": "0"},
                {"filterType": "LOT_SIZE", "stepSize": self.lot, "minQty": self.lot, "maxQty": "100"},
                {"filterType": "MIN_NOTIONAL", "notional": "5"},
            ],
        }  # fmt: skip

    def order(self, order: FakeOrder) -> Any:
        return {
            "symbol": self.symbol, "orderId": order.id, "clientOrderId": order.name, "price": order.price,
            "side": "BUY" if order.buys else "SELL", "origQty": str(order.size), "updateTime": self.ms,
            "executedQty": str(order.filled), "status": STATES[order.state],
            "reduceOnly": order.reduce_only,
        }  # fmt: skip

    def trade(self, trade: FakeTrade) -> Any:
        return {
            "id": trade.id, "orderId": trade.order.id, "price": trade.price, "qty": str(trade.size),
            "side": "BUY" if trade.order.buys else "SELL", "commission": trade.fee, "time": trade.ms,
            "commissionAsset": trade.asset, "maker": True,
        }  # fmt: skip

    def report(self, order: FakeOrder, what: str, trade: FakeTrade | None = None) -> Any:
        told = {
            "s": self.symbol, "c": order.name, "S": "BUY" if order.buys else "SELL", "q": str(order.size),
            "x": what, "X": STATES[order.state], "i": order.id, "z": str(order.filled), "T": self.ms,
        }  # fmt: skip
        if trade is not None:
            told |= {"l": str(trade.size), "L": trade.price, "n": trade.fee, "N": trade.asset}
            told |= {"t": trade.id, "m": True}
        return {"e": "ORDER_TRADE_UPDATE", "E": self.ms, "T": self.ms, "o": told}

    def connect(self, path: str, query: str = "") -> Connection:
        connection = super().connect(path, query)
        if "listen" in path + query:
            connection.account = self  # type: ignore[assignment]
        return connection

    def heard(self, connection: Connection, message: Any) -> list[Any]:
        connection.streams |= set(message["params"])
        return [{"result": None, "id": message["id"]}]

    def order_news(self, order: FakeOrder) -> list[Any]:
        return [self.report(order, "CANCELED" if order.state == "cancelled" else "NEW")]

    def fill_news(self, trade: FakeTrade) -> list[Any]:
        return [self.report(trade.order, "TRADE", trade)]

    def funding_news(self, payment: Payment) -> list[Any]:
        return [
            {"e": "ACCOUNT_UPDATE", "E": self.ms, "T": self.ms, "a": {"m": "FUNDING_FEE", "B": [], "P": []}}
        ]

    def book(self, number: int, first: bool, bids: Levels, asks: Levels) -> list[Any]:
        if first:
            self.snapshot = number, bids, asks
            bids = asks = ()
        diff = {"e": "depthUpdate", "E": self.ms, "T": self.ms, "s": self.symbol, "U": number, "u": number}
        return [diff | {"pu": number - 1, "b": bids, "a": asks}]

    def deal(self, number: int, buys: bool, price: str, size: str) -> list[Any]:
        deal = {
            "e": "trade",
            "E": self.ms,
            "T": self.ms,
            "s": self.symbol,
            "t": number,
            "p": price,
            "q": size,
        }
        return [deal | {"X": "MARKET", "m": not buys}]


class Coinm(Usdm):
    """COIN-M futures, in contracts of 100 dollars; orders are in thousandths of one here, so that the numbers
    are those of the other venues."""

    venue = "binance-coinm"
    symbol = "BTCUSD_PERP"
    quote = "BTC"
    held: Decimal = Decimal(0)
    """Contracts from before the first trade."""

    def route(self, method: str, path: str, params: dict[str, Any]) -> Any:
        prefix, _, name = path.partition("/v1/")
        if path.startswith(("/sapi", "/fapi")):
            return [] if path.startswith("/sapi") else {"symbols": []}
        assert prefix == "/dapi", path
        if name == "positionSide/dual":
            return {"dualSidePosition": self.hedged}
        if name == "account":
            return {"canTrade": self.may_trade, "assets": [], "positions": []}
        if name == "balance":
            return [{"asset": "BTC", "balance": "1000"}]
        if name == "positionRisk":
            assert params["pair"] == "BTCUSD"
            assert "symbol" not in params
            traded = sum(trade.size if trade.order.buys else -trade.size for trade in self.trades)
            other = {"symbol": "BTCUSD_270326", "positionAmt": "7"}
            return [{"symbol": self.symbol, "positionAmt": f"{self.held + traded:f}"}, other]
        if name == "premiumIndex":
            return [{"symbol": self.symbol, "nextFundingTime": 0}]
        if name == "ticker/price":
            return [
                {"symbol": params["symbol"], "price": "100" if params["symbol"] == self.symbol else "60000"}
            ]
        assert name != "accountConfig"
        return super().route(method, path.replace("/dapi", "/fapi"), params)

    def instrument(self) -> Any:
        found = super().instrument()
        found |= {"pair": "BTCUSD", "quoteAsset": "USD", "marginAsset": "BTC", "contractSize": 100}
        found["contractStatus"] = found.pop("status")
        del found["filters"][2]
        return found
