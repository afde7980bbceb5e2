"""A venue that floods: `python -m benchmarks.live_feed --port 8090 --rate 20000`.

Diff depth, trades and book tickers of one symbol in Binance's own JSON, or books and trades in Bybit's, over
a websocket, from a process of its own. It is told what to do by requests: `POST /rate?messages=N` per second
(its answer says how many messages have been sent), `POST /break?seconds=S`, which cuts all connections and
takes none for so long.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tyro
from aiohttp import WSMsgType, web

from mmenv.times import MILLISECOND, SECOND

MIDDLE: Final = 600_000
"""Mid, ticks."""
PUMP_S: Final = 0.001
MOST: Final = 400
"""Messages written at once, when the sender itself was late."""
STOPPED_S: Final = 1.0
"""A sender that is later than this was stopped, and does not make up for it."""
BEHIND: Final = 1 << 20
"""Bytes that the reader has not taken, beyond which nothing more is sent."""


def price(tick: int) -> str:
    """A price of so many ticks of 0.1, as text."""
    return f"{tick // 10}.{tick % 10}"


BID, ASK = price(MIDDLE - 1), price(MIDDLE + 1)


class Flood:
    """As many messages as it is told to send: two tickers and a trade to each diff, as USD-M words them."""

    def __init__(self, symbol: str, rate: float, seed: int = 0) -> None:
        self.symbol, self.rate = symbol, rate
        steps = np.random.default_rng(seed).integers(1, 200, (10_000, 3))
        self.steps = itertools.cycle(steps.tolist())
        self.sent = self.snapshots = 0
        self.update, self.trade = 1, 0
        self.back_ns = 0
        """When it takes connections again."""
        self.lines: list[asyncio.Transport] = []
        """Connections that are open."""

    def app(self) -> web.Application:
        """The server."""
        app = web.Application()
        app.router.add_post("/rate", self._change_rate)
        app.router.add_post("/break", self._break)
        for path, answer in self.routes().items():
            app.router.add_get(path, answer)
        return app

    def routes(self) -> dict[str, Any]:
        """What answers to which path."""
        return {
            "/fapi/v1/exchangeInfo": self._info,
            "/fapi/v1/depth": self._depth,
            "/sapi/{rest:.*}": self._nothing,
            "/fstream/{rest:.*}": self._stream,
        }

    def greeting(self) -> list[str]:
        """What is sent to somebody who subscribes, before anything else."""
        return ['{"result":null,"id":1}']

    async def _info(self, request: web.Request) -> web.Response:
        filters = [
            {"filterType": "PRICE_FILTER", "minPrice": "0.1", "maxPrice": "1000000", "tickSize": "0.1"},
            {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
        ]
        base, quote = self.symbol[:-4], self.symbol[-4:]
        symbol = {
            "symbol": self.symbol,
            "pair": self.symbol,
            "status": "TRADING",
            "contractType": "PERPETUAL",
        }
        symbol |= {"baseAsset": base, "quoteAsset": quote, "marginAsset": quote}
        symbol |= {"pricePrecision": 1, "quantityPrecision": 3, "deliveryDate": 4133404800000}
        symbol |= {"onboardDate": 1569398400000, "filters": filters}
        return web.json_response({"timezone": "UTC", "rateLimits": [], "symbols": [symbol]})

    async def _nothing(self, request: web.Request) -> web.Response:
        return web.json_response([])

    async def _depth(self, request: web.Request) -> web.Response:
        self._refuse_if_away()
        self.snapshots += 1
        stamp = time.time_ns() // MILLISECOND
        bids, asks = ([[price(MIDDLE + side * step), "5.000"] for step in range(1, 500)] for side in (-1, 1))
        answer = {"lastUpdateId": self.update, "E": stamp, "T": stamp, "bids": bids, "asks": asks}
        return web.json_response(answer)

    async def _change_rate(self, request: web.Request) -> web.Response:
        self.rate = float(request.query["messages"])
        return web.json_response({"sent": self.sent, "snapshots": self.snapshots})

    async def _break(self, request: web.Request) -> web.Response:
        self.back_ns = time.time_ns() + round(float(request.query["seconds"]) * SECOND)
        for line in self.lines:
            # As a broken line does: without a goodbye.
            line.abort()
        return web.json_response({"back_ns": self.back_ns})

    def _refuse_if_away(self) -> None:
        if time.time_ns() < self.back_ns:
            raise web.HTTPServiceUnavailable

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        self._refuse_if_away()
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        line, pump = request.transport, None
        assert line is not None
        self.lines.append(line)
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT and pump is None:
                    for text in self.greeting():
                        await socket.send_str(text)
                    pump = asyncio.create_task(self._pump(request))
        finally:
            self.lines.remove(line)
            if pump is not None:
                pump.cancel()
        return socket

    async def _pump(self, request: web.Request) -> None:
        """Send in step with the clock until cancelled."""
        transport = request.transport
        rate, began, sent = 0.0, 0.0, 0
        while transport is not None and not transport.is_closing():
            if rate != self.rate:
                rate, began, sent = self.rate, time.perf_counter(), 0
            due = int((time.perf_counter() - began) * rate) - sent
            if due > STOPPED_S * rate:
                began, sent, due = time.perf_counter(), 0, 0
            due = min(due, MOST)
            if due > 0 and transport.get_write_buffer_size() < BEHIND:
                transport.write(b"".join([framed(self.message()) for _ in range(due)]))
                sent += due
            await asyncio.sleep(PUMP_S)

    def message(self) -> bytes:
        """The next message: a diff of three levels, a trade, or a ticker."""
        stamp = time.time_ns() // MILLISECOND
        kind, symbol = self.sent % 4, self.symbol
        self.sent += 1
        if kind == 0:
            first, self.update = self.update + 1, self.update + 5
            bid, *asks = next(self.steps)
            data = (
                f'"depthUpdate","E":{stamp},"T":{stamp},"s":"{symbol}","U":{first},"u":{self.update},'
                f'"pu":{first - 1},"b":[["{price(MIDDLE - bid)}","4.000"]],'
                f'"a":[["{price(MIDDLE + asks[0])}","3.000"],["{price(MIDDLE + asks[1])}","3.000"]]'
            )
        elif kind == 1:
            self.trade += 1
            buy = self.trade & 1
            data = (
                f'"trade","E":{stamp},"T":{stamp},"s":"{symbol}","t":{self.trade},'
                f'"p":"{ASK if buy else BID}","q":"0.010","X":"MARKET","m":{"false" if buy else "true"}'
            )
        else:
            data = (
                f'"bookTicker","u":{self.update},"s":"{symbol}","b":"{BID}","B":"2.000","a":"{ASK}",'
                f'"A":"2.500","T":{stamp},"E":{stamp}'
            )
        return f'{{"e":{data}}}'.encode()


class BybitFlood(Flood):
    """As many messages as it is told to send: three changes of the book to each trade, as Bybit words it."""

    def routes(self) -> dict[str, Any]:
        return {"/v5/market/instruments-info": self._info, "/v5/public/linear": self._stream}

    async def _info(self, request: web.Request) -> web.Response:
        symbol = {
            "symbol": self.symbol, "status": "Trading", "baseCoin": self.symbol[:-4],
            "quoteCoin": self.symbol[-4:], "priceFilter": {"tickSize": "0.1"},
            "lotSizeFilter": {"qtyStep": "0.001", "minOrderQty": "0.001", "minNotionalValue": "5"},
        }  # fmt: skip
        return web.json_response({"retCode": 0, "retMsg": "OK", "result": {"list": [symbol]}})

    def greeting(self) -> list[str]:
        self.snapshots += 1
        bids, asks = (
            ",".join(f'["{price(MIDDLE + side * step)}","5.000"]' for step in range(1, 51))
            for side in (-1, 1)
        )
        return ['{"success":true,"ret_msg":"","op":"subscribe"}', self._book("snapshot", bids, asks)]

    def _book(self, kind: str, bids: str, asks: str) -> str:
        stamp, symbol, update = time.time_ns() // MILLISECOND, self.symbol, self.update
        return (
            f'{{"topic":"orderbook.50.{symbol}","type":"{kind}","ts":{stamp},"data":{{"s":"{symbol}",'
            f'"b":[{bids}],"a":[{asks}],"u":{update},"seq":{update}}},"cts":{stamp}}}'
        )

    def message(self) -> bytes:
        """The next message: a change of three levels, or a trade."""
        self.sent += 1
        if self.sent % 4:
            self.update += 1
            bid, *asks = (step % 49 + 2 for step in next(self.steps))
            levels = ",".join(f'["{price(MIDDLE + step)}","3.000"]' for step in asks)
            return self._book("delta", f'["{price(MIDDLE - bid)}","4.000"]', levels).encode()
        self.trade += 1
        stamp, buy = time.time_ns() // MILLISECOND, self.trade & 1
        deal = (
            f'"T":{stamp},"s":"{self.symbol}","S":"{"Buy" if buy else "Sell"}","v":"0.010",'
            f'"p":"{ASK if buy else BID}","i":"{self.trade:08x}-2290","BT":false'
        )
        topic = f'"topic":"publicTrade.{self.symbol}","type":"snapshot","ts":{stamp}'
        return f'{{{topic},"data":[{{{deal}}}]}}'.encode()


FLOODS: Final = {"binance-usdm": Flood, "bybit": BybitFlood}
"""By the venue whose protocol they speak."""


def framed(text: bytes) -> bytes:
    """A websocket text frame of a server (RFC 6455, 5.2)."""
    if len(text) < 126:
        return bytes((0x81, len(text))) + text
    return b"\x81\x7e" + len(text).to_bytes(2, "big") + text


@dataclass(frozen=True)
class Serve:
    """Flood whoever connects."""

    port: int
    """Port on loopback."""
    rate: float = 20_000
    """Messages per second."""
    venue: str = "binance-usdm"
    """Whose protocol it speaks, of FLOODS."""
    symbol: str = "BTCUSDT"
    """Name of the one symbol."""
    core: int | None = None
    """Processor to stay on."""

    def run(self) -> None:
        """Send until killed."""
        if self.core is not None:
            import os

            os.sched_setaffinity(0, {self.core})
        app: Any = FLOODS[self.venue](self.symbol, self.rate).app()
        web.run_app(app, host="127.0.0.1", port=self.port, print=None, access_log=None, shutdown_timeout=0.1)


if __name__ == "__main__":
    tyro.cli(Serve).run()
