"""How soon a killed desk is back: `python -m benchmarks.recovery --days 7`.

A desk with real orders runs at the in-process exchange for a moment; its session then goes on without it,
for days of a random market at a steady rate, its orders acknowledged and cancelled as a venue does, so the
journal is one that a session of such a length has written. Then the desk is started again. Printed are
seconds from the start until the first request that cancels arrived, and until the first new order did: the
real time that passed and, besides, what the virtual clock let pass.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.chaos import LIMIT, SYMBOL, Wanderer, plan, random_store
from mmenv.data.rows import BBO, CLEAR, DEPTH, ROW, SNAPSHOT, TRADE
from mmenv.data.tape import Tape, tapes
from mmenv.engine.state import ACTIVE
from mmenv.exchange.books import Account, Listing
from mmenv.exchange.exchange import Exchange
from mmenv.exchange.loopback import Loopback, VirtualLoop
from mmenv.live.desk import LiveDesk
from mmenv.live.guard import GuardConfig
from mmenv.live.journal import Journal, parts
from mmenv.live.orders import Ack, Cancel
from mmenv.live.plan import Plan
from mmenv.live.rerun import recover
from mmenv.live.session import Session
from mmenv.live.venues.base import Credentials
from mmenv.live.venues.binance.feed import BinanceFeed
from mmenv.live.venues.binance.orders import BinanceOrders
from mmenv.times import DAY, SECOND

VENUE = "binance-usdm"
START_NS = 1_760_000_000 * SECOND
KEY = Credentials("key", "secret")


@dataclass(frozen=True)
class Recovery:
    """Write a long journal, and start a desk on it."""

    days: float = 7.0
    """Length of the journal."""
    step_seconds: float = 0.1
    """Time between two decisions."""
    rows: float = 50.0
    """Rows of market data a second."""
    drift: float = 0.0
    """Part of itself by which the price rises a day, while the desk is away."""

    def run(self) -> None:
        """Print the size of the journal and how long its recovery took."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            market = folder / "market"
            market.mkdir()
            [tape] = tapes(random_store(market), VENUE, SYMBOL)
            account = Account(KEY.key, KEY.secret)
            made = self._plan(folder)
            began, _, _ = start(made, tape, account, START_NS, 3.0)
            assert began is not None
            session = recover(made.journal, Wanderer())
            end_ns = self._go_on(session)
            assert isinstance(session.sink, Journal)
            session.sink.close()
            size = sum(file.stat().st_size for file in parts(made.journal))
            print(
                f"{self.days:g} days, {session.sink.frames:,} frames, {size / 1e6:,.0f} MB in "
                f"{len(parts(made.journal))} files"
            )
            desk, cancelled, quoted = start(made, tape, account, end_ns + 5 * SECOND, 30.0)
            print(f"first cancel after {cancelled:.2f} s, first order after {quoted:.2f} s")
            assert desk is not None
            print(f"position {desk.working.position}, {int(desk.decision['number']) + 1:,} decisions")

    def _plan(self, folder: Path) -> Plan:
        made = plan(folder / "desk", VENUE)
        market = replace(made.config.market, step_seconds=self.step_seconds)
        guard = GuardConfig(daily_loss=1e9, drawdown=1e9, position_limit=LIMIT)
        return replace(
            made,
            config=replace(made.config, market=market, horizon=1_000),
            guard=guard,
            rotate_mb=Plan.rotate_mb,
            snapshot_work=Plan.snapshot_work,
        )

    def _go_on(self, session: Session) -> int:
        """Let the session go on for days, snapshots and rotation as a desk makes them; when it ended."""
        rng, at_ns = np.random.default_rng(0), session.next_ns
        assert isinstance(session.sink, Journal)
        session.feed(True, "")
        session.operator("resume", "without a desk", at_ns)
        bid = int(session.view.outcome["best_bid_ticks"])
        end_ns, count = (
            at_ns + round(self.days * 86_400 * SECOND),
            max(round(self.rows * self.step_seconds), 3),
        )
        step_ns = session.setup.interval_ns
        snapshot_work, rotate = Plan.snapshot_work, round(Plan.rotate_mb * 1e6)
        first, active, moves = bid, 0, 0
        for now_ns in tqdm(range(at_ns, end_ns, step_ns), unit=" decisions"):
            bid = round(first * (1 + self.drift * (now_ns - at_ns) / DAY))
            rows = np.zeros(count, ROW)
            rows["local_ns"] = now_ns + np.sort(rng.integers(0, step_ns, count))
            rows["exch_ns"] = rows["local_ns"] - 2_000_000
            rows["kind"] = rng.choice((DEPTH, TRADE), count)
            rows["side"] = rng.choice((-1, 1), count)
            rows["price"] = np.where(rows["side"] > 0, bid, bid + 1)
            rows["price"] -= np.where(rows["kind"] == DEPTH, rows["side"] * rng.integers(0, 20, count), 0)
            rows["size"] = rng.integers(1, 50, count)
            rows["id"] = now_ns // 1_000 + np.arange(count)
            ticker = rows[-2:]
            ticker["kind"], ticker["side"], ticker["price"] = BBO, (1, -1), (bid, bid + 1)
            if session.distrust:
                moves += 1
                session.feed(False, session.distrust)
                session.take(_begun_anew(rows, bid))
                session.feed(True, "")
            session.take(rows)
            active += session.state == ACTIVE
            _answer(session)
            if session.work >= snapshot_work:
                session.snapshot()
            session.sink.rotate(now_ns, rotate)
        share = active / ((end_ns - at_ns) / step_ns)
        print(
            f"price {bid / first:.2f} of what it was, book begun anew {moves} times, ACTIVE {share:.1%} of "
            "time"
        )
        return end_ns


