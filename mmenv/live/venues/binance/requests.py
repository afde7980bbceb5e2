"""What is asked of Binance about orders, and how its answers are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from mmenv.data.rows import BUY, SELL
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Fill, Funding, Holdings, OpenOrder, Order, Terms, Trouble, VenueError
from mmenv.live.throttle import TooOften
from mmenv.live.venues.binance.client import RETRY_S, BaseError, BinanceClient
from mmenv.live.venues.refusal import Refusal
from mmenv.times import MILLISECOND

RECV_WINDOW_MS: Final = 2_000
"""A request that arrives later than this after it was sent is refused."""
REQUEST_ERRORS: Final = (BaseError, TooOften)
"""What a request may raise."""
PAGE: Final = 1_000
"""Trades in one answer."""


def trouble_of(error: BaseException) -> Trouble:
    """What an error of a request means; one that is no answer leaves in doubt whether it was carried out."""
    if isinstance(error, TooOften):
        return Trouble.UNSENT
    return error.trouble if isinstance(error, Refusal) else Trouble.IN_DOUBT


class Requests:
    """Requests for one symbol."""

    def __init__(self, client: BinanceClient, instrument: Instrument) -> None:
        self.client, self.market = client, client.market
        self.adopt(instrument)

    def adopt(self, instrument: Instrument) -> None:
        """Read and write in its ticks and lots from now on."""
        self.instrument = instrument
        self._tick, self._lot = Decimal(instrument.tick_size), Decimal(instrument.lot_size)

    async def signed(
        self,
        path: str,
        method: str,
        params: dict[str, Any],
        *,
        version: str = "",
        symbol: bool = True,
        sending: Callable[[int], None] | None = None,
    ) -> Any:
        """Make one signed request of a `version` of the API, about the `symbol` or not; its answer.

        `sending` is told the venue's time in milliseconds whenever the request is about to be sent. Raises
        as `BinanceClient.request` does.
        """
        if symbol:
            params = {"symbol": self.instrument.symbol, **params}
        params["recvWindow"] = RECV_WINDOW_MS
        api = [f"{self.market.private}{version}"]
        for again in (True, False):
            if sending is not None:
                sending(self.client.nonce())
            try:
                return await self.client.request(path, api, method.upper(), dict(params))
            except Refusal as error:
                if not again or error.trouble != Trouble.WRONG_TIME:
                    raise
            # Refused for its time, so never carried out: our clocks differ.
            await self.venue_ms()

    async def venue_ms(self) -> int:
        """The venue's clock, and ours set by it. Raises as `BinanceClient.request` does."""
        await self.client.load_time_difference()
        return int(self.client.nonce())

    async def asked(self, path: str, method: str, params: dict[str, Any], **more: Any) -> Any:
        """Make a request that may be repeated, until it is answered. Raises `VenueError`."""
        for pause in (*RETRY_S, None):
            try:
                return await self.signed(path, method, dict(params), **more)
            except REQUEST_ERRORS as error:
                again = trouble_of(error) in (Trouble.IN_DOUBT, Trouble.OVERLOADED)
                if pause is None or not again:
                    raise VenueError(f"{method} {path}: {error}") from error
                await asyncio.sleep(pause)

    # The venue's books

    async def open_orders(self) -> list[OpenOrder]:
        """Every open order of the symbol. Raises `VenueError`."""
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
            for view in await self.asked("openOrders", "get", {})
        ]

    async def holdings(self) -> Holdings:
        """Position and balances; on spot the position is the base asset held. Raises `VenueError`."""
        if self.market.futures:
            balances = await self.asked("balance", "get", {}, version="V3", symbol=False)
            positions = await self.asked("positionRisk", "get", {}, version="V3")
            size = sum((Decimal(found["positionAmt"]) for found in positions), Decimal(0))
            held = {found["asset"]: found.get("balance") or found["walletBalance"] for found in balances}
            return Holdings(size=f"{size:f}", balances=held)
        account = await self.asked("account", "get", {}, symbol=False)
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
        """What the account pays; None where the venue does not say. Raises `VenueError`."""
        if self.market.futures:
            found = await self.asked("commissionRate", "get", {})
            maker, taker = found["makerCommissionRate"], found["takerCommissionRate"]
            return Terms(maker_fee_bp=float(maker) * 1e4, taker_fee_bp=float(taker) * 1e4)
        found = await self.asked("account/commission", "get", {})
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

    async def check_account(self) -> None:
        """Raise `VenueError` where the account cannot trade as a desk does."""
        if self.market.futures:
            found = await self.asked("accountConfig", "get", {}, symbol=False)
            if found.get("dualSidePosition"):
                raise VenueError(
                    "the account is in hedge mode, where each side has a position of its own: a desk needs "
                    "one-way mode (Binance: Preferences, Position Mode)"
                )
        else:
            found = await self.asked("account", "get", {}, symbol=False)
        if not found.get("canTrade", True):
            raise VenueError("the account may not trade now: look at its restrictions at the venue")

    async def price_of(self, asset: str) -> str:
        """What an asset is worth in the quote asset, decimal text. Raises `VenueError`."""
        symbol = f"{asset}{self.instrument.quote}"
        return str((await self.public("ticker/price", {"symbol": symbol}))["price"])

    async def next_funding_ms(self) -> int:
        """When funding is paid next, by the venue's clock; 0 if never. Raises `VenueError`."""
        found = await self.public("premiumIndex", {"symbol": self.instrument.symbol})
        return int(found.get("nextFundingTime") or 0)

    async def funding(self, after_ms: int) -> list[Funding]:
        """Payments of funding later than that, oldest first. Raises `VenueError`."""
        found: list[Funding] = []
        while True:
            asked = {"incomeType": "FUNDING_FEE", "startTime": after_ms + 1, "limit": PAGE}
            views = await self.asked("income", "get", asked)
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

    async def public(self, path: str, params: dict[str, Any]) -> Any:
        """A request without a signature that may be repeated. Raises `VenueError`."""
        for pause in (*RETRY_S, None):
            try:
                return await self.client.request(path, [self.market.public], "GET", params)
            except REQUEST_ERRORS as error:
                if pause is None or trouble_of(error) not in (Trouble.IN_DOUBT, Trouble.OVERLOADED):
                    raise VenueError(f"get {path}: {error}") from error
                await asyncio.sleep(pause)

    async def order(self, params: dict[str, Any]) -> dict[str, Any] | None:
        """An order as the venue shows it, None if it knows none. Raises `VenueError`."""
        try:
            return await self.asked("order", "get", params)
        except VenueError as error:
            if error.__cause__ is not None and trouble_of(error.__cause__) == Trouble.UNKNOWN_ORDER:
                return None
            raise

    async def trades(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        """Our trades, as the venue shows them. Raises `VenueError`."""
        return await self.asked(self.market.trades, "get", params)

    # How it is written

    def order_params(self, order: Order) -> dict[str, Any]:
        """An order as the venue is asked for it."""
        params: dict[str, Any] = {
            "side": "BUY" if order.side == BUY else "SELL",
            "type": "MARKET" if order.kind == "market" else "LIMIT",
            "quantity": f"{order.lots * self._lot:f}",
            "newClientOrderId": order.client_id,
            "newOrderRespType": "RESULT",
        }
        if order.kind == "limit":
            params["price"] = f"{order.tick * self._tick:f}"
            name, value = self.market.maker if order.post_only else ("timeInForce", "GTC")
            params[name] = value
        if order.reduce_only and self.market.futures:
            params["reduceOnly"] = "true"
        return params

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

    def ticks(self, price: str) -> int:
        """A price in ticks."""
        return round(Decimal(price) / self._tick)

    def lots(self, size: str) -> int:
        """A size in lots."""
        return round(Decimal(size) / self._lot)
