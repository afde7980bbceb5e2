"""Tick to quote: one market event in, orders out, in one compiled call.

    event -> ledger, features -> policy -> quote -> risk -> orders

The stages are the desk's own (`mmenv.desk`) with the policy as one more among them: there is no second
implementation of anything, and the events of a session give the orders of that session.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numba.np.numpy_support import carray

from mmenv import kernel
from mmenv.config import ConfigError, EnvConfig, Market
from mmenv.desk import Desk
from mmenv.kernel import LANES, Call, address, array_at, stage
from mmenv.market.live import Live
from mmenv.market.replay import give_events, take_quotes
from policies.bundle import Bundle
from policies.runtime import ACTION_AT, INPUTS, MEMORY, Program, decide

EVENT_SIZE = 20
"""Entries of an event: `mmenv.venue.replay.EVENT_FIELDS`."""
ORDERS = ("ask_tick", "ask_lots", "bid_tick", "bid_lots")
"""Entries of the orders; 0 lots: that side is not quoted."""
WIDEST = (1, 2**30)
"""Ticks from the lowest to the highest that may be quoted, where no narrower ones are given."""

PLACE = np.dtype([("at", "i8"), ("size", "i8")])


@stage(PLACE)
def take_event(core, own, params, out):  # type: ignore[no-untyped-def]
    """The event at `own` is the market's answer."""
    event = carray(array_at(carray(own, 1)[0].at, types.int64), (1, EVENT_SIZE))
    give_events(carray(core, 1), event)


@stage(PLACE)
def act(core, own, params, out):  # type: ignore[no-untyped-def]
    """The policy whose program is at `own`, from the tile of observations to the action."""
    s, place = carray(core, 1)[0], carray(own, 1)[0]
    program = carray(array_at(place.at, types.int64), (place.size,))
    width = program[INPUTS]
    tile = carray(out, (width, LANES))
    x = carray(array_at(program[MEMORY], types.float32), (width,))
    for j in range(width):
        x[j] = tile[j, 0]
    decide(program)
    action = carray(array_at(program[MEMORY] + 4 * program[ACTION_AT], types.float32), (2,))
    s.action[0, 0], s.action[1, 0] = action[0], action[1]


@stage(PLACE)
def give_orders(core, own, params, out):  # type: ignore[no-untyped-def]
    """Orders from the quotes; at `own` lie the window of ticks and, behind it, the orders."""
    at = carray(own, 1)[0].at
    window = carray(array_at(at, types.int64), (1, 2))
    take_quotes(carray(core, 1), window, carray(array_at(at + 16, types.int64), (1, 4)))


def as_live(market: Market) -> Live:
    """A market outside in the units of `market`: its events are handed in."""
    return Live(
        step_seconds=market.step_seconds,
        venue="given",
        symbol="given",
        price_unit=market.price_scale,
        lot_unit=float(market.lot_scale),
    )


def require_alone(config: EnvConfig) -> None:
    """Raise `ConfigError` unless the policy is the only network at the desk."""
    if config.networks:
        raise ConfigError(
            "A desk with signals or a risk manager is not one compiled call; give a bundle without them."
        )


