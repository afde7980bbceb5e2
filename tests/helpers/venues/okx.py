"""OKX, API version 5, as its documentation words it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar

from mmenv.exchange.connections import Connection
from mmenv.live.orders import Trouble
from tests.helpers.venues.base import Fake, FakeOrder, FakeTrade, Levels, Payment, Refused

SAID: dict[Trouble, tuple[int, str, str]] = {
    Trouble.DUPLICATE: (200, "51016", "Duplicated client order ID"),
    Trouble.UNKNOWN_ORDER: (200, "51603", "Order does not exist"),
    Trouble.NO_FUNDS: (200, "51008", "Order failed. Insufficient USDT balance in account."),
    Trouble.CLOSED: (503, "50001", "Service temporarily unavailable. Try again later"),
    Trouble.BAD_KEY: (401, "50111", "Invalid OK-ACCESS-KEY"),
    Trouble.TOO_OFTEN: (429, "50011", "Too Many Requests"),
    Trouble.BAD_ORDER: (200, "51121", "Order quantity must be a multiple of the lot size."),
    Trouble.UNKNOWN_SYMBOL: (200, "51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist."),
    Trouble.IN_DOUBT: (200, "50026", "System error. Try again later"),
}
STATES = {
    "new": "live", "partial": "partially_filled", "filled": "filled", "cancelled": "canceled",
    "crossed": "canceled",
}  # fmt: skip
SOURCES = {"cancelled": "1", "crossed": "31"}


class Okx(Fake):
    """Spot."""

    venue = "okx"
    symbol = "BTC-USDT"
    kind_of: ClassVar[str] = "SPOT"
    contract: ClassVar[str] = "1"
    futures = hedges = False
    late_reject = True
    whole: dict[str, Any] | None = None
    """The book that is answered; None: none is."""

    def kind(self, method: str, path: str, params: dict[str, Any]) -> str:
        short = path.removeprefix("/api/v5/")
        return {("POST", "trade/order"): "order", ("POST", "trade/cancel-order"): "cancel"}.get(
            (method, short), short
        )

    def refusal(self, trouble: Trouble, kind: str) -> tuple[int, dict[str, str], Any]:
        status, code, text = SAID[trouble]
        if kind in ("order", "cancel") and status == 200:
            told = {"clOrdId": "", "ordId": "", "sCode": code, "sMsg": text}
            return 200, {}, {"code": "1", "msg": "All operations failed", "data": [told]}
        return status, {}, {"code": code, "msg": text, "data": []}

    def route(self, method: str, path: str, params: dict[str, Any]) -> Any:
        found = self._data(method, path.removeprefix("/api/v5/"), params)
        return {"code": "0", "msg": "", "data": found}

    def _data(self, method: str, path: str, params: dict[str, Any]) -> Any:
        if path == "public/time":
            return [{"ts": str(self.ms)}]
        if path == "market/books":
            if self.whole is None:
                raise Refused(Trouble.IN_DOUBT)
            return [self.whole]
        if path == "public/instruments":
            if params["instId"] != self.symbol:
                raise Refused(Trouble.UNKNOWN_SYMBOL)
            return [self.instrument()]
        if path == "public/funding-rate":
            return [{"fundingTime": str((self.ms // 3000 + 1) * 3000)}]
        if path == "market/ticker":
            return [{"instId": params["instId"], "last": "600"}]
        if (method, path) == ("POST", "trade/order"):
            buys, kind = params["side"] == "buy", params["ordType"]
            size = str(Decimal(params["sz"]) * Decimal(self.contract))
            order = self.new(
                params["clOrdId"], buys, params.get("px", "0"), size, kind == "post_only",
                "reduceOnly" in params, kind == "ioc",
            )  # fmt: skip
            return [{"clOrdId": order.name, "ordId": str(order.id), "sCode": "0", "sMsg": ""}]
        if path == "trade/cancel-order":
            return [{"ordId": str(self.cancel(params["clOrdId"]).id), "sCode": "0"}]
        if path == "trade/cancel-batch-orders":
            return [{"ordId": str(self.cancel(each["ordId"]).id), "sCode": "0"} for each in params["body"]]
        if path == "trade/order":
            found = [order for order in self.orders if order.name == params["clOrdId"]]
            if not found:
                raise Refused(Trouble.UNKNOWN_ORDER)
            return [self.order(found[0])]
        if path == "trade/orders-pending":
            return [self.order(order) for order in self.orders if order.open]
        if path in ("trade/fills", "trade/fills-history"):
            trades = [trade for trade in self.trades if trade.ms >= int(params.get("begin", 0))]
            if "ordId" in params:
                trades = [trade for trade in trades if str(trade.order.id) == params["ordId"]]
            return [self.trade(trade) for trade in trades[::-1]][: int(params["limit"])]
        if path in ("account/bills", "account/bills-archive"):
            return [self.bill(each) for each in self.payments[::-1] if each.ms >= int(params["begin"])]
        if path == "account/balance":
            coins = [{"ccy": "USDT", "cashBal": "1000"}, {"ccy": "BTC", "cashBal": "2"}]
            return [{"details": coins}]
        if path == "account/positions":
            return []
        if path == "account/trade-fee":
            rates = {"maker": "-0.0001", "taker": "-0.0006", "makerU": "-0.0001", "takerU": "-0.0006"}
            return [rates if self.futures else rates | {"makerU": "", "takerU": ""}]
        if path == "account/config":
            mode = "long_short_mode" if self.hedged else "net_mode"
            return [{"perm": "read_only,trade" if self.may_trade else "read_only", "posMode": mode}]
        raise Refused(Trouble.IN_DOUBT)

    def instrument(self) -> Any:
        lot = self.lot_as_sent
        return {
            "instType": self.kind_of, "instId": self.symbol, "state": self.status.lower() or "live",
            "tickSz": self.tick, "lotSz": lot, "minSz": lot, "baseCcy": "BTC", "quoteCcy": "USDT",
            "ctVal": self.contract if self.futures else "", "ctValCcy": "BTC", "ctType": "linear",
            "settleCcy": "USDT",
        }  # fmt: skip

    @property
    def lot_as_sent(self) -> str:
        return str(Decimal(self.lot) / Decimal(self.contract))

    def size(self, base: Decimal) -> str:
        return str(base / Decimal(self.contract))

    def order(self, order: FakeOrder, trade: FakeTrade | None = None) -> Any:
        told = {
            "instType": self.kind_of, "instId": self.symbol, "ordId": str(order.id), "clOrdId": order.name,
            "side": "buy" if order.buys else "sell", "px": order.price, "sz": self.size(order.size),
            "accFillSz": self.size(order.filled), "state": STATES[order.state],
            "cancelSource": SOURCES.get(order.state, ""), "cancelSourceReason": "",
            "reduceOnly": str(order.reduce_only).lower(), "uTime": str(self.ms), "cTime": str(order.ms),
            "tradeId": "", "fillSz": "0", "fillPx": "", "fillFee": "0", "fillFeeCcy": "", "fillTime": "",
            "execType": "",
        }  # fmt: skip
        if trade is not None:
            view = self.trade(trade)
            told |= {name: view[name] for name in ("tradeId", "fillSz", "fillPx", "fillTime", "execType")}
            told |= {"fillFee": view["fee"], "fillFeeCcy": view["feeCcy"]}
        return told

    def trade(self, trade: FakeTrade) -> Any:
        order = trade.order
        return {
            "instType": self.kind_of, "instId": self.symbol, "tradeId": str(trade.id),
            "ordId": str(order.id), "clOrdId": order.name, "billId": str(10**17 + trade.id),
            "side": "buy" if order.buys else "sell", "fillPx": trade.price,
            "fillSz": self.size(trade.size), "fee": str(-Decimal(trade.fee)), "feeCcy": trade.asset,
            "execType": "M", "ts": str(trade.ms + 1), "fillTime": str(trade.ms),
        }  # fmt: skip

    def bill(self, payment: Payment) -> Any:
        return {
            "billId": str(10**17 + payment.id), "instId": self.symbol, "ccy": payment.asset, "type": "8",
            "balChg": payment.amount, "ts": str(payment.ms),
        }  # fmt: skip

    def heard(self, connection: Connection, message: Any) -> list[Any]:
        if message == "ping":
            return ["pong"]
        if message["op"] == "login":
            if message["args"][0]["apiKey"] != self.key:
                return [{"event": "error", "code": "60005", "msg": "Invalid apiKey"}]
            connection.account = self  # type: ignore[assignment]
            return [{"event": "login", "code": "0", "msg": ""}]
        if connection.account is None:
            connection.streams |= {channel["channel"] for channel in message["args"]}
        return [{"event": "subscribe", "arg": channel} for channel in message["args"]]

    def order_news(self, order: FakeOrder) -> list[Any]:
        return [self._told("orders", self.order(order))]

    def fill_news(self, trade: FakeTrade) -> list[Any]:
        return [self._told("orders", self.order(trade.order, trade))]

    def funding_news(self, payment: Payment) -> list[Any]:
        return [self._told("balance_and_position", {"eventType": "funding_fee", "balData": []})]

    def _told(self, channel: str, data: Any) -> Any:
        return {"arg": {"channel": channel, "instId": self.symbol}, "data": [data]}

    def book(self, number: int, first: bool, bids: Levels, asks: Levels) -> list[Any]:
        levels = {
            name: [[price, self.size(Decimal(size)), "0", "1"] for price, size in side]
            for name, side in (("bids", bids), ("asks", asks))
        }
        before = -1 if first else 3 * number - 3
        told = self._told("books", levels | {"ts": str(self.ms), "seqId": 3 * number, "prevSeqId": before})
        return [told | {"action": "snapshot" if first else "update"}]

    def deal(self, number: int, buys: bool, price: str, size: str) -> list[Any]:
        deal = {"instId": self.symbol, "tradeId": str(number), "px": price, "ts": str(self.ms)}
        deal |= {"sz": self.size(Decimal(size)), "side": "buy" if buys else "sell", "count": "1"}
        return [self._told("trades", deal)]


class OkxSwap(Okx):
    """Perpetuals, in contracts of a hundredth."""

    venue = "okx-swap"
    symbol = "BTC-USDT-SWAP"
    kind_of = "SWAP"
    contract = "0.01"
    futures = hedges = True
