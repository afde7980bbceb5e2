"""News of our orders as Binance tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from mmenv.live.orders import LOST, Trouble
from mmenv.live.redact import hide
from mmenv.live.venues.binance.client import BinanceClient
from mmenv.live.venues.binance.errors import TABLE
from mmenv.live.venues.binance.requests import ENDS, BinanceRequests
from mmenv.live.venues.news import Ended, News, NotTaken, OrderView, Paid, Report
from mmenv.live.venues.refusal import refusal
from mmenv.live.venues.requests import REQUEST_ERRORS, trouble_of
from mmenv.live.venues.user_stream import UserStream
from mmenv.times import MILLISECOND


class BinanceUserStream(UserStream):
    """See `mmenv.live.venues.user_stream.UserStream`."""

    requests: BinanceRequests
    client: BinanceClient

    async def address(self) -> tuple[str, Any]:
        client = self.client
        if client.market.futures:
            answer = await client.request("listenKey", [client.market.private], "POST")
            hide(answer["listenKey"])
            return client.get_private_ws_url(client.market.socket, answer["listenKey"]), None
        url = client.urls["api"]["ws"]["ws-api"][client.market.socket]
        method = "userDataStream.subscribe.signature"
        return url, {"id": "user", "method": method, "params": client.sign_params({})}

    async def keep_alive(self) -> None:
        while self.client.market.futures:
            await asyncio.sleep(self.keep_alive_s)
            try:
                await self.client.request("listenKey", [self.client.market.private], "PUT")
            except REQUEST_ERRORS as error:
                if trouble_of(error) == Trouble.LOST_STREAM:
                    self.cut("the key of the stream is not valid any more")

    def read(self, message: Any) -> Iterable[News] | None:
        message = message.get("event", message)
        kind = message.get("e")
        if "error" in message:
            return [Ended(str(message["error"]))]
        if kind in ("ORDER_TRADE_UPDATE", "executionReport"):
            return self._report(message["o"] if kind == "ORDER_TRADE_UPDATE" else message)
        if kind == "ACCOUNT_UPDATE" and message["a"].get("m") == "FUNDING_FEE":
            return [Paid()]
        if kind in ("listenKeyExpired", "eventStreamTerminated"):
            return [Ended(str(kind))]
        return []

    def _report(self, report: dict[str, Any]) -> Iterable[News]:
        requests = self.requests
        if report["s"] != requests.instrument.symbol:
            return []
        what = report["x"]
        # A cancel has a client id of its own; the order's is then C.
        client_id = report.get("C") or report["c"] if what == "CANCELED" else report["c"]
        if what == "REJECTED":
            error = refusal(TABLE, LOST, str(report.get("r", "")))
            return [NotTaken(client_id, LOST, error.text, error.trouble)]
        fill = None
        if what == "TRADE":
            view = {
                "id": report["t"], "orderId": report["i"], "price": report["L"], "qty": report["l"],
                "commission": report.get("n") or "0", "commissionAsset": report.get("N") or "",
                "time": report["T"], "maker": report["m"], "side": report["S"],
            }  # fmt: skip
            fill = requests.fill(view, client_id)
        order = OrderView(
            client_id=client_id,
            order_id=int(report["i"]),
            lots=requests.lots(report["q"]),
            filled=requests.lots(report["z"]),
            end=ENDS.get(report["X"]),
            exch_ns=int(report["T"]) * MILLISECOND,
        )
        return [Report(order, fill)]