def _begun_anew(rows: np.ndarray, bid: int) -> np.ndarray:
    """The book anew, as a feed gives it before these rows."""
    book = np.zeros(41, ROW)
    book["local_ns"], book["exch_ns"] = rows["local_ns"][0], rows["exch_ns"][0]
    book["kind"], book["kind"][0] = SNAPSHOT, CLEAR
    book["side"][1:] = np.repeat((1, -1), 20)
    book["price"][1:] = np.concatenate([bid - np.arange(20), bid + 1 + np.arange(20)])
    book["size"][1:] = 10
    return book


def _answer(session: Session) -> None:
    """As a venue that takes every order and cancels every one that it should."""
    for outgoing in session.outbox:
        for command in outgoing.commands:
            name, at_ns = session.execution.client_id(int(command["id"])), int(command["time_ns"])
            told: dict[str, Any] = {"client_id": name, "exch_ns": at_ns, "local_ns": at_ns, "order_id": 1}
            if command["lots"] > 0:
                session.hear(Ack(**told))
            else:
                session.hear(Cancel(**told, filled_lots=0, expired=False))
    session.outbox.clear()


def start(
    made: Plan, tape: Tape, account: Account, start_ns: int, seconds: float
) -> tuple[Session | None, float, float]:
    """Run a desk for so long: its session, and when it first cancelled and first ordered."""
    listing = Listing([tape], repeat=True)
    # It is the same symbol, at a later time.
    account.positions = dict(zip((listing,), account.positions.values(), strict=False))
    exchange = Exchange([listing], start_ns=start_ns, accounts=[account])
    request, times = exchange.gateway.request, {"DELETE": float("nan"), "POST": float("nan")}

    with VirtualLoop(start_ns) as loop:
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(lambda *_: None)
        began = time.perf_counter()

        def heard(method: str, path: str, *given: Any, **more: Any) -> Any:
            if path.endswith(("/order", "/allOpenOrders")) and np.isnan(times.get(method, 0.0)):
                times[method] = time.perf_counter() - began + loop.time()
            return request(method, path, *given, **more)

        exchange.gateway.request = heard  # type: ignore[method-assign]

        async def trade() -> Session | None:
            carrier = Loopback(exchange, loop)
            client, market = carrier.client(VENUE, KEY), carrier.client(VENUE)
            orders = BinanceOrders(client, await client.instrument(SYMBOL))
            feed = BinanceFeed(market, SYMBOL)
            desk = LiveDesk(made, Wanderer(), feed, orders, clock=loop.time_ns, timer=loop.time)
            await desk.run(seconds)
            await client.close()
            await market.close()
            await carrier.close()
            return desk.session

        session = loop.run_until_complete(trade())
        asyncio.set_event_loop(None)
    return session, times["DELETE"], times["POST"]


if __name__ == "__main__":
    tyro.cli(Recovery).run()
