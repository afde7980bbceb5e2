"""What is asked of Bybit about orders, and how its answers are read.

Bybit only hears a request for an order, and says later, by the user stream, what became of it. Ids of orders
and trades are text there; trades are put in order by their time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, Final

from mmenv.data.rows import BUY, SELL
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Fill, Funding, Holdings, OpenOrder, Order, Terms, Trouble, VenueError
from mmenv.live.venues.bybit.client import CREATE, BybitClient
from mmenv.live.venues.bybit.errors import TABLE
from mmenv.live.venues.names import long_name, number_in_time, number_of, short_name, time_in
from mmenv.live.venues.news import End, NotTaken, OrderView
from mmenv.live.venues.refusal import Refusal, refusal
from mmenv.live.venues.requests import Requests, Sending
from mmenv.times import MILLISECOND

WEEK_MS: Final = 7 * 86_400_000
"""The longest time that one question may be about."""
MEMORY_MS: Final = 730 * 86_400_000
"""How long Bybit remembers."""
OPEN: Final = ("New", "PartiallyFilled", "Untriggered", "Triggered", "Created")
"""States of an order that may trade."""
ASKED_FOR: Final = ("EC_PerCancelRequest", "CancelByUser")
"""Why an order is cancelled that somebody asked to be."""
RIGHTS: Final = {"linear": ("ContractTrade", "Order"), "spot": ("Spot", "SpotTrade")}
"""The right to trade, by category: its kind and its name."""


class BybitRequests(Requests):
    """See `mmenv.live.venues.requests.Requests`."""

    client: BybitClient

    def __init__(self, client: BybitClient, instrument: Instrument) -> None:
        super().__init__(client, instrument)
        self._symbol = {"category": client.market.category, "symbol": instrument.symbol}

    # Orders

    async def place(self, order: Order, sending: Sending) -> OrderView | None:
        params: dict[str, Any] = {
            "side": "Buy" if order.side == BUY else "Sell",
            "orderType": "Market" if order.kind == "market" else "Limit",
            "qty": self.size(order.lots),
            "orderLinkId": self._name(order.client_id),
        }
        if order.kind == "limit":
            params["price"] = self.price(order.tick)
            params["timeInForce"] = "IOC" if order.at_once else "PostOnly" if order.post_only else "GTC"
        elif not self.instrument.reduces:
            params["marketUnit"] = "baseCoin"
        if order.reduce_only and self.instrument.reduces:
            params["reduceOnly"] = True
        await self.in_time(lambda: self._post(CREATE, params), sending)
        return None

    async def cancel(self, client_id: str) -> OrderView | None:
        named = {"orderLinkId": self._name(client_id)}
        await self.in_time(lambda: self._post("v5/order/cancel", named))
        return None

    async def cancel_all(self) -> None:
        await self.in_time(lambda: self._post("v5/order/cancel-all", {}))

    async def order(self, client_id: str) -> OrderView:
        named = {"orderLinkId": self._name(client_id)}
        # Open ones, those that ended lately, and all: what the first know nothing of the last may.
        for path, more in (("realtime", {}), ("realtime", {"openOnly": 1}), ("history", {})):
            answer = await self._get(f"v5/order/{path}", self._symbol | named | more)
            for found in answer["list"]:
                return self.view(found)
        raise Refusal(Trouble.UNKNOWN_ORDER, 110001, "Order does not exist", 200)

    async def open_orders(self) -> list[OpenOrder]:
        asked = self._symbol | {"openOnly": 0, "limit": 50}
        return [
            OpenOrder(
                client_id=self.view(found).client_id,
                order_id=number_of(found["orderId"]),
                side=BUY if found["side"] == "Buy" else SELL,
                tick=self.ticks(found["price"] or "0"),
                lots=self.lots(found["qty"]),
                filled_lots=self.lots(found["cumExecQty"] or "0"),
                reduce_only=bool(found.get("reduceOnly")),
            )
            async for found in self._pages("v5/order/realtime", asked)
        ]

    # Fills

    async def newest_trade(self) -> int:
        asked = self._symbol | {"execType": "Trade", "limit": 1}
        newest = await self._asked("v5/execution/list", asked)
        return await self.newest_of(int(found["execTime"]) for found in newest["list"])

    async def fills(self, after_trade_id: int) -> list[Fill]:
        found = [self.fill(view) async for view in self._since("v5/execution/list", time_in(after_trade_id))]
        return sorted(
            (fill for fill in found if fill.trade_id > after_trade_id), key=lambda fill: fill.trade_id
        )

    async def fills_of(self, client_id: str, order_id: int) -> list[Fill]:
        asked = self._symbol | {"orderLinkId": self._name(client_id), "execType": "Trade", "limit": 100}
        return [self.fill(view) async for view in self._pages("v5/execution/list", asked)][::-1]

    # The account

    async def check_account(self) -> None:
        key = await self._asked("v5/user/query-api", {})
        kind, right = RIGHTS[self.client.market.category]
        rights = key.get("permissions", {}).get(kind, ())
        if int(key.get("readOnly", 0)) or (right not in rights):
            raise VenueError(
                f"the key may not trade at {self.client.venue}: give it the right {kind} - {right}, to read "
                "and write (Bybit: API Management)"
            )
        if self.instrument.reduces and any(int(found["positionIdx"]) for found in await self._positions()):
            raise VenueError(
                "the account is in hedge mode, where each side has a position of its own: a desk needs "
                "one-way mode (Bybit: Preferences, Position Mode)"
            )

    async def holdings(self) -> Holdings:
        """Position and balances; on spot the position is the base asset held."""
        wallet = await self._asked("v5/account/wallet-balance", {"accountType": "UNIFIED"})
        balances = {
            found["coin"]: str(found["walletBalance"])
            for account in wallet["list"]
            for found in account["coin"]
        }
        if not self.instrument.reduces:
            return Holdings(size=balances.get(self.instrument.base, "0"), balances=balances, owned=True)
        size = sum(
            Decimal(found["size"] or 0) * (-1 if found["side"] == "Sell" else 1)
            for found in await self._positions()
        )
        return Holdings(size=f"{size:f}", balances=balances)

    async def terms(self) -> Terms | None:
        [found] = (await self._asked("v5/account/fee-rate", self._symbol))["list"]
        maker, taker = float(found["makerFeeRate"]), float(found["takerFeeRate"])
        return Terms(maker_fee_bp=maker * 1e4, taker_fee_bp=taker * 1e4)

    async def price_of(self, asset: str) -> str:
        named = {"category": "spot", "symbol": f"{asset}{self.instrument.quote}"}
        return str((await self._ticker(named))["lastPrice"])

    async def next_funding_ms(self) -> int:
        if not self.instrument.reduces:
            return 0
        return int((await self._ticker(self._symbol)).get("nextFundingTime") or 0)

    async def funding(self, after_ms: int) -> list[Funding]:
        if not self.instrument.reduces:
            return []
        asked = {"accountType": "UNIFIED", "category": self.client.market.category, "type": "SETTLEMENT"}
        found = [
            Funding(
                client_id="", exch_ns=int(view["transactionTime"]) * MILLISECOND,
                local_ns=self.client.clock(), payment_id=number_of(str(view["id"])),
                asset=view["currency"], amount=str(view["funding"]),
            )
            async for view in self._since("v5/account/transaction-log", after_ms + 1, asked, page=50)
            if view["symbol"] == self.instrument.symbol and Decimal(view["funding"] or 0)
        ]  # fmt: skip
        return sorted(found, key=lambda payment: payment.exch_ns)

    # How it is asked

    async def _post(self, path: str, params: dict[str, Any]) -> Any:
        return (await self.client.request(path, ["private"], "POST", self._symbol | params))["result"]

    async def _get(self, path: str, params: dict[str, Any]) -> Any:
        return (await self.client.request(path, ["private"], "GET", params))["result"]

    async def _asked(self, path: str, params: dict[str, Any]) -> Any:
        return await self.until_answered(f"get {path}", lambda: self._get(path, params))

    async def _ticker(self, named: dict[str, Any]) -> Any:
        found = await self.until_answered("tickers", lambda: self.client.ask("v5/market/tickers", named))
        return found["list"][0]

    async def _positions(self) -> list[Any]:
        return list((await self._asked("v5/position/list", self._symbol))["list"])

    async def _pages(self, path: str, params: dict[str, Any]) -> AsyncIterator[Any]:
        """Entries of all pages, newest first."""
        cursor = ""
        while True:
            answer = await self._asked(path, params | ({"cursor": cursor} if cursor else {}))
            for found in answer["list"]:
                yield found
            cursor = answer.get("nextPageCursor") or ""
            if not cursor or not answer["list"]:
                return

    async def _since(
        self, path: str, start_ms: int, params: dict[str, Any] | None = None, page: int = 100
    ) -> AsyncIterator[Any]:
        """Entries from a time on, a week at a time."""
        asked = params or self._symbol | {"execType": "Trade"}
        now_ms = int(self.client.nonce())
        start_ms = max(start_ms, now_ms - MEMORY_MS) if start_ms else now_ms - WEEK_MS
        while start_ms <= now_ms:
            # Our clock may be behind the venue's; what is newer than all is not to be missed.
            until_ms = start_ms + WEEK_MS
            times = {"startTime": start_ms, "endTime": until_ms, "limit": page}
            async for found in self._pages(path, asked | times):
                yield found
            start_ms = until_ms + 1

    # How it is read

    def _name(self, client_id: str) -> str:
        return short_name(client_id, self.instrument.symbol)

    def _trade_id(self, found: dict[str, Any]) -> int:
        return number_in_time(int(found["execTime"]), found["execId"])

    def view(self, found: dict[str, Any]) -> OrderView:
        """An order as an answer or the stream shows it."""
        end, status = None, found["orderStatus"]
        if status == "Filled":
            end = End.FILLED
        elif status not in OPEN:
            reasons = (found.get("rejectReason"), found.get("cancelType"))
            end = End.CANCELLED if any(why in ASKED_FOR for why in reasons) else End.EXPIRED
        return OrderView(
            client_id=long_name(found["orderLinkId"], self.instrument.symbol) or found["orderId"],
            order_id=number_of(found["orderId"]),
            lots=self.lots(found["qty"]),
            filled=self.lots(found.get("cumExecQty") or "0"),
            end=end,
            exch_ns=int(found.get("updatedTime") or 0) * MILLISECOND,
        )

    def not_taken(self, found: dict[str, Any]) -> NotTaken | None:
        """Why an order that the venue heard of was never in its book; None if it was."""
        view, why = self.view(found), str(found.get("rejectReason") or "")
        error = refusal(TABLE, 0, why)
        refused = found["orderStatus"] == "Rejected" or error.trouble != Trouble.OTHER
        if view.end is None or view.filled or not refused:
            return None
        return NotTaken(view.client_id, 0, why, error.trouble)

    def fill(self, found: dict[str, Any]) -> Fill:
        """A trade of an order of ours."""
        return Fill(
            client_id=long_name(found["orderLinkId"], self.instrument.symbol),
            exch_ns=int(found["execTime"]) * MILLISECOND,
            local_ns=self.client.clock(),
            order_id=number_of(found["orderId"]),
            trade_id=self._trade_id(found),
            side=BUY if found["side"] == "Buy" else SELL,
            tick=self.ticks(found["execPrice"]),
            lots=self.lots(found["execQty"]),
            fee=str(found["execFee"] or "0"),
            fee_asset=found.get("feeCurrency") or self._fee_asset(found["side"]),
            maker=bool(found["isMaker"]),
        )

    def _fee_asset(self, side: str) -> str:
        """What fees are paid in, where the venue does not say."""
        received = self.instrument.base if side == "Buy" else self.instrument.quote
        return self.instrument.quote if self.instrument.reduces else received
