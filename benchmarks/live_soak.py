"""A paper desk under a flood: `python -m benchmarks.live_soak --rate 20000 --seconds 600`.

Messages in Binance's own JSON go through the feed's decoder, the journal, the book, the paper exchange and a
trained network's worth of decisions, all in this one process and thread. Prints what was received, tick to
quote (from the time of a decision until its orders are on their way) and memory every ten seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from mmenv import make_config
from mmenv.live.desk import LiveDesk, Plan
from mmenv.live.feed import Feed
from mmenv.live.screen import quantiles
from mmenv.live.venue import Instrument, VenueClient
from mmenv.market.live import Live
from policies.base import make_policy
from train.live import Solo

MIDDLE = 600_000
"""Mid, ticks."""
INSTRUMENT = Instrument("binance-usdm", "BTCUSDT", "0.1", "0.001", 2.0, 5.0, "BTC", "USDT")
PUMP_S = 0.001
SLICE = 20
"""Largest number of messages handed over at once."""


class Flood(VenueClient):
    """A venue that sends as many messages as it is told to: two tickers and a trade to each diff."""

    def __init__(self, rate: int, seed: int = 0) -> None:
        super().__init__("binance-usdm")
        self.rate = rate
        steps = np.random.default_rng(seed).integers(1, 200, (10_000, 3))
        self.steps = itertools.cycle(steps.tolist())
        self.sent = 0
        self.update, self.trade = 1, 0

    async def instrument(self, symbol: str) -> Instrument:
        return INSTRUMENT

    async def depth(self, symbol: str) -> dict[str, Any]:
        stamp = time.time_ns() // 1_000_000
        levels = [[[price(MIDDLE + side * step), "5.000"] for step in range(1, 500)] for side in (-1, 1)]
        return {
            "lastUpdateId": self.update,
            "E": stamp,
            "T": stamp,
            "bids": levels[0],
            "asks": levels[1],
        }

    async def watch(self, url: str, *_: Any) -> None:
        """Send until cancelled, in step with the clock."""
        take = self.takers[url]
        began = time.perf_counter()
        while True:
            due = int((time.perf_counter() - began) * self.rate)
            for _ in range(min(due - self.sent, SLICE)):
                take(self.message())
                self.sent += 1
            await asyncio.sleep(PUMP_S if self.sent >= due else 0)

    def message(self) -> str:
        """The next message: a diff of three levels, a trade, or a ticker."""
        stamp = time.time_ns() // 1_000_000
        kind = self.sent % 4
        if kind == 0:
            first, self.update = self.update + 1, self.update + 5
            bid, *asks = next(self.steps)
            data = (
                f'"depthUpdate","E":{stamp},"T":{stamp},"s":"BTCUSDT","U":{first},"u":{self.update},'
                f'"pu":{first - 1},"b":[["{price(MIDDLE - bid)}","4.000"]],'
                f'"a":[["{price(MIDDLE + asks[0])}","3.000"],["{price(MIDDLE + asks[1])}","3.000"]]'
            )
            name = "depth@0ms"
        elif kind == 1:
            self.trade += 1
            buy = self.trade & 1
            data = (
                f'"trade","E":{stamp},"T":{stamp},"s":"BTCUSDT","t":{self.trade},'
                f'"p":"{ASK if buy else BID}","q":"0.010","X":"MARKET","m":{"false" if buy else "true"}'
            )
            name = "trade"
        else:
            data = (
                f'"bookTicker","u":{self.update},"s":"BTCUSDT","b":"{BID}","B":"2.000","a":"{ASK}",'
                f'"A":"2.500","T":{stamp},"E":{stamp}'
            )
            name = "bookTicker"
        return f'{{"stream":"btcusdt@{name}","data":{{"e":{data}}}}}'


def price(tick: int) -> str:
    """A price of so many ticks, as text."""
    return f"{tick // 10}.{tick % 10}"


BID, ASK = price(MIDDLE - 1), price(MIDDLE + 1)


@dataclass(frozen=True)
class Soak:
    """Flood a paper desk."""

    rate: int = 20_000
    """Messages per second."""
    seconds: float = 60.0
    """How long."""
    policy: str = "fixed-spread"
    """A policy by name; its parameter is a half-spread of 1."""

    def run(self) -> None:
        """Print a line every ten seconds and the result."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        client = Flood(self.rate)
        feed = Feed("binance-usdm", "BTCUSDT", client=client)
        live = Live(venue="binance-usdm", symbol="BTCUSDT")
        config = make_config(live)
        player = Solo(make_policy(self.policy, config, half_spread=1.0))
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(
                config=config, policy=self.policy, venue="binance-usdm", symbol="BTCUSDT",
                folder=Path(folder), price_unit=2, lot_unit=100.0, warm_up_s=1.0,
            )  # fmt: skip
            desk = LiveDesk(plan, player, feed, realtime=True)
            task = asyncio.create_task(desk.run(self.seconds))
            began, cpu = time.perf_counter(), time.process_time()
            seen: list[float] = []
            while not task.done():
                await asyncio.wait((task,), timeout=10.0)
                latencies = list(desk.latencies)
                desk.latencies.clear()
                seen += latencies
                self._print(began, client, feed, desk, latencies)
            task.result()
            session = desk.session
            assert session is not None
            taken = time.perf_counter() - began
            size = plan.journal.stat().st_size / 1e6
            median, p99, worst = (1e3 * value for value in quantiles(seen))
            print(
                f"{client.sent:,} messages sent, {feed.messages:,} decoded in {taken:.0f} s "
                f"({client.sent / taken:,.0f}/s, {(time.process_time() - cpu) / taken:.0%} of one core), "
                f"problems {feed.counts}, {desk.rows:,} rows, {len(seen):,} decisions, "
                f"{session.fills} fills, journal {size:.0f} MB"
            )
            work = " / ".join(f"{1e3 * value:.3f}" for value in quantiles(desk.work))
            print(f"of which the decision itself: median / p99 / worst {work} ms")
            print(f"tick to quote: median {median:.3f} ms, p99 {p99:.3f} ms, worst {worst:.3f} ms")

    def _print(self, began: float, client: Flood, feed: Feed, desk: LiveDesk, latencies: list[float]) -> None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        p99 = quantiles(latencies)[1] * 1e3
        print(
            f"{time.perf_counter() - began:6.0f} s  {client.sent:>12,} messages  {desk.rows:>12,} rows  "
            f"p99 {p99:.3f} ms  peak memory {memory:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    tyro.cli(Soak).run()
