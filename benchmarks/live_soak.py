"""A paper desk under a flood: `python -m benchmarks.live_soak --rate 20000 --seconds 600`.

The venue (`benchmarks.live_feed`) is a process on a processor of its own, the websocket a real one. What is
received is decoded, checked, journalled, matched and decided on in this process and thread. Prints memory and
tick to quote (from the time of a decision until its orders are on their way; p50, p99, p99.9 and worst) every
ten seconds; at the end, whether every message sent was decoded. Then the connection is broken a few times
and it is measured how long after the venue's return the book is whole again.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import numpy as np
import tyro

from examples.paper import free_port, until_open
from mmenv.live.desk import LiveDesk
from mmenv.live.plan import Plan
from mmenv.live.venues.base import VENUES
from mmenv.live.venues.feed import StreamFeed
from mmenv.market.live import Live
from mmenv.times import SECOND
from train.live import choose, run_loop

SYMBOL = "BTCUSDT"
SETTLING_S = 10.0
"""Before memory and latency count: caches fill, and ccxt's start is not the flood."""
BREAK_S = 1.0
STOPPED_S = 1.0
"""A process that gets no processor for so long was stopped from outside: that is not the desk's latency."""


class Stops:
    """When this process was stopped, as by a signal; what it met just then is left out and made up for."""

    def __init__(self, desk: LiveDesk) -> None:
        self.desk = desk
        self.count, self.seconds = 0, 0.0

    async def watch(self) -> None:
        """Watch until cancelled."""
        while True:
            wall, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.05)
            passed = time.perf_counter() - wall
            # A loop that is merely busy uses the time itself.
            if passed > STOPPED_S and time.process_time() - cpu < passed / 10:
                await asyncio.sleep(STOPPED_S)
                self.count, self.seconds = self.count + 1, self.seconds + passed + STOPPED_S
                self.desk.latencies.clear()
                self.desk.work.clear()


