"""Commands of a desk: `neuralmm paper` and `neuralmm live`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import pickle
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live as LiveScreen

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.data.tape import tapes
from mmenv.live.account_limit import AccountLimit
from mmenv.live.api_key import read_key
from mmenv.live.desk import LiveDesk
from mmenv.live.guard import GuardConfig
from mmenv.live.market_feed import MarketFeed
from mmenv.live.plan import Plan
from mmenv.live.screen import Screen, summary
from mmenv.live.setup import Player, require_orders, usual_orders
from mmenv.live.tape_feed import TapeFeed
from mmenv.live.venues.base import VENUES, Credentials, Venue
from mmenv.market.live import Live
from mmenv.observation import observation_names
from policies.base import Policy
from policies.bundle import SUFFIX, load
from policies.make import make_policy
from policies.sb3 import is_ours, model_file
from train.options.desks import Common, Paper, Real

DECISIONS_TIMED: Final = 50
"""Decisions of a policy on torch that are timed before a session."""
REFRESH_S: Final = 0.25
"""The screen is drawn this often."""
WATCH_S: Final = 0.1
"""The account's limit is looked at this often."""


class Solo:
    """Any `Policy` for one desk."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self._memory = policy, policy.reset(1)

    def reset(self) -> None:
        self._memory = self.policy.reset(1)

    def step(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        action, self._memory = self.policy.act(observation[None], self._memory)
        return action[0]

    @property
    def state(self) -> bytes:
        """The policy's memory, whatever it is made of."""
        return pickle.dumps(self._memory)

    @state.setter
    def state(self, saved: bytes) -> None:
        self._memory = pickle.loads(saved)


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
    """A bundle (.mmz), a model (.zip, or the folder of a run), or a policy by name or "module:name".

    A bundle or model brings its configuration. Limits may be made narrower than it was trained with, not
    wider.
    """
    path = Path(policy)
    file = model_file(policy)
    stock = file is not None and file.exists() and not is_ours(file)
    if stock or (path.suffix not in (SUFFIX, ".zip") and not path.is_dir()):
        risk = {"position_limit": position_limit or 10, "order_lots": order_lots or 1}
        config = make_config(market, risk=risk, maker_fee_bp=0.0)
        made = make_policy(policy, config, **parameters)
        text = f"{policy} {' '.join(f'{k}={v:g}' for k, v in sorted(parameters.items()))}".strip()
        if stock and file is not None:
            text = f"{path.name} {digest(file)}"
            warn_of_latency(policy, made, config)
        return Chosen(config, text, lambda: Solo(made))
    if parameters:
        raise ConfigError("a bundle has no parameters; leave them out.")
    if path.suffix == SUFFIX:
        bundle = load(path)
    else:
        # Here, for torch takes seconds to import.
        from train.evaluate import load as load_model
        from train.export import plain_bundle

        bundle = plain_bundle(*load_model(path), path.name)
        path = path / "best_model.zip" if path.is_dir() else path
    config = dataclasses.replace(bundle.on(market), maker_fee_bp=0.0)
    given = {"position_limit": position_limit, "order_lots": order_lots}
    risk_config = dataclasses.replace(config.risk, **{k: v for k, v in given.items() if v is not None})
    for name, value in given.items():
        if value is not None and value > getattr(config.risk, name):
            raise ConfigError(
                f"{name} = {value} is more than the {getattr(config.risk, name)} the policy was made for."
            )
    config = dataclasses.replace(config, risk=risk_config)
    return Chosen(config, f"{Path(policy).name} {digest(path)}", bundle.stream)


