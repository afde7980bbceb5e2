"""What is asked of OKX about orders, and how its answers are read.

OKX only hears a request for an order, and says later, by the user stream, what became of it. It takes letters
and digits alone in our ids. Sizes of perpetuals are numbers of contracts. Fees are negative where they are
paid.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, Final

from mmenv.data.rows import BUY, SELL
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Fill, Funding, Holdings, OpenOrder, Order, Terms, Trouble, VenueError
from mmenv.live.venues.names import long_name, number_in_time, short_name, time_in
from mmenv.live.venues.news import End, NotTaken, OrderView
from mmenv.live.venues.okx.client import SUBMIT, OkxClient
from mmenv.live.venues.okx.errors import POST_ONLY, TABLE
from mmenv.live.venues.refusal import Refusal, refusal
from mmenv.live.venues.requests import Requests, Sending
from mmenv.times import MILLISECOND

PAGE: Final = 100
"""Entries in one answer."""
AT_ONCE: Final = 20
"""Orders that are cancelled by one request."""
DEAD_MAN_S: Final = (10, 120)
"""The shortest and the longest time after which OKX cancels all."""
BY_US: Final = "1"
"""Source of a cancel that was asked for."""
FUNDING: Final = "8"
"""Kind of a bill."""


class OkxRequests(Requests):
    """See `mmenv.live.venues.requests.Requests`."""

    client: OkxClient

    def __init__(self, client: OkxClient, instrument: Instrument) -> None:
        super().__init__(client, instrument)
        self._symbol = {"instType": client.market.kind, "instId": instrument.symbol}

    # Orders

    async def place(self, order: Order, sending: Sending) -> OrderView | None:
        params: dict[str, Any] = {
            "instId": self.instrument.symbol,
            "tdMode": self.client.market.mode,
            "side": "buy" if order.side == BUY else "sell",
            "ordType": "market",
            "sz": self.size(order.lots),
            "clOrdId": self._name(order.client_id),
        }
        if order.kind == "limit":
            params["px"] = self.price(order.tick)
            params["ordType"] = "ioc" if order.at_once else "post_only" if order.post_only else "limit"
        elif not self.instrument.reduces:
            params["tgtCcy"] = "base_ccy"
        if order.reduce_only and self.instrument.reduces:
            params["reduceOnly"] = True
        await self.in_time(lambda: self._post(SUBMIT, params), sending)
        return None

    async def cancel(self, client_id: str) -> OrderView | None:
        named = {"instId": self.instrument.symbol, "clOrdId": self._name(client_id)}
        await self.in_time(lambda: self._post("trade/cancel-order", named))
        return None

    async def cancel_all(self) -> None:
        found = await self.in_time(lambda: self._get("trade/orders-pending", self._symbol))
        while found:
            named = [{"instId": self.instrument.symbol, "ordId": each["ordId"]} for each in found[:AT_ONCE]]
            found = found[AT_ONCE:]
            try:
                await self.in_time(lambda: self._post("trade/cancel-batch-orders", named))  # noqa: B023
            except Refusal as error:
                # So says the venue where all of them are gone.
                if error.trouble != Trouble.UNKNOWN_ORDER:
                    raise

    async def cancel_after(self, seconds: float) -> bool:
        least, most = DEAD_MAN_S
        wait = min(max(round(seconds), least), most) if seconds else 0
        await self.until_answered(
            "cancel-all-after", lambda: self._post("trade/cancel-all-after", {"timeOut": str(wait)})
        )
        return True

    async def order(self, client_id: str) -> OrderView:
        named = {"instId": self.instrument.symbol, "clOrdId": self._name(client_id)}
        return self.view((await self._get(SUBMIT, named))[0])

    async def open_orders(self) -> list[OpenOrder]:
        return [
            OpenOrder(
                client_id=self.view(found).client_id,
                order_id=int(found["ordId"]),
                side=BUY if found["side"] == "buy" else SELL,
                tick=self.ticks(found["px"] or "0"),
                lots=self.lots(found["sz"]),
                filled_lots=self.lots(found["accFillSz"] or "0"),
                reduce_only=found.get("reduceOnly") == "true",
            )
            async for found in self._pages("trade/orders-pending", self._symbol, "ordId")
        ]

    # Fills

    async def newest_trade(self) -> int:
        asked = self._symbol | {"limit": "1"}
        newest = [*await self._asked("trade/fills-history", asked), *await self._asked("trade/fills", asked)]
        return await self.newest_of(int(found.get("fillTime") or found["ts"]) for found in newest)

    async def fills(self, after_trade_id: int) -> list[Fill]:
        # The shorter memory is the fresher one.
        begin = {"begin": str(time_in(after_trade_id))} if after_trade_id else {}
        found = {
            fill.key: fill
            for path in ("trade/fills-history", "trade/fills")
            async for view in self._pages(path, self._symbol | begin, "billId")
            if (fill := self.fill(view)).trade_id > after_trade_id
        }
        return sorted(found.values(), key=lambda fill: fill.trade_id)

    async def fills_of(self, client_id: str, order_id: int) -> list[Fill]:
        asked = self._symbol | {"ordId": str(order_id)}
        return [self.fill(view) async for view in self._pages("trade/fills", asked, "billId")][::-1]

    # The account

    async def check_account(self) -> None:
        [found] = await self._asked("account/config", {})
        if "trade" not in found["perm"].split(","):
            raise VenueError(
                f"the key may not trade at {self.client.venue}: give it the right Trade (OKX: API keys)"
            )
        if self.instrument.reduces and found["posMode"] != "net_mode":
            raise VenueError(
                "the account is in hedge mode, where each side has a position of its own: a desk needs "
                "one-way mode (OKX: Trading settings, Position mode, One-way)"
            )

    async def holdings(self) -> Holdings:
        """Position and balances; on spot the position is the base asset held."""
        [account] = await self._asked("account/balance", {})
        balances = {found["ccy"]: str(found["cashBal"]) for found in account["details"]}
        if not self.instrument.reduces:
            return Holdings(size=balances.get(self.instrument.base, "0"), balances=balances, owned=True)
        found = await self._asked("account/positions", self._symbol)
        size = sum((Decimal(each["pos"] or 0) for each in found), Decimal(0)) * self.contract
        return Holdings(size=f"{size:f}", balances=balances)

    async def terms(self) -> Terms | None:
        futures, symbol = self.instrument.reduces, self.instrument.symbol
        named = {"instFamily": symbol.removesuffix("-SWAP")} if futures else {"instId": symbol}
        [found] = await self._asked("account/trade-fee", {"instType": self.client.market.kind, **named})
        names = ("makerU", "takerU") if futures and self.instrument.quote == "USDT" else ("maker", "taker")
        maker, taker = (-float(found[name] or found[name[:5]]) * 1e4 for name in names)
        return Terms(maker_fee_bp=maker, taker_fee_bp=taker)

    async def price_of(self, asset: str) -> str:
        named = {"instId": f"{asset}-{self.instrument.quote}"}
        [found] = await self.until_answered("ticker", lambda: self.client.ask("market/ticker", named))
        return str(found["last"])

    async def next_funding_ms(self) -> int:
        if not self.instrument.reduces:
            return 0
        named = {"instId": self.instrument.symbol}
        [found] = await self.until_answered(
            "funding-rate", lambda: self.client.ask("public/funding-rate", named)
        )
        return int(found["fundingTime"] or 0)

    async def funding(self, after_ms: int) -> list[Funding]:
        if not self.instrument.reduces:
            return []
        asked = {"instType": self.client.market.kind, "type": FUNDING, "begin": str(after_ms + 1)}
        found = {
            int(view["billId"]): Funding(
                client_id="", exch_ns=int(view["ts"]) * MILLISECOND, local_ns=self.client.clock(),
                payment_id=int(view["billId"]), asset=view["ccy"], amount=str(view["balChg"]),
            )
            for path in ("account/bills-archive", "account/bills")
            async for view in self._pages(path, asked, "billId")
            if view["instId"] == self.instrument.symbol
        }  # fmt: skip
        return [found[number] for number in sorted(found)]

    # How it is asked

    async def _post(self, path: str, params: Any) -> Any:
        return (await self.client.request(path, ["private"], "POST", params))["data"]

    async def _get(self, path: str, params: dict[str, Any]) -> Any:
        return (await self.client.request(path, ["private"], "GET", params))["data"]

    async def _asked(self, path: str, params: dict[str, Any]) -> Any:
        return await self.until_answered(f"get {path}", lambda: self._get(path, params))

    async def _pages(self, path: str, params: dict[str, Any], by: str) -> AsyncIterator[Any]:
        """Entries of all pages, newest first; `by` is their number."""
        older: dict[str, str] = {}
        while True:
            page = await self._asked(path, params | older | {"limit": str(PAGE)})
            for found in page:
                yield found
            if len(page) < PAGE:
                return
            older = {"after": str(page[-1][by])}

    # How it is read

    def _name(self, client_id: str) -> str:
        return short_name(client_id, self.instrument.symbol)

    def _trade_id(self, found: dict[str, Any]) -> int:
        return number_in_time(int(found.get("fillTime") or found["ts"]), found["tradeId"])

    def view(self, found: dict[str, Any]) -> OrderView:
        """An order as an answer or the stream shows it."""
        end = None
        if found["state"] == "filled":
            end = End.FILLED
        elif found["state"] in ("canceled", "mmp_canceled"):
            end = End.CANCELLED if found.get("cancelSource") == BY_US else End.EXPIRED
        return OrderView(
            client_id=long_name(found["clOrdId"], self.instrument.symbol) or found["ordId"],
            order_id=int(found["ordId"]),
            lots=self.lots(found["sz"]),
            filled=self.lots(found["accFillSz"] or "0"),
            end=end,
            exch_ns=int(found.get("uTime") or 0) * MILLISECOND,
        )

    def not_taken(self, found: dict[str, Any]) -> NotTaken | None:
        """Why an order that the venue heard of was never in its book; None if it was."""
        view = self.view(found)
        if view.end is None or view.filled or found.get("cancelSource") != str(POST_ONLY):
            return None
        text = found.get("cancelSourceReason") or "a post-only order would take liquidity"
        error = refusal(TABLE, POST_ONLY, text)
        return NotTaken(view.client_id, error.code, error.text, error.trouble)

    def fill(self, found: dict[str, Any]) -> Fill:
        """A trade of an order of ours, from an answer or the order channel."""
        streamed = "fillFee" in found
        fee = Decimal((found["fillFee"] if streamed else found["fee"]) or 0)
        return Fill(
            client_id=long_name(found["clOrdId"], self.instrument.symbol),
            exch_ns=int(found.get("fillTime") or found["ts"]) * MILLISECOND,
            local_ns=self.client.clock(),
            order_id=int(found["ordId"]),
            trade_id=self._trade_id(found),
            side=BUY if found["side"] == "buy" else SELL,
            tick=self.ticks(found["fillPx"]),
            lots=self.lots(found["fillSz"]),
            fee=f"{-fee:f}" if fee else "0",
            fee_asset=found["fillFeeCcy"] if streamed else found["feeCcy"],
            maker=found["execType"] == "M",
        )
