"""Hyperliquid through ccxt: one client class for the real servers and for others of the same protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from mmenv.checks import ConfigError
from mmenv.data.source import FEES_BP
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Trouble
from mmenv.live.throttle import WEIGHT, RateLimit
from mmenv.live.venues.base import Credentials
from mmenv.live.venues.client import Call, VenueClient, trimmed
from mmenv.live.venues.hyperliquid.errors import TABLE
from mmenv.live.venues.hyperliquid.market import Market
from mmenv.live.venues.refusal import Refusal
from mmenv.live.venues.requests import RECV_WINDOW_MS
from mmenv.times import SECOND

import ccxt.pro  # isort: skip

LIMIT: Final = RateLimit(WEIGHT, 1_200, 60.0)
"""What an address of the network may ask. An account may send as many requests as it has traded USDC, which
nothing says until they are used up."""
LIGHT: Final = ("l2Book", "allMids", "clearinghouseState", "orderStatus", "exchangeStatus")
"""Questions that weigh 2; others weigh 20."""
THROTTLED_S: Final = 10.0
"""An account that has used up its requests may send one in so long."""
BAN_S: Final = 60.0
ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
PRIVATE_KEY: Final = re.compile(r"(?:0x)?[0-9a-fA-F]{64}")


class HyperliquidClient(VenueClient, ccxt.pro.hyperliquid):  # type: ignore[misc]
    """See `mmenv.live.venues.client.VenueClient`."""

    errors = TABLE

    def __init__(self, market: Market, *, credentials: Credentials | None = None, **more: Any) -> None:
        super().__init__(market, {"timeDifference": 0}, credentials=credentials, **more)
        self.assets: dict[str, int] = {}
        """The venue's numbers of symbols."""
        if credentials is not None:
            if not (ADDRESS.fullmatch(credentials.key) and PRIVATE_KEY.fullmatch(credentials.secret)):
                raise ConfigError(
                    "hyperliquid needs the account's address (0x and 40 hexadecimal digits) for a key, and "
                    "the private key of a wallet that may trade for it (64 of them) for a secret."
                )
            self.walletAddress, self.privateKey = credentials.key, credentials.secret
        if not self.throttle.limits:
            self.throttle.limits = [LIMIT]

    def nonce(self) -> int:
        """The venue's time in milliseconds."""
        return self.milliseconds() - int(self.options["timeDifference"])

    def local_urls(self, url: str) -> dict[str, Any]:
        return {"public": url, "private": url, "ws": {"public": f"{url.replace('http', 'ws', 1)}/ws"}}

    def call(self, method: str, path: str, params: Mapping[str, Any]) -> Call:
        if path == "info":
            return Call(2 if params.get("type") in LIGHT else 20)
        action = params.get("action", {})
        orders = action.get("orders", ())
        reducing = "ancel" in action.get("type", "") or any(order["r"] for order in orders)
        return Call(1, int(bool(orders)), reducing=reducing)

    def error_of(self, status: int, reason: str, found: Mapping[str, Any]) -> tuple[int, str] | None:
        said, answer = found.get("status"), found.get("response")
        if said == "err" or said == "unknownOid" or "error" in found:
            return 0, str(answer or found.get("error") or said)
        if status >= 400:
            return 0, reason
        data = answer.get("data", {}) if isinstance(answer, dict) else {}
        for each in (*data.get("statuses", ()), data.get("status", {})):
            if isinstance(each, dict) and "error" in each:
                return 0, str(each["error"])
        return None

    def silent_until(self, error: Refusal, headers: Mapping[str, str]) -> int:
        seconds = THROTTLED_S if error.trouble == Trouble.TOO_MANY_ORDERS else BAN_S
        return self.clock() + round(seconds * SECOND)

    async def listed(self, symbol: str, anew: bool) -> Instrument | None:
        meta, contexts = await self.ask("metaAndAssetCtxs")
        self.assets = {found["name"]: number for number, found in enumerate(meta["universe"])}
        if symbol not in self.assets:
            return None
        number = self.assets[symbol]
        found, price = meta["universe"][number], contexts[number]["midPx"] or contexts[number]["markPx"]
        maker, taker = FEES_BP[self.venue]
        places = int(found["szDecimals"])
        # The step of prices changes at powers of ten; a desk keeps that of its start.
        least = self.market.decimals - places
        digits = self.market.digits - 1 - Decimal(price).adjusted()
        return Instrument(
            venue=self.venue,
            symbol=symbol,
            tick_size=trimmed(str(Decimal(1).scaleb(-max(min(digits, least), 0)))),
            lot_size=trimmed(str(Decimal(1).scaleb(-places))),
            maker_fee_bp=maker,
            taker_fee_bp=taker,
            base=symbol,
            quote=self.market.quote,
            min_notional=self.market.min_notional,
            status="delisted" if found.get("isDelisted") else "",
        )

    async def ask(self, kind: str, **more: Any) -> Any:
        """The answer to a question; none needs a key."""
        return await self.request("info", ["public"], "POST", {"type": kind, **more})

    async def act(self, action: dict[str, Any]) -> Any:
        """The answer to an action of the account, which is refused when it arrives too late."""
        nonce, until = self.incrementing_nonce(), self.nonce() + RECV_WINDOW_MS
        signature = self.sign_l1_action(action, nonce, None, until)
        told = {"action": action, "nonce": nonce, "signature": signature, "expiresAfter": until}
        return (await self.request("exchange", ["private"], "POST", told))["response"]

    def market_url(self, index: int) -> str:
        # What is behind the # stays here.
        return f"{self.urls['api']['ws']['public']}#{index}"
