"""Live desks with real orders at the local exchange, on a virtual clock, through any number of starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from mmenv import make_config
from mmenv.config import EnvConfig
from mmenv.data.tape import Tape
from mmenv.exchange.books import Account, Listing
from mmenv.exchange.exchange import Exchange
from mmenv.exchange.faults import Fault, Faults
from mmenv.exchange.loopback import Loopback
from mmenv.live import journal
from mmenv.live.desk import LiveDesk
from mmenv.live.guard import GuardConfig
from mmenv.live.journal import Journal, Memory, read
from mmenv.live.plan import Plan
from mmenv.live.venues.binance.feed import BinanceFeed
from mmenv.live.venues.binance.orders import BinanceOrders
from mmenv.market.live import Live
from mmenv.times import SECOND
from tests.helpers.exchanges import KEY, START_NS, on_virtual_time

SYMBOL = "BTCUSDT"


class Fixed:
    """Quotes the same half-spread and skew for ever."""

    def __init__(self, half_spread: float = -0.9, skew: float = 0.0) -> None:
        self.action = np.array([half_spread, skew], np.float32)
        self.state = b""

    def reset(self) -> None:
        pass

    def step(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.action


@dataclass
class Asked:
    """One REST request at the exchange: seconds since its start, and what became of it."""

    at: float
    method: str
    path: str
    status: int
    code: int | None


@dataclass
class Runs:
    """Starts of one desk, one after another, and what it was up against."""

    tape: Tape
    folder: Path
    venue: str = "binance-usdm"
    finer: int = 1
    """Ticks and lots of the exchange's books in one of the tape's; see `Listing`."""
    exchange: Exchange = field(init=False)
    account: Account = field(init=False)
    listing: Listing = field(init=False)
    desks: list[LiveDesk] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.account = Account(
            KEY.key, KEY.secret, balances={"BTC": Decimal(100), "USDT": Decimal(1_000_000)}
        )
        self.listing = Listing([self.tape], repeat=True, finer=self.finer)
        self.exchange = Exchange([self.listing], start_ns=START_NS, accounts=[self.account], faults=Faults())
        self._listen()

    def _listen(self) -> None:
        gateway = self.exchange.gateway
        request = gateway.request

        def heard(method: str, path: str, *given: Any, **more: Any) -> Any:
            answer = request(method, path, *given, **more)
            found = orjson.loads(answer.body)
            code = found.get("code") if isinstance(found, dict) else None
            at = self.exchange.present.since_start_ns / 1e9
            self.asked.append(Asked(at, method, path, answer.status, code))
            return answer

        gateway.request = heard

    @property
    def desk(self) -> LiveDesk:
        """The last one."""
        return self.desks[-1]

    def __call__(
        self,
        seconds: Sequence[float] = (10.0,),
        *,
        player: Any = None,
        guard: GuardConfig | None = None,
        limit: int = 5,
        lots: int = 1,
        pause: float = 3.0,
        latency_s: float = 0.0005,
        between: Callable[[LiveDesk], None] | None = None,
        acts: Sequence[tuple[float, Callable[[LiveDesk], None]]] = (),
        symbol: str = SYMBOL,
        kill: bool = False,
        quote: dict[str, Any] | None = None,
        config: EnvConfig | None = None,
        mode: str = "live",
        **plan: Any,
    ) -> LiveDesk:
        """Start a desk for each of `seconds`; `acts` happen in the first, at seconds after its start.

        `config` is in place of `quote`, `limit` and `lots`."""
        if config is None:
            risk = {"position_limit": limit, "order_lots": lots, "daily_loss_limit": 1e9}
            config = make_config(Live(venue=self.venue, symbol=symbol), quote=quote, risk=risk)
        most = config.risk.position_limit

        async def session(carrier: Loopback) -> None:
            for number, length in enumerate(seconds):
                client, market = carrier.client(self.venue, KEY), carrier.client(self.venue)
                try:
                    orders = BinanceOrders(client, await client.instrument(symbol))
                    given = Plan(
                        config=config,
                        policy="fixed", folder=self.folder, venue=self.venue, symbol=symbol, mode=mode,
                        price_unit=4, lot_unit=20.0, warm_up_s=1.0,
                        guard=guard or GuardConfig(daily_loss=1e9, drawdown=1e9, position_limit=most),
                        **plan,
                    )  # fmt: skip
                    feed = BinanceFeed(market, symbol)
                    desk = LiveDesk(
                        given, player or Fixed(), feed, orders if mode == "live" else None,
                        clock=carrier.loop.time_ns, timer=carrier.loop.time,
                    )  # fmt: skip
                    self.desks.append(desk)
                    for at, act in acts if number == 0 else ():
                        carrier.loop.call_later(at, act, desk)
                    running = carrier.loop.create_task(desk.run(float("inf") if kill else length))
                    with suppress(TimeoutError):
                        await asyncio.wait_for(asyncio.shield(running), length if kill else length + 60)
                    if not running.done():
                        await desk.kill()
                        if desk.session is not None and isinstance(desk.session.sink, Journal):
                            # As the death of the process does.
                            desk.session.sink.tear(desk.session.sink.pending)
                            desk.session.sink = Memory()
                    else:
                        running.result()
                except Exception as error:
                    self.errors.append(error)
                finally:
                    await market.close()
                    await client.close()
                if between is not None and number == 0:
                    between(self.desk)
                await asyncio.sleep(pause)

        on_virtual_time(self.exchange, session, latency_s)
        return self.desk

    def gained(self, coins: Decimal = Decimal(0)) -> float:
        """What the account is worth more than at the start, at the last mid; `coins` is their worth then."""
        session, listing, account = self.desk.session, self.listing, self.account
        assert session is not None
        outcome, price = session.view.outcome, self.exchange.present.prices.get("BNB", Decimal(0))
        mid = Decimal(int(outcome["best_bid_ticks"] + outcome["best_ask_ticks"])) / 2 * listing.tick
        if self.venue == "binance-usdm":
            position = account.position(listing)
            value = account.wallet - 1_000_000 + position.lots * listing.lot * mid - position.cost
            return float(value + account.coins.get("BNB", Decimal(0)) * price - coins)
        held = account.balances
        change = held["USDT"] - 1_000_000 + (held["BTC"] - 100) * mid
        return float(change + held.get("BNB", Decimal(0)) * price - coins)

    def disconnect(self, seconds: float) -> None:
        """Cut all connections now, and take no new one for so long."""
        begun, length = self.exchange.present.since_start_ns, round(seconds * SECOND)
        self.exchange.misbehave(Faults([Fault(kind="break", start_ns=begun, duration_ns=length)]))

    @property
    def latched(self) -> dict[str, str]:
        """What waits for the operator, and why."""
        assert self.desk.session is not None
        return {rule: found.reason for rule, found in self.desk.session.guard.latched.items()}

    def requests(self, method: str, end: str, since: float = 0.0, until: float = 1e9) -> list[Asked]:
        """Requests of this method whose path ends so."""
        return [
            one for one in self.asked
            if one.method == method and one.path.endswith(end) and since <= one.at < until
        ]  # fmt: skip

    def states(self) -> list[tuple[str, str, list[str]]]:
        """Changes of state: from, to, why."""
        frames = (frame.json() for frame in read(self.desk.plan.journal) if frame.kind == journal.STATE)
        return [(change["from"], change["to"], change["reasons"]) for change in frames]

    def rules(self) -> set[str]:
        """Rules that have asked for anything."""
        return {reason.split(":")[0] for _, _, reasons in self.states() for reason in reasons}