class TickToQuote:
    """A policy at its desk: from each event, int64 (EVENT_SIZE,), to orders, int64 (len(ORDERS),).

    Raises `ConfigError` for a desk with signals or a risk manager.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: EnvConfig | None = None,
        window: tuple[int, int] = WIDEST,
        stamp: Call | None = None,
    ) -> None:
        """
        :param config: what the desk runs under: by default what the bundle was made for.
        :param window: lowest and highest tick that may be quoted.
        :param stamp: called around each part (`Desk.event_plans`), to measure them.
        """
        config = bundle.config if config is None else config
        require_alone(config)
        bundle.check(config, other_market=True)
        market = as_live(config.market)
        self.desk = Desk(dataclasses.replace(config, market=market), 1, autoreset=False)
        link = self.desk.external
        assert isinstance(link, Live.Link)
        self.program = Program(bundle.network)
        self.event = link.event[0]
        """Where the next event goes, int64 (EVENT_SIZE,)."""
        self._numbers = np.array([*window, 0, 0, 0, 0], np.int64)
        self.orders = self._numbers[2:]
        """The orders of the last event, in place."""
        places = np.zeros(3, PLACE)
        operations = self.program.operations
        for i, array in enumerate((self.event, operations, self._numbers)):
            places[i] = address(array), array.size
        self._places = places  # the plans hold its address
        nothing = np.zeros(1, kernel.PARAMS)
        event, policy, orders = (
            Call(stage, places[i : i + 1], nothing) for i, stage in enumerate((take_event, act, give_orders))
        )
        self._plans = self.desk.event_plans(event, policy, orders, stamp)
        self._plan = self._plans.following

    def start(self, event: np.ndarray, position: int = 0) -> np.ndarray:
        """The first orders of a session: this book, this position, and a policy without memories."""
        self.event[:] = event
        self.desk.reset(positions=np.array([position], np.int32))
        self.program.state[:] = 0
        kernel.step_blocks(self._plans.first)
        return self.orders

    def quote(self, event: np.ndarray) -> np.ndarray:
        """The orders after `event`, the same array at every call."""
        self.event[:] = event
        kernel.step_blocks(self._plan)
        return self.orders


@dataclass(frozen=True)
class Session:
    """What a desk met and did, decision by decision."""

    events: np.ndarray
    """int64 (D, EVENT_SIZE): what was known at each decision; the first of an episode has the book alone."""
    starts: np.ndarray
    """bool (D,): an episode begins here."""
    observations: np.ndarray
    """float32 (D, F)."""
    orders: np.ndarray
    """int64 (D, len(ORDERS)): what was quoted."""


def record(
    bundle: Bundle, config: EnvConfig, decisions: int, seed: int, progress: Callable[[], Any] | None = None
) -> Session:
    """A session of the policy on `config`'s market, through the environment's own step.

    Raises `ConfigError` on a market whose book is not in whole ticks, or with networks beside the policy.
    """
    require_alone(config)
    desk, stream = Desk(config, 1, autoreset=False), bundle.stream()
    bundle.check(config, other_market=True)
    desk.seed([seed])
    events, orders = np.zeros((decisions, EVENT_SIZE), np.int64), np.zeros((decisions, len(ORDERS)), np.int64)
    starts, observations = np.zeros(decisions, bool), np.zeros((decisions, desk.width), np.float32)
    core, over, mid = desk.core, True, 0
    for k in range(decisions):
        if over:
            observation = desk.reset()[0]
            stream.reset()
        starts[k], observations[k] = over, observation
        _to_event(core[0], mid, over, events[k])
        mid = int(core["mid"][0, 0])
        out = desk.step(stream.step(observation)[None])
        orders[k] = [
            (mid + core["ask_distance"][0, 0]) // 2,
            core["ask_lots"][0, 0],
            (mid - core["bid_distance"][0, 0]) // 2,
            core["bid_lots"][0, 0],
        ]
        observation, over = out.observations[0], bool(out.terminated[0] or out.truncated[0])
        if progress:
            progress()
    desk.close()
    return Session(events, starts, observations, orders)


def _to_event(core: Any, before: int, first: bool, event: np.ndarray) -> None:
    """The core of a desk as an event, the mid having been `before`: what `give_events` undoes."""
    names = ("mid", "spread", "best_bid_lots", "best_ask_lots", "buy_lots", "sell_lots", "trades")
    mid, spread, bid, ask, buy, sell, trades = (int(core[name][0]) for name in names)
    if spread <= 0 or (2 * mid - spread) % 4:
        raise ConfigError(
            "A session is recorded on a market with a book in whole ticks, such as book or replay."
        )
    event[1:5] = (2 * mid - spread) // 4, (2 * mid + spread) // 4, bid, ask
    if first:
        return
    sold, bought = int(core["ask_fill"][0]), int(core["bid_fill"][0])
    event[5:7], event[9] = (buy, sell), trades
    event[7] = (int(core["trade_value"][0]) + (buy + sell) * before) // 2
    event[12:14] = sold, (int(core["ask_edge"][0]) + sold * before) // 2
    event[14:16] = bought, (bought * before - int(core["bid_edge"][0])) // 2