def digest(path: Path) -> str:
    """What tells a file from all others, in a journal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def warn_of_latency(name: str, policy: Policy, config: EnvConfig) -> None:
    """Say how long a policy on torch takes for a decision here, beside the time between two."""
    player, observation = Solo(policy), np.zeros(len(observation_names(config)), np.float32)
    times = []
    for _ in range(DECISIONS_TIMED):
        begun = time.perf_counter()
        player.step(observation)
        times.append(time.perf_counter() - begun)
    player.reset()
    median, worst = 1e3 * float(np.median(times)), 1e3 * max(times[1:])
    print(
        f"{name} runs on torch: {median:.1f} ms a decision here, at worst {worst:.1f} of {DECISIONS_TIMED}, "
        f"every {1e3 * config.market.step_seconds:g} ms. A bundle takes microseconds (`neuralmm export`; "
        "models of `neuralmm train`).",
        file=sys.stderr,
    )


def plan(options: Common, venue: str, symbol: str, mode: str, **more: Any) -> tuple[Plan, Chosen]:
    """One desk's plan, and its policy; `venue` is the venue's own name."""
    market = Live(step_seconds=options.step_seconds, venue=venue, symbol=symbol)
    chosen = choose(options.policy, options.parameters, market, options.position_limit, options.order_lots)
    if options.max_orders is not None:
        require_orders(chosen.config.quote, options.max_orders, "--max-orders")
    guard = None
    if options.max_loss is not None:
        limit, loss = chosen.config.risk.position_limit, options.max_loss
        orders = usual_orders(chosen.config.quote)
        guard = GuardConfig(daily_loss=loss, drawdown=loss, position_limit=limit, max_orders=orders)
    return (
        Plan(
            config=chosen.config,
            policy=chosen.name,
            venue=venue,
            symbol=symbol,
            folder=options.journals,
            mode=mode,
            guard=guard,
            max_orders=options.max_orders,
            price_unit=options.price_unit,
            lot_unit=options.lot_unit,
            warm_up_s=options.warm_up,
            sync=options.sync,
            rotate_mb=options.rotate_mb,
            desks=len(options.symbol),
            **more,
        ),
        chosen,
    )


@contextlib.asynccontextmanager
async def paper_desks(options: Paper) -> AsyncIterator[list[LiveDesk]]:
    """A desk for each symbol, not connected yet."""
    if options.store is not None:
        stored = {symbol: tapes(options.store, options.venue, symbol)[0] for symbol in options.symbol}
        yield [_paper_desk(options, options.venue, s, TapeFeed(tape)) for s, tape in stored.items()]
        return
    venue = VENUES.find(options.venue)(options.url, testnet=options.testnet)
    try:
        yield [_paper_desk(options, venue.name, symbol, venue.feed(symbol)) for symbol in options.symbol]
    finally:
        await venue.close()


def _paper_desk(options: Paper, venue: str, symbol: str, feed: MarketFeed) -> LiveDesk:
    more = {"latency_ms": options.latency_ms, "queue_model": options.queue_model}
    made, chosen = plan(options, venue, symbol, "paper", maker_fee_bp=options.maker_fee_bp, **more)
    return LiveDesk(made, chosen.player(), feed, realtime=True)


@contextlib.asynccontextmanager
async def real_desks(options: Real) -> AsyncIterator[list[LiveDesk]]:
    """A desk for each symbol. Raises `ConfigError` unless everything is given."""
    missing = [
        f"--{name.replace('_', '-')}"
        for name in ("real_orders", "position_limit", "order_lots", "max_loss")
        if not getattr(options, name)
    ]
    if missing:
        raise ConfigError(f"real orders need {', '.join(missing)}; `neuralmm paper` needs none of it.")
    kind, credentials = VENUES.find(options.venue), Credentials(*read_key(options.key_file))
    venue = kind(options.url, credentials, testnet=options.testnet)
    try:
        yield [await _real_desk(options, venue, symbol) for symbol in options.symbol]
    finally:
        await venue.close()


async def _real_desk(options: Real, venue: Venue, symbol: str) -> LiveDesk:
    made, chosen = plan(
        options, venue.name, symbol, "live", countdown_s=options.countdown, maker_fee_bp=options.maker_fee_bp
    )
    orders = await venue.orders(symbol)
    return LiveDesk(made, chosen.player(), venue.feed(symbol), orders, realtime=True)


async def trade(desks: list[LiveDesk], common: Common, console: Console) -> None:
    """Run the desks until they end, or a signal ends them."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, desks, signal.Signals(number).name)
    loop.add_signal_handler(signal.SIGUSR1, halt_all, desks)
    if common.metrics is not None:
        from mmenv.live.prometheus import serve

        serve(desks, common.metrics)
    async with shown(desks, common, console), watched(desks, common.account_loss):
        results = await asyncio.gather(*(desk.run(common.seconds) for desk in desks), return_exceptions=True)
    raised = next((result for result in results if isinstance(result, BaseException)), None)
    for desk, result in zip(desks, results, strict=True):
        console.print(summary(desk))
        # What is raised is told by the command.
        if isinstance(result, Exception) and str(result) != str(raised):
            console.print(f"[red]{desk.plan.symbol} stopped: {type(result).__name__}: {result}")
    if raised is not None:
        raise raised


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
    """The account's own limit, over all desks: the one thing by which one of them stops the others.

    Raises `ConfigError` in the end where their profits do not add up; no desk then goes on.
    """
    if limit is None:
        yield
        return
    found = AccountLimit(desks[0].plan.folder, limit, desks[0].plan.mode)

    def look() -> None:
        sessions = [desk.session for desk in desks if desk.session is not None]
        if len(currencies := {session.setup.currency for session in sessions}) > 1:
            raise ConfigError(
                f"--account-loss = {limit:g} is not possible: the profits of these symbols are in "
                f"{' and '.join(sorted(currencies))}, which do not add up; run each in a process and a "
                "folder of its own."
            )
        wealth = {session.setup.session: session.wealth for session in sessions}
        if (lost := found.update(wealth)) is not None:
            for desk in desks:
                desk.command("halt", f"the account has lost {lost:.2f} of {limit:g}")

    async def watch() -> None:
        with contextlib.suppress(ConfigError):
            while True:
                look()
                await asyncio.sleep(WATCH_S)
        # It is raised once they have ended.
        stop(desks, "--account-loss cannot be counted")

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        look()
        found.save()


@contextlib.asynccontextmanager
async def shown(desks: list[LiveDesk], common: Common, console: Console) -> AsyncIterator[None]:
    """The screen, refreshed while the desks run."""
    if not common.show:
        yield
        return

    async def refresh(live: LiveScreen) -> None:
        while True:
            live.update(screen.draw(), refresh=True)
            await asyncio.sleep(REFRESH_S)

    screen = Screen(desks, common.seconds)
    with LiveScreen(screen.draw(), console=console, auto_refresh=False) as live:
        task = asyncio.create_task(refresh(live))
        try:
            yield
        finally:
            task.cancel()


def paper(options: Paper) -> None:
    """Run `neuralmm paper`."""
    run_loop(_run(paper_desks(options), options))


def live(options: Real) -> None:
    """Run `neuralmm live`."""
    run_loop(_run(real_desks(options), options))


async def _run(connected: AbstractAsyncContextManager[list[LiveDesk]], options: Common) -> None:
    async with connected as desks:
        await trade(desks, options, Console())
