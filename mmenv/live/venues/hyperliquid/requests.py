"""What is asked of Hyperliquid about orders, and how its answers are read.

Our ids are 128 bits there; ids of trades are put in order by their time.
"""

from __future__ import annotations

import hashlib
import re
from decimal import Decimal
from typing import Any, Final

from mmenv.data.rows import BUY, SELL
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Fill, Funding, Holdings, OpenOrder, Order, Terms, Trouble, VenueError
from mmenv.live.venues.client import trimmed
from mmenv.live.venues.hyperliquid.client import HyperliquidClient
from mmenv.live.venues.hyperliquid.errors import TABLE
from mmenv.live.venues.names import number_in_time, session_and_number, symbol_tag, time_in
from mmenv.live.venues.news import End, NotTaken, OrderView
from mmenv.live.venues.refusal import Refusal, refusal
from mmenv.live.venues.requests import Requests, Sending
from mmenv.times import MILLISECOND

PAGE: Final = {"userFillsByTime": 2_000, "userFunding": 500}
"""Entries in one answer."""
HOUR_MS: Final = 3_600_000
"""Funding is paid this often."""
SLIPPAGE: Final = Decimal("0.05")
"""How far from the middle a market order may trade."""
_THEIRS: Final = re.compile(r"0x6e6d6d([0-9a-f]{6})([0-9a-f]{12})([0-9a-f]{8})")


