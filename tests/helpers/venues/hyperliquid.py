"""Hyperliquid, as its documentation words it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from mmenv.exchange.connections import Connection
from mmenv.live.orders import Trouble
from mmenv.live.venues.base import Credentials
from tests.helpers.venues.base import Fake, FakeOrder, FakeTrade, Levels, Payment, Refused

ACCOUNT = "0x00000000000000000000000000000000000000aa"
SAID: dict[Trouble, tuple[int, str]] = {
    Trouble.CROSSED: (200, "Post only order would have immediately matched, bbo was 100.0@100.2. asset=0"),
    Trouble.UNKNOWN_ORDER: (200, "Order was never placed, already canceled, or filled. asset=0"),
    Trouble.NO_FUNDS: (200, "Insufficient margin to place order. asset=0"),
    Trouble.BAD_ORDER: (200, "Order must have minimum value of $10. asset=0"),
    Trouble.CLOSED: (200, "Trading is halted. asset=0"),
    Trouble.BAD_KEY: (200, "User or API Wallet 0x00 does not exist."),
    Trouble.TOO_OFTEN: (429, "Too Many Requests"),
    Trouble.IN_DOUBT: (502, "Bad Gateway"),
}
STATES = {"new": "open", "partial": "open", "filled": "filled", "cancelled": "canceled"}


class Hyperliquid(Fake):
    """Perpetuals."""

    venue = "hyperliquid"
    symbol = "BTC"
    quote = "USDC"
    hedges = numbered = False
    credentials = Credentials(ACCOUNT, "0x" + "1" * 64)

    def kind(self, method: str, path: str, params: dict[str, Any]) -> str:
        action = params.get("action", {}).get("type", params.get("type"))
        return {"order": "order", "cancelByCloid": "cancel"}.get(action, action)

    def refusal(self, trouble: Trouble, kind: str) -> tuple[int, dict[str, str], Any]:
        status, text = SAID[trouble]
        if kind in ("order", "cancel") and status == 200 and trouble != Trouble.BAD_KEY:
            return 200, {}, self._done(kind, [{"error": text}])
        return status, {}, {"status": "err", "response": text}

    def _done(self, kind: str, statuses: list[Any]) -> Any:
        return {"status": "ok", "response": {"type": kind, "data": {"statuses": statuses}}}

    def route(self, method: str, path: str, params: dict[str, Any]) -> Any:
        return self._act(params["action"]) if path == "/exchange" else self._info(params["type"], params)

    def _act(self, action: Any) -> Any:
        if action["type"] == "order":
            [told] = action["orders"]
            force = told["t"]["limit"]["tif"]
            order = self.new(
                told["c"], told["b"], told["p"], told["s"], force == "Alo", told["r"], force == "Ioc"
            )
            return self._done("order", [{"resting": {"oid": order.id, "cloid": order.name}}])
        named = [str(each.get("cloid", each.get("o"))) for each in action["cancels"]]
        return self._done("cancel", ["success" for name in named if self.cancel(name)])

    def _info(self, kind: str, params: dict[str, Any]) -> Any:
        if kind == "metaAndAssetCtxs":
            meta = {"name": "BTC", "szDecimals": 3, "maxLeverage": 40, "isDelisted": bool(self.status)}
            return [{"universe": [meta]}, [{"midPx": "1000.5", "markPx": "1000"}]]
        if kind == "exchangeStatus":
            return {"time": self.ms, "specialStatuses": None}
        if kind == "allMids":
            return {"BTC": "100", "COIN": "600"}
        if kind == "orderStatus":
            found = [order for order in self.orders if order.name == params["oid"]]
            return {"status": "order", "order": self.order(found[0])} if found else {"status": "unknownOid"}
        if kind == "frontendOpenOrders":
            standing = [order for order in self.orders if order.open]
            return [self.order(order)["order"] | {"reduceOnly": order.reduce_only} for order in standing]
        if kind in ("userFills", "userFillsByTime"):
            since = params.get("startTime", 0)
            return [self.trade(trade) for trade in self.trades if trade.ms >= since]
        if kind == "userFunding":
            return [
                {
                    "time": each.ms,
                    "hash": "0x00",
                    "delta": {"type": "funding", "coin": "BTC", "usdc": each.amount},
                }
                for each in self.payments
                if each.ms >= params["startTime"]
            ]
        if kind == "clearinghouseState":
            return {"assetPositions": [], "marginSummary": {"accountValue": "1000"}, "time": self.ms}
        if kind == "userFees":
            return {"userAddRate": "0.0001", "userCrossRate": "0.0006"}
        if kind == "userRole":
            good = self.may_trade and self.key == "key"
            return {"role": "agent", "data": {"user": ACCOUNT}} if good else {"role": "missing"}
        raise Refused(Trouble.IN_DOUBT)

    def order(self, order: FakeOrder) -> Any:
        told = {
            "coin": "BTC", "side": "B" if order.buys else "A", "limitPx": order.price, "oid": order.id,
            "sz": str(order.size - order.filled), "origSz": str(order.size), "timestamp": order.ms,
            "cloid": order.name,
        }  # fmt: skip
        return {"order": told, "status": STATES[order.state], "statusTimestamp": self.ms}

    def trade(self, trade: FakeTrade) -> Any:
        return {
            "coin": "BTC", "px": trade.price, "sz": str(trade.size), "time": trade.ms, "crossed": False,
            "side": "B" if trade.order.buys else "A", "oid": trade.order.id, "tid": 10**14 + trade.id,
            "fee": str(Decimal(trade.fee)), "feeToken": trade.asset, "hash": "0xabc", "dir": "Open Long",
            "startPosition": "0", "closedPnl": "0",
        }  # fmt: skip

    def heard(self, connection: Connection, message: Any) -> list[Any]:
        if message["method"] == "ping":
            return [{"channel": "pong"}]
        wanted = message["subscription"]
        answer = {"channel": "subscriptionResponse", "data": message}
        if "user" not in wanted:
            connection.streams.add(wanted["type"])
            return [answer]
        connection.account = self  # type: ignore[assignment]
        snapshot = {"isSnapshot": True, "user": ACCOUNT, "fills": [self.trade(each) for each in self.trades]}
        return (
            [answer, {"channel": "userFills", "data": snapshot}]
            if wanted["type"] == "userFills"
            else [answer]
        )

    def order_news(self, order: FakeOrder) -> list[Any]:
        return [{"channel": "orderUpdates", "data": [self.order(order)]}]

    def fill_news(self, trade: FakeTrade) -> list[Any]:
        told = {"user": ACCOUNT, "fills": [self.trade(trade)]}
        return [{"channel": "userFills", "data": told}, *self.order_news(trade.order)]

    def funding_news(self, payment: Payment) -> list[Any]:
        told = {"time": payment.ms, "coin": "BTC", "usdc": payment.amount, "szi": "1", "fundingRate": "0.1"}
        return [{"channel": "userFundings", "data": {"user": ACCOUNT, "fundings": [told]}}]

    def book(self, number: int, first: bool, bids: Levels, asks: Levels) -> list[Any]:
        sides = (self.whole[0] if not first else {}), (self.whole[1] if not first else {})
        self.whole = tuple({**side, **dict(new)} for side, new in zip(sides, (bids, asks), strict=True))
        levels = [
            [
                {"px": price, "sz": size, "n": 1}
                for price, size in sorted(side.items(), key=lambda level: sign * Decimal(level[0]))
                if Decimal(size)
            ]
            for side, sign in zip(self.whole, (-1, 1), strict=True)
        ]
        return [{"channel": "l2Book", "data": {"coin": "BTC", "time": self.ms, "levels": levels}}]

    def deal(self, number: int, buys: bool, price: str, size: str) -> list[Any]:
        deal = {"coin": "BTC", "side": "B" if buys else "A", "px": price, "sz": size, "time": self.ms}
        return [{"channel": "trades", "data": [deal | {"hash": "0x", "tid": number}]}]
