"""Bybit through ccxt: one client class for the real servers and for others of the same protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from mmenv.data.source import FEES_BP
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Trouble
from mmenv.live.throttle import ORDERS, WEIGHT, RateLimit
from mmenv.live.venues.bybit.errors import TABLE
from mmenv.live.venues.bybit.market import Market
from mmenv.live.venues.client import Call, VenueClient, trimmed
from mmenv.live.venues.refusal import Refusal
from mmenv.live.venues.requests import RECV_WINDOW_MS
from mmenv.times import MILLISECOND, SECOND

import ccxt.pro  # isort: skip

BAN_S: Final = 600.0
"""How long an address is refused at least that has asked too often."""
CREATE: Final = "v5/order/create"
REQUESTS: Final = RateLimit(WEIGHT, 600, 5.0)
"""What an address may ask. https://bybit-exchange.github.io/docs/v5/rate-limit"""


class BybitClient(VenueClient, ccxt.pro.bybit):  # type: ignore[misc]
    """See `mmenv.live.venues.client.VenueClient`."""

    errors = TABLE
    bans_all = True

    def __init__(self, market: Market, **more: Any) -> None:
        super().__init__(market, {"recvWindow": RECV_WINDOW_MS}, **more)
        if not self.throttle.limits:
            self._allow(market.orders_a_second)

    def _allow(self, orders: int) -> None:
        self.throttle.limits = [REQUESTS, RateLimit(ORDERS, orders, 1.0)]

    def local_urls(self, url: str) -> dict[str, Any]:
        stream = url.replace("http", "ws", 1)
        public = {name: f"{stream}/v5/public/{name}" for name in ("spot", "linear", "inverse")}
        names = ("public", "private", "spot", "futures", "v2")
        private = f"{stream}/v5/private"
        return dict.fromkeys(names, url) | {"ws": {"public": public, "private": {"contract": private}}}

    def call(self, method: str, path: str, params: Mapping[str, Any]) -> Call:
        reducing = "cancel" in path or bool(params.get("reduceOnly"))
        return Call(1, int(path == CREATE), reducing=reducing)

    def count(self, headers: Mapping[str, str], url: str) -> None:
        limit, left = headers.get("x-bapi-limit", ""), headers.get("x-bapi-limit-status", "")
        if CREATE in url and limit.isdigit() and left.isdigit():
            self._allow(int(limit))
            self.throttle.counted(ORDERS, 1.0, int(limit) - int(left))

    def error_of(self, status: int, reason: str, found: Mapping[str, Any]) -> tuple[int, str] | None:
        code = int(found.get("retCode", 0))
        if status < 400 and code == 0:
            return None
        return code, str(found.get("retMsg") or reason)

    def silent_until(self, error: Refusal, headers: Mapping[str, str]) -> int:
        if error.trouble == Trouble.TOO_OFTEN:
            return self.clock() + round(BAN_S * SECOND)
        reset = headers.get("x-bapi-limit-reset-timestamp", "")
        if reset.isdigit():
            # By the venue's clock, from which ours may differ.
            return (int(reset) - self.nonce()) * MILLISECOND + self.clock()
        return self.clock() + SECOND

    async def listed(self, symbol: str, anew: bool) -> Instrument | None:
        category = self.market.category
        answer = await self.ask("v5/market/instruments-info", {"category": category, "symbol": symbol})
        found = next((each for each in answer["list"] if each["symbol"] == symbol), None)
        if found is None:
            return None
        sizes, futures = found["lotSizeFilter"], self.market.futures
        lot = sizes["qtyStep"] if futures else sizes["basePrecision"]
        maker, taker = FEES_BP[self.venue]
        return Instrument(
            venue=self.venue,
            symbol=symbol,
            tick_size=trimmed(found["priceFilter"]["tickSize"]),
            lot_size=trimmed(lot),
            maker_fee_bp=maker,
            taker_fee_bp=taker,
            base=found["baseCoin"],
            reduces=futures,
            max_orders=self.throttle.share(10.0),
            quote=found["quoteCoin"],
            status="" if found["status"] == "Trading" else str(found["status"]),
            min_lots=math.ceil(Decimal(sizes["minOrderQty"]) / Decimal(lot)),
            min_notional=sizes.get("minNotionalValue") or sizes.get("minOrderAmt") or "0",
        )

    async def ask(self, path: str, params: Mapping[str, Any]) -> Any:
        """The result of a question that needs no key."""
        return (await self.request(path, ["public"], "GET", params))["result"]

    def market_url(self, index: int) -> str:
        # What is behind the # stays here.
        return f"{self.stream_url('public', self.market.category)}#{index}"

    def stream_url(self, kind: str, name: str) -> str:
        """Address of a stream, "public" or "private", by ccxt's name."""
        return str(self.implode_hostname(self.urls["api"]["ws"][kind][name]))