@dataclass(frozen=True)
class Soak:
    """Flood a paper desk."""

    rate: int = 20_000
    """Messages per second."""
    venue: Literal["binance-usdm", "bybit"] = "binance-usdm"
    """Whose protocol they are in."""
    seconds: float = 60.0
    """Duration of the flood."""
    policy: str = "fixed-spread"
    """A bundle (policy.mmz), or the name of a policy; fixed-spread quotes one price unit from the mid."""
    breaks: int = 5
    """How often the connection is broken afterwards."""

    def run(self) -> None:
        """Print a line every ten seconds and the result."""
        port, cores = free_port(), sorted(os.sched_getaffinity(0))
        command = [
            sys.executable,
            "-m",
            "benchmarks.live_feed",
            "--port",
            str(port),
            "--rate",
            str(self.rate),
            "--venue",
            self.venue,
        ]
        if len(cores) > 1:
            os.sched_setaffinity(0, {cores[0]})
            command += ["--core", str(cores[1])]
        venue = subprocess.Popen(command)
        try:
            until_open(port)
            run_loop(self._run(f"http://127.0.0.1:{port}"))
        finally:
            venue.terminate()
            venue.wait()

    async def _run(self, url: str) -> None:
        venue = VENUES.find(self.venue)(url)
        feed = venue.feed(SYMBOL)
        assert isinstance(feed, StreamFeed)
        parameters = {"half_spread": 1.0} if self.policy == "fixed-spread" else {}
        chosen = choose(self.policy, parameters, Live(venue=self.venue, symbol=SYMBOL), None, None)
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(
                config=chosen.config, policy=chosen.name, venue=self.venue, symbol=SYMBOL,
                folder=Path(folder), price_unit=2, lot_unit=100.0, warm_up_s=1.0,
            )  # fmt: skip
            desk = LiveDesk(plan, chosen.player(), feed, realtime=True)
            task = asyncio.create_task(desk.run())
            async with aiohttp.ClientSession(url) as session:
                await self._soak(desk, feed, task, session)
                await self._breaks(feed, session)
            desk.stop("the soak is over")
            await task
        await venue.close()

    async def _soak(
        self, desk: LiveDesk, feed: StreamFeed, task: asyncio.Task[None], session: aiohttp.ClientSession
    ) -> None:
        await asyncio.sleep(SETTLING_S)
        desk.latencies.clear()
        desk.work.clear()
        latencies: list[float] = []
        work: list[float] = []
        stops = Stops(desk)
        stopping = asyncio.create_task(stops.watch())
        at_first, began, cpu, received = memory(), time.perf_counter(), time.process_time(), feed.messages
        while (left := self.seconds - (time.perf_counter() - began - stops.seconds)) > 0.01:
            slice_s = min(10.0, left)
            asleep = time.perf_counter()
            await asyncio.wait((task,), timeout=slice_s)
            if task.done():
                break
            if time.perf_counter() - asleep > slice_s + STOPPED_S:
                # Until what was late by the stop is cleared.
                await asyncio.sleep(2 * STOPPED_S)
            latencies += desk.latencies
            work += desk.work
            desk.latencies.clear()
            desk.work.clear()
            so_far = " / ".join(f"{value:.3f}" for value in spread(latencies))
            print(
                f"{time.perf_counter() - began - stops.seconds:6.0f} s  {feed.messages:>12,} messages  "
                f"tick to quote so far {so_far} ms  memory {memory():.0f} MB",
                flush=True,
            )
        stopping.cancel()
        taken, busy = time.perf_counter() - began - stops.seconds, time.process_time() - cpu
        rate = (feed.messages - received) / taken
        at_last = memory()
        told = await self._ask(session, "/rate", messages=0)
        await asyncio.sleep(1.0)
        # Beside the stream there are the answer to the subscription and the snapshots.
        lost = told["sent"] - (feed.messages - 1 - told["snapshots"])
        found = desk.session
        assert found is not None
        print(
            f"{told['sent']:,} messages sent, {lost} lost, problems {feed.counts}; {rate:,.0f} a second for "
            f"{taken:.0f} s at {busy / taken:.0%} of one core; memory {at_first:.0f} to {at_last:.0f} MB"
        )
        if stops.count:
            print(f"stopped from outside {stops.count} times, {stops.seconds:.0f} s, which are left out")
        print(f"{desk.rows:,} rows, {len(latencies):,} decisions, {found.fills} fills")
        for name, values in (("tick to quote", latencies), ("of which the decision itself", work)):
            median, p99, p999, worst = spread(values)
            print(f"{name}: p50 {median:.3f}, p99 {p99:.3f}, p99.9 {p999:.3f}, worst {worst:.3f} ms")

    async def _breaks(self, feed: StreamFeed, session: aiohttp.ClientSession) -> None:
        """Break the connection at a tenth of the rate, and see how long the book takes to be whole again."""
        await self._ask(session, "/rate", messages=self.rate / 10)
        found = []
        for _ in range(self.breaks):
            await asyncio.sleep(2.0)
            back_ns = (await self._ask(session, "/break", seconds=BREAK_S))["back_ns"]
            while time.time_ns() < back_ns or feed.reason:
                await asyncio.sleep(0.001)
            found.append((time.time_ns() - back_ns) / SECOND)
        if found:
            print(
                f"book whole again after the venue's return, {len(found)} breaks of {BREAK_S:g} s: "
                f"median {np.median(found):.3f} s, worst {max(found):.3f} s"
            )

    async def _ask(self, session: aiohttp.ClientSession, path: str, **query: float) -> Any:
        async with session.post(path, params={name: str(value) for name, value in query.items()}) as answer:
            return await answer.json()


def spread(seconds: Any) -> tuple[float, ...]:
    """Milliseconds: median, 99%, 99.9% and largest."""
    if not len(seconds):
        return (0.0,) * 4
    return tuple(float(1e3 * value) for value in np.quantile(np.array(seconds), (0.5, 0.99, 0.999, 1.0)))


def memory() -> float:
    """Resident now, MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    tyro.cli(Soak).run()
