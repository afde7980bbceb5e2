"""What is asked of Binance about orders, and how its answers are read."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from mmenv.data.rows import BUY, SELL
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Fill, Funding, Holdings, OpenOrder, Order, Terms, Trouble, VenueError
from mmenv.live.venues.binance.client import BinanceClient
from mmenv.live.venues.news import End, OrderView
from mmenv.live.venues.refusal import Refusal
from mmenv.live.venues.requests import RECV_WINDOW_MS, Requests, Sending
from mmenv.times import MILLISECOND

PAGE: Final = 1_000
"""Trades in one answer."""
ENDS: Final = {
    "FILLED": End.FILLED, "CANCELED": End.CANCELLED, "EXPIRED": End.EXPIRED,
    "EXPIRED_IN_MATCH": End.EXPIRED, "REJECTED": End.EXPIRED,
}  # fmt: skip
"""States of an order that is no more."""


class BinanceRequests(Requests):
    """See `mmenv.live.venues.requests.Requests`."""

    client: BinanceClient

    def __init__(self, client: BinanceClient, instrument: Instrument) -> None:
        super().__init__(client, instrument)
        self.market = client.market

    # Orders

    async def place(self, order: Order, sending: Sending) -> OrderView | None:
        params = self._order_params(order)
        return self.view(await self.in_time(lambda: self._signed("order", "POST", params), sending))

    async def cancel(self, client_id: str) -> OrderView | None:
        named = {"origClientOrderId": client_id}
        return self.view(await self.in_time(lambda: self._signed("order", "DELETE", named)))

    async def cancel_all(self) -> None:
        try:
            await self.in_time(lambda: self._signed(self.market.cancel_all, "DELETE", {}))
        except Refusal as error:
            if error.trouble != Trouble.UNKNOWN_ORDER:
                raise

    async def cancel_after(self, seconds: float) -> bool:
        """See `Requests.cancel_after`; futures have such a thing."""
        if self.market.futures:
            await self._asked("countdownCancelAll", {"countdownTime": round(seconds * 1000)}, method="POST")
        return self.market.futures

    async def order(self, client_id: str) -> OrderView:
        return self.view(await self._signed("order", "GET", {"origClientOrderId": client_id}))

    async def open_orders(self) -> list[OpenOrder]:
        return [
            OpenOrder(
                client_id=view["clientOrderId"],
                order_id=int(view["orderId"]),
                side=BUY if view["side"] == "BUY" else SELL,
                tick=self.ticks(view["price"]),
                lots=self.lots(view["origQty"]),
                filled_lots=self.lots(view["executedQty"]),
                reduce_only=bool(view.get("reduceOnly")),
            )
            for view in await self._asked("openOrders", {})
        ]

    # Fills

    async def newest_trade(self) -> int:
        newest = await self._asked(self.market.trades, {"limit": 1})
        return int(newest[-1]["id"]) if newest else 0

    async def fills(self, after_trade_id: int) -> list[Fill]:
        found: dict[int, Fill] = {}
        first = after_trade_id + 1
        while True:
            views = await self._asked(self.market.trades, {"fromId": first, "limit": PAGE})
            fills = [self.fill(view, "") for view in views]
            found |= {fill.key: fill for fill in fills}
            if len(views) < PAGE:
                return list(found.values())
            # The other side of the last trade may be on the next page.
            first = fills[-1].trade_id

    async def fills_of(self, client_id: str, order_id: int) -> list[Fill]:
        views = await self._asked(self.market.trades, {"orderId": order_id})
        return [self.fill(view, client_id) for view in views]

    # The account

    async def check_account(self) -> None:
        if self.market.futures:
            where = "positionSide/dual" if self.market.coin else "accountConfig"
            found = await self._asked(where, {}, symbol=False)
            if found.get("dualSidePosition"):
                raise VenueError(
                    "the account is in hedge mode, where each side has a position of its own: a desk needs "
                    "one-way mode (Binance: Preferences, Position Mode)"
                )
        if self.market.coin or not self.market.futures:
            found = await self._asked("account", {}, symbol=False)
        if not found.get("canTrade", True):
            raise VenueError("the account may not trade now: look at its restrictions at the venue")

    async def holdings(self) -> Holdings:
        """Position and balances; on spot the position is the base asset held."""
        if self.market.futures:
            version, about = ("", {"pair": self._pair}) if self.market.coin else ("V3", {})
            balances = await self._asked("balance", {}, version=version, symbol=False)
            positions = await self._asked("positionRisk", about, version=version, symbol=not self.market.coin)
            ours = (found for found in positions if found["symbol"] == self.instrument.symbol)
            size = sum((Decimal(found["positionAmt"]) * self.contract for found in ours), Decimal(0))
            held = {found["asset"]: found.get("balance") or found["walletBalance"] for found in balances}
            return Holdings(size=f"{size:f}", balances=held)
        account = await self._asked("account", {}, symbol=False)
        totals = {
            entry["asset"]: Decimal(entry["free"]) + Decimal(entry["locked"]) for entry in account["balances"]
        }
        base = totals.get(self.instrument.base, Decimal(0))
        return Holdings(
            size=f"{base:f}",
            balances={asset: f"{total:f}" for asset, total in totals.items()},
            owned=True,
        )

    async def terms(self) -> Terms | None:
        if self.market.futures:
            found = await self._asked("commissionRate", {})
            maker, taker = found["makerCommissionRate"], found["takerCommissionRate"]
            return Terms(maker_fee_bp=float(maker) * 1e4, taker_fee_bp=float(taker) * 1e4)
        found = await self._asked("account/commission", {})
        discount = found.get("discount", {})
        share = 1.0
        if discount.get("enabledForAccount") and discount.get("enabledForSymbol"):
            share = float(discount["discount"])
        parts = {"standardCommission": share, "taxCommission": 1.0, "specialCommission": 1.0}
        rates = {
            side: sum(float(found.get(part, {}).get(side, 0)) * weight for part, weight in parts.items())
            for side in ("maker", "taker")
        }
        return Terms(maker_fee_bp=rates["maker"] * 1e4, taker_fee_bp=rates["taker"] * 1e4)

    async def price_of(self, asset: str) -> str:
        quote = self.instrument.quote
        if not self.market.coin:
            return str((await self._public("ticker/price", f"{asset}{quote}"))["price"])
        # Both are priced in dollars there.
        asked = f"{asset}{quote}_PERP", self.instrument.symbol
        theirs, ours = [_one(await self._public("ticker/price", symbol))["price"] for symbol in asked]
        return str(Decimal(theirs) / Decimal(ours))

    async def next_funding_ms(self) -> int:
        if not self.market.futures:
            return 0
        found = await self._public("premiumIndex", self.instrument.symbol)
        return int(_one(found).get("nextFundingTime") or 0)

    async def funding(self, after_ms: int) -> list[Funding]:
        found: list[Funding] = []
        if not self.market.futures:
            return found
        while True:
            asked = {"incomeType": "FUNDING_FEE", "startTime": after_ms + 1, "limit": PAGE}
            views = await self._asked("income", asked)
            found += [
                Funding(
                    client_id="", exch_ns=int(view["time"]) * MILLISECOND, local_ns=self.client.clock(),
                    payment_id=int(view["tranId"]), asset=view["asset"], amount=str(view["income"]),
                )
                for view in views
            ]  # fmt: skip
            if len(views) < PAGE:
                return found
            after_ms = max(int(view["time"]) for view in views)

    # How it is asked and read

    @property
    def _pair(self) -> str:
        """The pair of which a contract is."""
        return self.instrument.symbol.partition("_")[0]

    async def _signed(
        self, path: str, method: str, params: dict[str, Any], *, version: str = "", symbol: bool = True
    ) -> Any:
        """The answer to a signed request of a `version` of the API, about the `symbol` or not."""
        asked = {"symbol": self.instrument.symbol, **params} if symbol else dict(params)
        api = [f"{self.market.private}{version}"]
        return await self.client.request(path, api, method, asked | {"recvWindow": RECV_WINDOW_MS})

    async def _asked(self, path: str, params: dict[str, Any], *, method: str = "GET", **more: Any) -> Any:
        return await self.until_answered(
            f"{method.lower()} {path}", lambda: self._signed(path, method, params, **more)
        )

    async def _public(self, path: str, symbol: str) -> Any:
        ask = lambda: self.client.request(path, [self.market.public], "GET", {"symbol": symbol})  # noqa: E731
        return await self.until_answered(f"get {path}", ask)

    def _order_params(self, order: Order) -> dict[str, Any]:
        """An order as the venue is asked for it."""
        params: dict[str, Any] = {
            "side": "BUY" if order.side == BUY else "SELL",
            "type": "MARKET" if order.kind == "market" else "LIMIT",
            "quantity": self.size(order.lots),
            "newClientOrderId": order.client_id,
            "newOrderRespType": "RESULT",
        }
        if order.kind == "limit":
            params["price"] = self.price(order.tick)
            taker = "timeInForce", "IOC" if order.at_once else "GTC"
            name, value = self.market.maker if order.post_only else taker
            params[name] = value
        if order.reduce_only and self.market.futures:
            params["reduceOnly"] = "true"
        return params

    def view(self, found: dict[str, Any]) -> OrderView:
        """An order as a request's answer shows it."""
        return OrderView(
            client_id=found.get("origClientOrderId", found["clientOrderId"]),
            order_id=int(found["orderId"]),
            lots=self.lots(found["origQty"]),
            filled=self.lots(found["executedQty"]),
            end=ENDS.get(found["status"]),
            exch_ns=int(found.get("updateTime") or found.get("transactTime") or 0) * MILLISECOND,
        )

    def fill(self, view: dict[str, Any], client_id: str) -> Fill:
        """A trade of an order of ours."""
        side = view.get("side") or ("BUY" if view["isBuyer"] else "SELL")
        return Fill(
            client_id=client_id,
            exch_ns=int(view["time"]) * MILLISECOND,
            local_ns=self.client.clock(),
            order_id=int(view["orderId"]),
            trade_id=int(view["id"]),
            side=BUY if side == "BUY" else SELL,
            tick=self.ticks(view["price"]),
            lots=self.lots(view["qty"]),
            fee=str(view["commission"]),
            fee_asset=str(view["commissionAsset"]),
            maker=bool(view.get("maker", view.get("isMaker"))),
        )


def _one(found: Any) -> dict[str, Any]:
    """The answer about one symbol, which COIN-M gives as a list."""
    return found[0] if isinstance(found, list) else found
