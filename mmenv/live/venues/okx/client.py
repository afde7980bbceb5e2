"""OKX through ccxt: one client class for the real servers and for others of the same protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from mmenv.data.source import FEES_BP
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import VenueError
from mmenv.live.throttle import ORDERS, WEIGHT, RateLimit
from mmenv.live.venues.client import Call, VenueClient, trimmed
from mmenv.live.venues.okx.errors import TABLE
from mmenv.live.venues.okx.market import Market
from mmenv.live.venues.refusal import Refusal
from mmenv.live.venues.requests import RECV_WINDOW_MS
from mmenv.times import SECOND

import ccxt.pro  # isort: skip

WINDOW_S: Final = 2.0
"""OKX counts requests of each kind in so long, and refuses those that are too many until it is over."""
LIMITS: Final = (RateLimit(WEIGHT, 60, WINDOW_S), RateLimit(ORDERS, 60, WINDOW_S))
WEIGHTS: Final = {
    "account/balance": 6, "account/positions": 6, "account/config": 12, "account/trade-fee": 12,
    "account/bills": 12, "account/bills-archive": 24, "trade/cancel-all-after": 30,
}  # fmt: skip
"""What takes more of the window than a sixtieth."""
SUBMIT: Final = "trade/order"


class OkxClient(VenueClient, ccxt.pro.okx):  # type: ignore[misc]
    """See `mmenv.live.venues.client.VenueClient`."""

    errors = TABLE

    def __init__(self, market: Market, **more: Any) -> None:
        super().__init__(market, {}, **more)
        if not self.throttle.limits:
            self.throttle.limits = LIMITS

    def local_urls(self, url: str) -> dict[str, Any]:
        return {"rest": url, "ws": f"{url.replace('http', 'ws', 1)}/ws/v5"}

    def call(self, method: str, path: str, params: Mapping[str, Any]) -> Call:
        submits = (method, path) == ("POST", SUBMIT)
        reducing = "cancel" in path or bool(submits and params.get("reduceOnly"))
        return Call(WEIGHTS.get(path, 1), int(submits), reducing=reducing)

    def sign(self, path: str, api: Any = "public", method: str = "GET", params: Any = None) -> Any:
        """ccxt's, and for an order when it is too late to carry it out."""
        signed = super().sign(path, api, method, params if params is not None else {})
        if (method, path) == ("POST", SUBMIT):
            signed["headers"]["expTime"] = str(int(self.nonce()) + RECV_WINDOW_MS)
        return signed

    def error_of(self, status: int, reason: str, found: Mapping[str, Any]) -> tuple[int, str] | None:
        code = str(found.get("code", "0"))
        if status < 400 and code in ("0", "2"):
            return None
        # What is wrong with each of the things that were asked for.
        failed = next((each for each in found.get("data") or () if str(each.get("sCode", "0")) != "0"), None)
        if failed is not None:
            return int(failed["sCode"]), str(failed.get("sMsg", ""))
        return int(code) if code.isdigit() else 0, str(found.get("msg") or reason)

    def silent_until(self, error: Refusal, headers: Mapping[str, str]) -> int:
        return self.clock() + round(WINDOW_S * SECOND)

    async def listed(self, symbol: str, anew: bool) -> Instrument | None:
        named = {"instType": self.market.kind, "instId": symbol}
        found = next((each for each in await self.ask("public/instruments", named)), None)
        if found is None:
            return None
        if self.market.futures and found["ctType"] != "linear":
            raise VenueError(
                f"{self.venue} pays {symbol} in the coin itself, which a desk trades at binance-coinm alone: "
                f"take a linear one, such as {self.market.example}."
            )
        contract = Decimal(found["ctVal"]) if self.market.futures else Decimal(1)
        maker, taker = FEES_BP[self.venue]
        return Instrument(
            venue=self.venue,
            symbol=symbol,
            tick_size=trimmed(found["tickSz"]),
            lot_size=trimmed(str(Decimal(found["lotSz"]) * contract)),
            contract_size=trimmed(str(contract)),
            maker_fee_bp=maker,
            taker_fee_bp=taker,
            base=found["ctValCcy"] if self.market.futures else found["baseCcy"],
            reduces=self.market.futures,
            max_orders=self.throttle.share(10.0),
            quote=found["settleCcy"] if self.market.futures else found["quoteCcy"],
            status="" if found["state"] == "live" else str(found["state"]),
            min_lots=math.ceil(Decimal(found["minSz"]) / Decimal(found["lotSz"])),
        )

    async def ask(self, path: str, params: Mapping[str, Any]) -> Any:
        """The entries of the answer to a question that needs no key."""
        return (await self.request(path, ["public"], "GET", params))["data"]

    def market_url(self, index: int) -> str:
        # What is behind the # stays here.
        return f"{self.get_url('books')}#{index}"