class HyperliquidRequests(Requests):
    """See `mmenv.live.venues.requests.Requests`."""

    client: HyperliquidClient

    def __init__(self, client: HyperliquidClient, instrument: Instrument) -> None:
        super().__init__(client, instrument)
        self._user = {"user": client.walletAddress}
        self._asset = client.assets[instrument.symbol]
        self._foreign: dict[str, str] = {}

    # Orders

    async def place(self, order: Order, sending: Sending) -> OrderView | None:
        market = order.kind == "market"
        wanted = {
            "a": self._asset,
            "b": order.side == BUY,
            "p": await self._far(order.side) if market else trimmed(self.price(order.tick)),
            "s": trimmed(self.size(order.lots)),
            "r": order.reduce_only,
            "t": {
                "limit": {"tif": "Ioc" if market or order.at_once else "Alo" if order.post_only else "Gtc"}
            },
            "c": self._name(order.client_id),
        }
        action = {"type": "order", "orders": [wanted], "grouping": "na"}
        answer = await self.in_time(lambda: self.client.act(action), sending)
        [status] = answer["data"]["statuses"]
        kind, told = next(iter(status.items()))
        filled = self.lots(told["totalSz"]) if kind == "filled" else 0
        return OrderView(
            client_id=order.client_id,
            order_id=int(told["oid"]),
            lots=order.lots,
            filled=filled,
            end=None if kind == "resting" else End.FILLED if filled == order.lots else End.EXPIRED,
        )

    async def _far(self, side: int) -> str:
        """A price at which an order trades at once."""
        middle = Decimal((await self.client.ask("allMids"))[self.instrument.symbol])
        return trimmed(self.price(round(middle * (1 + side * SLIPPAGE) / self.tick)))

    async def cancel(self, client_id: str) -> OrderView | None:
        cancels = [{"asset": self._asset, "cloid": self._name(client_id)}]
        await self.in_time(lambda: self.client.act({"type": "cancelByCloid", "cancels": cancels}))
        return None

    async def cancel_all(self) -> None:
        found = await self._standing()
        if not found:
            return
        cancels = [{"a": self._asset, "o": int(each["oid"])} for each in found]
        try:
            await self.in_time(lambda: self.client.act({"type": "cancel", "cancels": cancels}))
        except Refusal as error:
            # So says the venue where one of them is gone.
            if error.trouble != Trouble.UNKNOWN_ORDER:
                raise

    async def order(self, client_id: str) -> OrderView:
        answer = await self.client.ask("orderStatus", **self._user, oid=self._name(client_id))
        return self.view(answer["order"])

    async def open_orders(self) -> list[OpenOrder]:
        return [
            OpenOrder(
                client_id=self._client_id(found.get("cloid")) or str(found["oid"]),
                order_id=int(found["oid"]),
                side=BUY if found["side"] == "B" else SELL,
                tick=self.ticks(found["limitPx"]),
                lots=self.lots(found["origSz"]),
                filled_lots=self.lots(found["origSz"]) - self.lots(found["sz"]),
                reduce_only=bool(found.get("reduceOnly")),
            )
            for found in await self.until_answered("open orders", self._standing)
        ]

    async def _standing(self) -> list[Any]:
        found = await self.client.ask("frontendOpenOrders", **self._user)
        return [each for each in found if each["coin"] == self.instrument.symbol]

    # Fills

    async def newest_trade(self) -> int:
        return await self.newest_of(int(found["time"]) for found in await self._mine("userFills"))

    async def fills(self, after_trade_id: int) -> list[Fill]:
        found = {
            fill.key: fill
            for view in await self._since("userFillsByTime", time_in(after_trade_id))
            if view["coin"] == self.instrument.symbol and (fill := self.fill(view)).trade_id > after_trade_id
        }
        return sorted(found.values(), key=lambda fill: fill.trade_id)

    async def fills_of(self, client_id: str, order_id: int) -> list[Fill]:
        # What is older has long been found by the comparison.
        since_ms = int(self.client.nonce()) - HOUR_MS
        found = [self.fill(view) for view in await self._since("userFillsByTime", since_ms)]
        return sorted((fill for fill in found if fill.order_id == order_id), key=lambda fill: fill.trade_id)

    # The account

    async def check_account(self) -> None:
        client = self.client
        wallet = client.eth_get_address_from_private_key(client.privateKey)
        if wallet.lower() == client.walletAddress.lower():
            return
        role = await self._asked("userRole", user=wallet)
        owner = role.get("data", {}).get("user", "") if role["role"] == "agent" else ""
        if owner.lower() != client.walletAddress.lower():
            where = "the testnet" if client.testnet else "the venue itself (its testnet needs --testnet)"
            raise VenueError(
                f"the key may not trade at {client.venue}: the secret must be the private key of the "
                f"account, or of an API wallet that it has approved, at {where}"
            )

    async def holdings(self) -> Holdings:
        state = await self._asked("clearinghouseState", **self._user)
        held = (found["position"] for found in state["assetPositions"])
        size = next((each["szi"] for each in held if each["coin"] == self.instrument.symbol), "0")
        cash = state["marginSummary"]["accountValue"]
        return Holdings(size=f"{Decimal(size):f}", balances={self.instrument.quote: str(cash)})

    async def terms(self) -> Terms | None:
        found = await self._asked("userFees", **self._user)
        maker, taker = float(found["userAddRate"]), float(found["userCrossRate"])
        return Terms(maker_fee_bp=maker * 1e4, taker_fee_bp=taker * 1e4)

    async def price_of(self, asset: str) -> str:
        return str((await self._asked("allMids"))[asset])

    async def next_funding_ms(self) -> int:
        return (int(self.client.nonce()) // HOUR_MS + 1) * HOUR_MS

    async def funding(self, after_ms: int) -> list[Funding]:
        symbol = self.instrument.symbol
        return [
            Funding(
                client_id="", exch_ns=int(view["time"]) * MILLISECOND, local_ns=self.client.clock(),
                payment_id=number_in_time(int(view["time"]), symbol), asset=self.instrument.quote,
                amount=str(view["delta"]["usdc"]),
            )
            for view in await self._since("userFunding", after_ms + 1)
            if view["delta"]["coin"] == symbol
        ]  # fmt: skip

    # How it is asked

    async def _asked(self, kind: str, **more: Any) -> Any:
        return await self.until_answered(kind, lambda: self.client.ask(kind, **more))

    async def _mine(self, kind: str) -> list[Any]:
        found = await self._asked(kind, **self._user)
        return [each for each in found if each["coin"] == self.instrument.symbol]

    async def _since(self, kind: str, start_ms: int) -> list[Any]:
        """Entries of all pages from a time on, oldest first."""
        found: list[Any] = []
        while True:
            page = await self._asked(kind, **self._user, startTime=start_ms)
            found += [each for each in page if each not in found[-PAGE[kind] :]]
            if len(page) < PAGE[kind] or int(page[-1]["time"]) == start_ms:
                return found
            start_ms = int(page[-1]["time"])

    # How it is read

    def _name(self, client_id: str) -> str:
        """The venue's form of our id."""
        found = session_and_number(client_id, self.instrument.symbol)
        if found is not None:
            tag = symbol_tag(self.instrument.symbol)
            return f"0x6e6d6d{tag}{int(found[0], 16):012x}{int(found[1]):08x}"
        name = f"0x{hashlib.blake2b(client_id.encode(), digest_size=16).hexdigest()}"
        self._foreign[name] = client_id
        return name

    def _client_id(self, name: str | None) -> str:
        """Our id of the venue's form."""
        found = _THEIRS.fullmatch(name or "")
        if found is not None and found[1] == symbol_tag(self.instrument.symbol):
            return f"nmm{self.instrument.symbol}{int(found[2], 16):x}-{int(found[3], 16)}"
        return self._foreign.get(name or "", name or "")

    def view(self, found: dict[str, Any]) -> OrderView:
        """An order as an answer or the stream shows it."""
        order, status, end = found["order"], found["status"], None
        if status == "filled":
            end = End.FILLED
        elif status != "open":
            end = End.CANCELLED if status == "canceled" else End.EXPIRED
        lots = self.lots(order["origSz"])
        return OrderView(
            client_id=self._client_id(order.get("cloid")) or str(order["oid"]),
            order_id=int(order["oid"]),
            lots=lots,
            # What is left of one that is filled is told in many ways.
            filled=lots if end == End.FILLED else lots - self.lots(order["sz"]),
            end=end,
            exch_ns=int(found.get("statusTimestamp") or 0) * MILLISECOND,
        )

    def not_taken(self, found: dict[str, Any]) -> NotTaken | None:
        """Why an order was never in the venue's book; None if it was."""
        status = found["status"]
        if not status.lower().endswith("rejected"):
            return None
        error = refusal(TABLE, 0, status)
        return NotTaken(self._client_id(found["order"].get("cloid")), 0, status, error.trouble)

    def fill(self, found: dict[str, Any]) -> Fill:
        """A trade of an order of ours."""
        return Fill(
            client_id=self._client_id(found.get("cloid")),
            exch_ns=int(found["time"]) * MILLISECOND,
            local_ns=self.client.clock(),
            order_id=int(found["oid"]),
            trade_id=number_in_time(int(found["time"]), str(found["tid"])),
            side=BUY if found["side"] == "B" else SELL,
            tick=self.ticks(found["px"]),
            lots=self.lots(found["sz"]),
            fee=str(found["fee"]),
            fee_asset=str(found["feeToken"]),
            maker=not found["crossed"],
        )
