"""Binance through ccxt: one client class for the real servers, the local exchange and the in-process one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from mmenv.data.source import FEES_BP
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Trouble
from mmenv.live.throttle import ORDERS, WEIGHT, RateLimit
from mmenv.live.venues.binance.errors import TABLE
from mmenv.live.venues.binance.market import Market
from mmenv.live.venues.client import Call, VenueClient, trimmed
from mmenv.live.venues.refusal import Refusal
from mmenv.times import MILLISECOND, SECOND

import ccxt.pro  # isort: skip

VALUES: Final = (("MIN_NOTIONAL", "notional"), ("NOTIONAL", "minNotional"))
"""Filters that name the smallest value of an order, and the name it has there."""
BAN_S: Final = 120.0
"""The shortest ban of an address, for an answer that does not say how long."""
_BANNED_UNTIL: Final = re.compile(r"banned until (\d{13})")
_ORDERS_PER: Final = re.compile(r"orders per (\d*) ?([A-Z]+)")
_UNIT_S: Final = {"S": 1, "M": 60, "H": 3_600, "D": 86_400}
"""Seconds in a unit of time, by its first letter."""


class BinanceClient(VenueClient, ccxt.pro.binance):  # type: ignore[misc]
    """See `mmenv.live.venues.client.VenueClient`."""

    errors = TABLE

    def __init__(self, market: Market, **more: Any) -> None:
        options = {
            "defaultType": market.kind,
            "defaultSubType": market.socket if market.futures else None,
            "fetchMarkets": {"types": [market.socket]},
            "fetchCurrencies": False,
        }
        super().__init__(market, options, **more)

    def local_urls(self, url: str) -> dict[str, Any]:
        return local_urls(url)

    def use_testnet(self) -> None:
        """See `VenueClient.use_testnet`; that of futures is called demo trading by now."""
        if self.market.futures:
            self.enable_demo_trading(True)
        else:
            super().use_testnet()

    def call(self, method: str, path: str, params: Mapping[str, Any]) -> Call:
        reducing = method == "DELETE" or str(params.get("reduceOnly", "")).lower() == "true"
        weight = self.market.weight(method, path, params)
        return Call(weight, int((method, path) == ("POST", "order")), reducing=reducing)

    def learn(self, path: str, found: Any) -> None:
        if path == "exchangeInfo":
            self.throttle.limits = _limits(found.get("rateLimits", ()))

    def count(self, headers: Mapping[str, str], url: str) -> None:
        for name, value in headers.items():
            kind, _, interval = name.removeprefix("x-mbx-").rpartition("-")
            kinds = {"used-weight": WEIGHT, "order-count": ORDERS}
            if kind in kinds and value.isdigit() and interval[:-1].isdigit():
                seconds = float(int(interval[:-1]) * _UNIT_S.get(interval[-1].upper(), 0))
                self.throttle.counted(kinds[kind], seconds, int(value))

    def error_of(self, status: int, reason: str, found: Mapping[str, Any]) -> tuple[int, str] | None:
        code = found.get("code", 0)
        if status < 400 and (not isinstance(code, int) or code in (0, 200) or "msg" not in found):
            return None
        return code if isinstance(code, int) else 0, str(found.get("msg", reason))

    def silent_until(self, error: Refusal, headers: Mapping[str, str]) -> int:
        if error.trouble == Trouble.TOO_MANY_ORDERS:
            wait = _ORDERS_PER.search(error.text)
            seconds = int(wait[1] or 1) * _UNIT_S.get(wait[2][0], 60) if wait is not None else 10
            return self.clock() + round(seconds * SECOND)
        if (after := headers.get("retry-after", "")).isdigit():
            return self.clock() + int(after) * SECOND
        if (until := _BANNED_UNTIL.search(error.text)) is not None:
            # By the venue's clock, from which ours may differ.
            return int(until[1]) * MILLISECOND - self.nonce() * MILLISECOND + self.clock()
        return self.clock() + round(BAN_S * SECOND)

    async def listed(self, symbol: str, anew: bool) -> Instrument | None:
        await self.load_markets(anew)
        found = next(iter(self.markets_by_id.get(symbol, ())), None)
        if found is None:
            return None
        info = found["info"]
        filters = {each["filterType"]: each for each in info["filters"]}
        maker, taker = FEES_BP[self.market.venue]
        contract = Decimal(info.get("contractSize", 1))
        return Instrument(
            venue=self.market.venue,
            symbol=symbol,
            tick_size=trimmed(filters["PRICE_FILTER"]["tickSize"]),
            lot_size=trimmed(str(Decimal(filters["LOT_SIZE"]["stepSize"]) * contract)),
            contract_size=str(contract),
            inverse=bool(found["inverse"]),
            status="" if found["active"] else str(info.get("status") or info.get("contractStatus", "closed")),
            maker_fee_bp=maker,
            taker_fee_bp=taker,
            base=found["base"],
            reduces=self.market.futures,
            max_orders=self.throttle.share(10.0),
            quote=found["quote"],
            min_lots=math.ceil(
                Decimal(filters["LOT_SIZE"]["minQty"]) / Decimal(filters["LOT_SIZE"]["stepSize"])
            ),
            min_notional=next((each[name] for kind, name in VALUES if (each := filters.get(kind))), "0"),
        )

    def market_url(self, index: int) -> str:
        return f"{self.get_ws_url(self.market.socket, 'public')}/{index}"

    async def depth(self, symbol: str) -> dict[str, Any]:
        """A REST snapshot of the book, as the venue sends it."""
        return await self.request("depth", [self.market.public], "GET", {"symbol": symbol, "limit": 1000})


def local_urls(url: str) -> dict[str, Any]:
    """ccxt's addresses at a local exchange (`mmenv.exchange.exchange`)."""
    base = url.rstrip("/")
    stream = base.replace("http", "ws", 1)
    return {
        "public": f"{base}/api/v3",
        "private": f"{base}/api/v3",
        "sapi": f"{base}/sapi/v1",
        "fapiPublic": f"{base}/fapi/v1",
        "fapiPrivate": f"{base}/fapi/v1",
        "fapiPrivateV2": f"{base}/fapi/v2",
        "fapiPrivateV3": f"{base}/fapi/v3",
        "dapiPublic": f"{base}/dapi/v1",
        "dapiPrivate": f"{base}/dapi/v1",
        "ws": {
            # ccxt tells spot from futures by "/stream" in the address.
            "spot": f"{stream}/stream.spot/ws",
            "linear": f"{stream}/fstream/ws",
            "inverse": f"{stream}/dstream/ws",
            "ws-api": {"spot": f"{stream}/ws-api/v3", "linear": f"{stream}/ws-fapi/v1"},
        },
    }


def _limits(found: Iterable[Mapping[str, Any]]) -> list[RateLimit]:
    """Binance's `rateLimits`."""
    kinds = {"REQUEST_WEIGHT": WEIGHT, "ORDERS": ORDERS}
    return [
        RateLimit(
            kinds[each["rateLimitType"]],
            int(each["limit"]),
            float(int(each["intervalNum"]) * _UNIT_S[each["interval"][0]]),
        )
        for each in found
        if each["rateLimitType"] in kinds
    ]
