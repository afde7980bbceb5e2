"""Commands of a desk: `neuralmm paper`, `live`, `halt` and `replay-journal`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import math
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live as LiveScreen

from mmenv.config import ConfigError, EnvConfig, make_config
from mmenv.live.again import backtest, check, setup_of, to_tape
from mmenv.live.desk import HALT_FILE, LiveDesk, MarketFeed, Plan
from mmenv.live.feed import Feed
from mmenv.live.guard import GuardConfig
from mmenv.live.order_client import VenueOrders
from mmenv.live.screen import screen, summary
from mmenv.live.secrets import read_key
from mmenv.live.session import Player
from mmenv.live.venue import Credentials, VenueClient
from mmenv.market.live import Live
from policies.base import Policy, make_policy

JOURNALS = Path("journals")
REFRESH_S = 0.25
WATCH_S = 0.1


class Solo:
    """Any `Policy` for one desk."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.state = policy, policy.reset(1)

    def reset(self) -> None:
        self.state = self.policy.reset(1)

    def step(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        action, self.state = self.policy.act(observation[None], self.state)
        return action[0]


@dataclass(frozen=True)
class Chosen:
    """A policy: the configuration it quotes under, its name, and players of it."""

    config: EnvConfig
    name: str
    player: Callable[[], Player]


def choose(
    policy: str,
    parameters: dict[str, float],
    market: Live,
    position_limit: int | None,
    order_lots: int | None,
) -> Chosen:
    """A bundle (.mmz) or a policy by name.

    A bundle brings its configuration. Limits may be made narrower than it was trained with, not wider.
    """
    if not policy.endswith(".mmz"):
        risk = {"position_limit": position_limit or 10, "order_lots": order_lots or 1}
        config = make_config(market, risk=risk, maker_fee_bp=0.0)
        made = make_policy(policy, config, **parameters)
        text = f"{policy} {' '.join(f'{k}={v:g}' for k, v in sorted(parameters.items()))}".strip()
        return Chosen(config, text, lambda: Solo(made))
    from policies.bundle import load

    if parameters:
        raise ConfigError("a bundle has no parameters; leave them out.")
    bundle = load(policy)
    config = dataclasses.replace(bundle.on(market), maker_fee_bp=0.0)
    given = {"position_limit": position_limit, "order_lots": order_lots}
    risk_config = dataclasses.replace(config.risk, **{k: v for k, v in given.items() if v is not None})
    for name, value in given.items():
        if value is not None and value > getattr(config.risk, name):
            raise ConfigError(
                f"{name} = {value} is more than the {getattr(config.risk, name)} the policy was made for."
            )
    digest = hashlib.sha256(Path(policy).read_bytes()).hexdigest()[:16]
    config = dataclasses.replace(config, risk=risk_config)
    return Chosen(config, f"{Path(policy).name} {digest}", bundle.stream)


@dataclass(frozen=True, kw_only=True)
class Common:
    """What paper and real trading share."""

    policy: str
    """A bundle (policy.mmz), or the name of a policy such as fixed-spread."""
    parameters: dict[str, float] = field(default_factory=dict)
    """Of a policy by name, such as `--parameters half_spread 1.0`."""
    venue: str = "binance-usdm"
    """binance-usdm or binance-spot."""
    symbol: tuple[str, ...] = ("BTCUSDT",)
    """One or more symbols; each gets a desk of its own."""
    url: str | None = None
    """Address of another server of the same protocol, such as http://127.0.0.1:8080."""
    journals: Path = JOURNALS
    """Folder of the journals; a desk that finds its own there goes on with it."""
    rotate_mb: float = 1_000.0
    """A journal goes on in a new file at this size, and at midnight UTC."""
    position_limit: int | None = None
    """Largest absolute position, lots; otherwise the policy's."""
    order_lots: int | None = None
    """Size of each quote, lots; otherwise the policy's."""
    max_loss: float | None = None
    """Halt after losing so much in a day, or from the day's peak, quote currency; otherwise the policy's."""
    account_loss: float | None = None
    """Halt every desk when together they have lost so much from their best, quote currency."""
    step_seconds: float = 0.1
    """Time between two decisions; a bundle's own if it has one."""
    price_unit: int = 0
    """Half-ticks in a price unit; 0 measures it first."""
    lot_unit: float = 0.0
    """Lots in a volume unit; 0 measures it first."""
    warm_up: float = 10.0
    """Seconds of market data before the first decision; the units are measured on them."""
    seconds: float = float("inf")
    """Stop after so long."""
    sync: bool = False
    """Write every decision through to the disk, against the loss of the machine."""
    show: bool = sys.stdout.isatty()
    """Show the screen."""
    metrics: int | None = None
    """Port on which Prometheus can ask."""

    def plan(self, symbol: str, mode: str, **more: Any) -> tuple[Plan, Chosen]:
        """One desk's plan, and its policy."""
        market = Live(step_seconds=self.step_seconds, venue=self.venue, symbol=symbol)
        chosen = choose(self.policy, self.parameters, market, self.position_limit, self.order_lots)
        guard = None
        if self.max_loss is not None:
            limit = chosen.config.risk.position_limit
            guard = GuardConfig(daily_loss=self.max_loss, drawdown=self.max_loss, position_limit=limit)
        return (
            Plan(
                config=chosen.config,
                policy=chosen.name,
                venue=self.venue,
                symbol=symbol,
                folder=self.journals,
                mode=mode,
                guard=guard,
                price_unit=self.price_unit,
                lot_unit=self.lot_unit,
                warm_up_s=self.warm_up,
                sync=self.sync,
                rotate_mb=self.rotate_mb,
                **more,
            ),
            chosen,
        )


@dataclass(frozen=True, kw_only=True)
class Paper(Common):
    """Trade on paper: live market data, fills from our own matcher with queue, latency and fees."""

    latency_ms: float = 10.0
    """From us to the exchange, and as long again for its answer."""
    queue_model: str = "risk-adverse"
    """How cancels ahead of us move us up the queue; see mmenv.venue.matcher."""
    maker_fee_bp: float | None = None
    """Otherwise the venue's usual one."""
    store: Path | None = None
    """Play the tapes of this store in place of a venue, without a network."""

    def desks(self) -> list[LiveDesk]:
        """A desk for each symbol, not connected yet."""
        found = []
        for symbol in self.symbol:
            plan, chosen = self.plan(
                symbol,
                "paper",
                latency_ms=self.latency_ms,
                queue_model=self.queue_model,
                maker_fee_bp=self.maker_fee_bp,
            )
            found.append(LiveDesk(plan, chosen.player(), self._feed(symbol), realtime=True))
        return found

    def _feed(self, symbol: str) -> MarketFeed:
        if self.store is not None:
            from mmenv.data.tape import tapes
            from mmenv.live.storefeed import StoreFeed

            return StoreFeed(tapes(self.store, self.venue, symbol)[0])
        return Feed(self.venue, symbol, url=self.url)


@dataclass(frozen=True, kw_only=True)
class Real(Common):
    """Trade with real orders. Off unless the key, --real-orders and every limit are given."""

    real_orders: bool = False
    """Say that you mean it."""
    key_file: Path | None = None
    """File with key and secret on two lines, readable by its owner alone; otherwise the environment variables
    NEURALMM_API_KEY and NEURALMM_API_SECRET."""
    countdown: float = 10.0
    """The venue cancels all our orders when it has not heard from us for so many seconds (USD-M)."""

    async def desks(self) -> list[LiveDesk]:
        """A desk for each symbol. Raises `ConfigError` unless everything is given."""
        missing = [
            f"--{name.replace('_', '-')}"
            for name in ("real_orders", "position_limit", "order_lots", "max_loss")
            if not getattr(self, name)
        ]
        if missing:
            raise ConfigError(f"real orders need {', '.join(missing)}; `neuralmm paper` needs none of it.")
        credentials = Credentials(*read_key(self.key_file))
        found = []
        for symbol in self.symbol:
            plan, chosen = self.plan(symbol, "live", countdown_s=self.countdown)
            client = VenueClient(self.venue, url=self.url, credentials=credentials)
            orders = VenueOrders(client, await client.instrument(symbol))
            feed = Feed(self.venue, symbol, url=self.url)
            found.append(LiveDesk(plan, chosen.player(), feed, orders, realtime=True))
        return found


async def trade(desks: list[LiveDesk], common: Common, console: Console) -> None:
    """Run the desks until they end, or a signal ends them."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, desks, signal.Signals(number).name)
    loop.add_signal_handler(signal.SIGUSR1, halt_all, desks)
    if common.metrics is not None:
        from mmenv.live.metrics import serve

        serve(desks, common.metrics)
    async with shown(desks, common.show, console), watched(desks, common.account_loss):
        results = await asyncio.gather(*(desk.run(common.seconds) for desk in desks), return_exceptions=True)
    for desk, result in zip(desks, results, strict=True):
        console.print(summary(desk))
        if isinstance(result, Exception):
            console.print(f"[red]{desk.plan.symbol} stopped: {type(result).__name__}: {result}")
    for result in results:
        if isinstance(result, BaseException):
            raise result


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run`, on uvloop where it is installed: reading a socket costs half as much there."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def stop(desks: list[LiveDesk], why: str) -> None:
    """Halt every desk, cancel its orders and end it."""
    for desk in desks:
        desk.stop(why)


def halt_all(desks: list[LiveDesk]) -> None:
    """Halt every desk, which then stays as it is."""
    for desk in desks:
        desk.command("halt", "signal SIGUSR1")


@contextlib.asynccontextmanager
async def watched(desks: list[LiveDesk], limit: float | None) -> AsyncIterator[None]:
    """The account's own limit, over all desks: the one thing by which one of them stops the others."""

    async def watch(limit: float) -> None:
        best = -math.inf
        while True:
            wealth = sum(desk.session.wealth for desk in desks if desk.session is not None)
            best = max(best, wealth)
            if best - wealth >= limit:
                for desk in desks:
                    desk.command("halt", f"the account has lost {best - wealth:.2f} of {limit:g}")
                best = wealth
            await asyncio.sleep(WATCH_S)

    task = asyncio.create_task(watch(limit)) if limit is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


@contextlib.asynccontextmanager
async def shown(desks: list[LiveDesk], show: bool, console: Console) -> AsyncIterator[None]:
    """The screen, refreshed while the desks run."""
    if not show:
        yield
        return

    async def refresh(live: LiveScreen) -> None:
        while True:
            live.update(screen(desks), refresh=True)
            await asyncio.sleep(REFRESH_S)

    with LiveScreen(screen(desks), console=console, auto_refresh=False) as live:
        task = asyncio.create_task(refresh(live))
        try:
            yield
        finally:
            task.cancel()


def paper() -> None:
    """Command line of `neuralmm paper`."""
    run_loop(_paper(tyro.cli(Paper)))


async def _paper(options: Paper) -> None:
    await trade(options.desks(), options, Console())


def live() -> None:
    """Command line of `neuralmm live`."""
    run_loop(_live(tyro.cli(Real)))


async def _live(options: Real) -> None:
    await trade(await options.desks(), options, Console())


@dataclass(frozen=True)
class Halt:
    """Stop all desks of a folder: they cancel everything and quote no more until cleared."""

    journals: Path = JOURNALS
    """Folder of their journals."""
    flatten: bool = False
    """Then work out of the position, with reducing orders at the touch."""
    reduce: bool = False
    """Do not halt, but only reduce the position."""
    clear: bool = False
    """Take the halt back, and whatever else waits for the operator."""
    reason: str = "neuralmm halt"
    """For the journal."""

    def run(self) -> Path:
        """Leave the word; desks read it within a tenth of a second, and when they start."""
        if self.flatten + self.reduce + self.clear > 1:
            raise ConfigError("choose one of --flatten, --reduce and --clear.")
        if not self.journals.is_dir():
            raise ConfigError(f"{self.journals}: there is no such folder of journals.")
        word = "clear" if self.clear else "reduce" if self.reduce else "flatten" if self.flatten else "halt"
        file = self.journals / HALT_FILE
        temporary = file.with_name(".halt.tmp")
        temporary.write_text(f"{word} {self.reason}")
        temporary.replace(file)
        return file


def halt() -> None:
    """Command line of `neuralmm halt`."""
    print(f"{tyro.cli(Halt).run()} written")


@dataclass(frozen=True)
class ReplayJournal:
    """Play a journal again and compare every byte; a paper session's also through the backtester."""

    journal: tyro.conf.Positional[Path]
    """The file."""
    policy: str | None = None
    """The policy it was made with; without it the recorded actions are taken."""
    parameters: dict[str, float] = field(default_factory=dict)
    """Of a policy by name."""
    backtest: bool = True
    """Also replay its market through hftbacktest and through our matcher, and compare every decision."""

    def run(self, console: Console) -> None:
        """Print what agreed. Raises `Mismatch` naming the first difference."""
        setup = setup_of(self.journal)
        risk = setup.config.risk
        player = None
        if self.policy is not None:
            chosen = choose(self.policy, self.parameters, setup.market, risk.position_limit, risk.order_lots)
            if chosen.name != setup.policy:
                raise ConfigError(f"{self.journal} was made with {setup.policy}, not {chosen.name}.")
            player = chosen.player()
        session, frames = check(self.journal, player)
        console.print(
            f"{self.journal}: {frames} frames agree byte for byte, "
            f"{session.decision['number'] + 1} decisions, {session.fills} fills, "
            f"position {session.working.position}, profit {session.wealth:+.4f}"
        )
        if self.backtest and setup.mode == "paper" and not setup.position:
            with tempfile.TemporaryDirectory() as folder:
                tape = to_tape(self.journal, Path(folder))
                for engine in ("hftbacktest", "matcher"):
                    found = backtest(self.journal, tape, engine)
                    why = f"; {found.why}" if found.why else ""
                    console.print(
                        f"backtest by {engine}: {found.compared} decisions agree byte for byte in event, "
                        f"observation, reward and quotes, {found.fills} with fills{why}"
                    )


def replay_journal() -> None:
    """Command line of `neuralmm replay-journal`."""
    tyro.cli(ReplayJournal).run(Console())
