"""Tick to quote: what the market did in, orders out, in one compiled call.

    outcome -> ledger, features -> policy -> quote -> risk -> orders

Orders are what the action gives: a quote a side, or several, and a market order. The stages are the desk's
own (`mmenv.desk.desk`) with the policy as one more among them: there is no second implementation of anything,
and the outcomes of a session give the orders of that session.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.np.numpy_support import carray

from mmenv.actions.base import Action
from mmenv.actions.ladder import LADDER
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.desk.desk import Desk
from mmenv.engine import plan, state
from mmenv.engine.memory import address, array_at, pointer_to
from mmenv.engine.stage import Call, Stage, stage
from mmenv.engine.state import EMPTY, TILE
from mmenv.market.base import Market
from mmenv.market.live import ONE, Live
from mmenv.market.outside import give_outcomes, give_taken, take_levels, take_market_orders, take_quotes
from mmenv.step.levels import ORDERS as LEVEL_ORDERS
from mmenv.venue.outcome import OUTCOME, TAKEN
from policies.bundle import Bundle
from policies.network.program import ACTION_AT, ACTIONS, INPUTS, MEMORY, Program, decide

SIDES = ("ask", "bid")
MARKET_ORDER = ("market_tick", "market_lots")
"""Entries of a market order: the worst tick, and lots above 0 to buy, 0: none is sent."""
NOTHING_TAKEN = np.zeros(1, TAKEN)[0]
WIDEST = (1, 2**30)
"""Ticks from the lowest to the highest that may be quoted, where no narrower ones are given."""

PLACE = np.dtype([("at", "i8"), ("size", "i8")])
OUTCOME_TYPE, TAKEN_TYPE, LEVELS_TYPE = (from_dtype(kind) for kind in (OUTCOME, TAKEN, LEVEL_ORDERS))

LEVELS_AT = np.dtype([("window", "i8"), ("prices", "i8"), ("quotes", "i8"), ("orders", "i8"), ("most", "i8")])
"""Where the arrays of `mmenv.market.outside.take_levels` lie, and how many orders a side has at most."""


def order_names(quote: Action) -> tuple[str, ...]:
    """Entries of the orders that an action gives: tick and lots of each ask, the nearest first, then of each
    bid, and MARKET_ORDER where it sends any. 0 lots: there is none."""
    several = quote.side_orders > 1
    numbers = [f"_{k}" for k in range(1, quote.side_orders + 1)] if several else [""]
    names = [f"{side}_{what}{k}" for side in SIDES for k in numbers for what in ("tick", "lots")]
    return (*names, *(MARKET_ORDER if quote.taking is not None else ()))


@stage(PLACE)
def take_outcome(s, w, p, x):
    """The OUTCOME at `w` is the market's answer."""
    give_outcomes(carray(pointer_to(s), 1), array_at(w.at, OUTCOME_TYPE, 1))


@stage(PLACE)
def take_taken(s, w, p, x):
    """The TAKEN at `w` is what our market orders filled; after `take_outcome`."""
    give_taken(carray(pointer_to(s), 1), array_at(w.at, TAKEN_TYPE, 1))


@stage(PLACE, out=TILE)
def act(s, w, p, x):
    """The policy whose program is at `w`, from the tile of observations to the action."""
    program = array_at(w.at, types.int64, w.size)
    width = program[INPUTS]
    inputs = array_at(program[MEMORY], types.float32, width)
    for j in range(width):
        inputs[j] = x.rows[j, 0]
    decide(program)
    count = program[ACTIONS]
    action = array_at(program[MEMORY] + 4 * program[ACTION_AT], types.float32, count)
    for k in range(count):
        s.action[k, 0] = action[k]


@stage(PLACE)
def give_orders(s, w, p, x):
    """Orders from the quotes; at `w` lie the window of ticks and, behind it, the orders."""
    window = array_at(w.at, types.int64, (1, 2))
    take_quotes(carray(pointer_to(s), 1), window, array_at(w.at + 16, types.int64, (1, 4)))


@stage(LADDER, LEVELS_AT)
def give_levels(s, w, p, x):
    """Orders from the levels of the action whose record is `w`."""
    orders = array_at(p.orders, LEVELS_TYPE, 1)
    window, prices = array_at(p.window, types.int64, (1, 2)), array_at(p.prices, types.int64, 1)
    quotes = array_at(p.quotes, types.int64, (1, 4 * p.most))
    take_levels(carray(pointer_to(s), 1), carray(pointer_to(w), 1), orders, window, prices, quotes)


@stage(PLACE)
def give_market_order(s, w, p, x):
    """The market order, to where `w` says."""
    take_market_orders(carray(pointer_to(s), 1), array_at(w.at, types.int64, (1, 2)))


def as_live(market: Market) -> Live:
    """A market outside in the units of `market`: its outcomes are handed in."""
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
    """A policy at its desk: from each OUTCOME of an interval to orders, int64 with an entry for each of
    `names`.

    Parameters
    ----------
    config
        What the desk runs under: by default what the bundle was made for.
    window
        Lowest and highest tick that may be quoted.
    stamp
        Called around each part (`Desk.event_plans`), to measure them.

    Raises
    ------
    ConfigError
        For a desk with signals or a risk manager.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: EnvConfig | None = None,
        window: tuple[int, int] = WIDEST,
        stamp: Call | None = None,
    ) -> None:
        config = bundle.config if config is None else config
        require_alone(config)
        bundle.check(config, other_market=True)
        market = as_live(config.market)
        self.desk = Desk(dataclasses.replace(config, market=market), 1, autoreset=False)
        link = self.desk.external
        assert isinstance(link, Live.Link)
        self.program = Program(bundle.network)
        self.names = order_names(config.quote)
        """Entries of `orders`; see `order_names`."""
        self._numbers = np.zeros(2 + len(self.names), np.int64)
        self._numbers[:2] = window
        self.orders = self._numbers[2:]
        """The orders after the last outcome, in place."""
        # As bytes: numpy copies records field by field.
        self._outcome = link.outcomes.view(f"V{OUTCOME.itemsize}")
        self._taken = None if config.quote.taking is None else link.taken.view(f"V{TAKEN.itemsize}")
        self._nothing = np.zeros(1, state.PARAMS)
        event, orders = [self._call(take_outcome, self._outcome)], [self._give_quotes()]
        if self._taken is not None:
            event.append(self._call(take_taken, self._taken))
            orders.append(self._call(give_market_order, self.orders[-len(MARKET_ORDER) :]))
        policy = self._call(act, self.program.operations)
        self._plans = self.desk.event_plans(event, policy, orders, stamp)
        self._step, self._plan_at = plan.entry(plan.step_alone), address(self._plans.following)

    def _call(self, stage: Stage, array: np.ndarray) -> Call:
        """A stage that works on an array; the plans keep the call."""
        place = np.zeros(1, PLACE)
        place[0] = address(array), array.size
        return Call(stage, place, self._nothing)

    def _give_quotes(self) -> Call:
        """From the decision to the entries of `orders` that are quotes."""
        if self.desk.stages.levels is None:
            return self._call(give_orders, self._numbers)
        levels, orders = self.desk.stages.levels
        places = np.zeros(1, LEVELS_AT)
        parts = self._numbers, ONE, self.orders, orders
        places[0] = *(address(part) for part in parts), int(orders["most"][0])
        # An action of another kind brings a record of its own.
        own = (
            give_levels
            if levels.dtype == LADDER
            else Stage(give_levels.function, levels.dtype, LEVELS_AT, EMPTY)
        )
        return Call(own, levels, places)

    def start(self, outcome: np.void, position: int = 0) -> np.ndarray:
        """The first orders of a session: this book, this position, and a policy without memories."""
        self._take(outcome, None)
        self.desk.reset(positions=np.array([position], np.int32))
        self.program.state[:] = 0
        plan.step_at(address(self._plans.first))
        return self.orders

    def quote(self, outcome: np.void, taken: np.void | None = None) -> np.ndarray:
        """The orders after `outcome`, the same array at every call; `taken`, TAKEN, is what market orders
        filled, None: nothing. Raises `TypeError` for any other records."""
        self._take(outcome, taken)
        self._step(self._plan_at)
        return self.orders

    def _take(self, outcome: np.void, taken: np.void | None) -> None:
        if outcome.dtype != OUTCOME:
            raise TypeError(f"outcome = {outcome!r} is not possible: it must be an OUTCOME record.")
        self._outcome[0] = outcome
        if self._taken is not None:
            self._taken[0] = NOTHING_TAKEN if taken is None else taken
        elif taken is not None:
            raise TypeError(f"taken = {taken!r} is not possible: this policy sends no market orders.")


@dataclass(frozen=True)
class Session:
    """What a desk met and did, decision by decision."""

    outcomes: np.ndarray
    """OUTCOME (D,): what was known at each decision; the first of an episode has the book alone."""
    taken: np.ndarray
    """TAKEN (D,): what market orders had filled by then."""
    starts: np.ndarray
    """bool (D,): an episode begins here."""
    observations: np.ndarray
    """float32 (D, F)."""
    orders: np.ndarray
    """int64 (D, orders): what was asked for, as `order_names` has it."""


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
    asked = Asked(desk)
    outcomes, taken = np.zeros(decisions, OUTCOME), np.zeros(decisions, TAKEN)
    orders = np.zeros((decisions, len(order_names(config.quote))), np.int64)
    starts, observations = np.zeros(decisions, bool), np.zeros((decisions, desk.width), np.float32)
    core, over, mid = desk.core, True, 0
    for k in range(decisions):
        if over:
            observation = desk.reset()[0]
            stream.reset()
        starts[k], observations[k] = over, observation
        _to_outcome(core[0], mid, over, outcomes[k], taken[k])
        mid = int(core["mid"][0, 0])
        asked.note()
        out = desk.step(stream.step(observation)[None])
        orders[k] = asked.orders()
        observation, over = out.observations[0], bool(out.terminated[0] or out.truncated[0])
        if progress:
            progress()
    desk.close()
    return Session(outcomes, taken, starts, observations, orders)


class Asked:
    """What a desk of one environment asked for in a step, by the book of before it."""

    SEEN = ("mid", "spread", "best_bid_lots", "best_ask_lots")

    def __init__(self, desk: Desk) -> None:
        quote = desk.config.quote
        self._core, self._ladder = desk.core, desk.stages.ladder
        self._seen = [desk.core[name].copy() for name in self.SEEN]
        self._window = np.array([WIDEST], np.int64)
        self._quotes = np.zeros((1, 4 * quote.side_orders), np.int64)
        self._taker = np.zeros((int(quote.taking is not None), 2), np.int64)
        self._levels = np.zeros(1, LEVEL_ORDERS)

    def note(self) -> None:
        """Before the step."""
        for name, seen in zip(self.SEEN, self._seen, strict=True):
            seen[...] = self._core[name]

    def orders(self) -> np.ndarray:
        """After it; see `order_names`."""
        core = self._core
        after = [core[name].copy() for name in self.SEEN]
        self._put(self._seen)
        if self._ladder is None:
            take_quotes(core, self._window, self._quotes)
        else:
            take_levels(core, self._ladder, self._levels, self._window, ONE, self._quotes)
        take_market_orders(core, self._taker)
        self._put(after)
        return np.concatenate([self._quotes[0], self._taker.ravel()])

    def _put(self, values: Sequence[np.ndarray]) -> None:
        for name, value in zip(self.SEEN, values, strict=True):
            self._core[name] = value


def _to_outcome(core: Any, before: int, first: bool, outcome: np.void, taken: np.void) -> None:
    """The core of a desk as an OUTCOME and a TAKEN, the mid having been `before`: what `give_outcomes` and
    `give_taken` undo."""
    names = ("mid", "spread", "best_bid_lots", "best_ask_lots", "buy_lots", "sell_lots", "trades")
    now = {name: int(core[name][0]) for name in names}
    mid, spread = now.pop("mid"), now.pop("spread")
    if spread <= 0 or (2 * mid - spread) % 4:
        raise ConfigError(
            "A session is recorded on a market with a book in whole ticks, such as book or replay."
        )
    outcome["best_bid_ticks"], outcome["best_ask_ticks"] = (2 * mid - spread) // 4, (2 * mid + spread) // 4
    for name, value in now.items():
        if not first or name.startswith("best"):
            outcome[name] = value
    if first:
        return
    lots = now["buy_lots"] + now["sell_lots"]
    # Only the sum of both notionals is used.
    outcome["buy_notional"] = (int(core["trade_value"][0]) + lots * before) // 2
    for side, sign, verb in (("ask", 1, "sold"), ("bid", -1, "bought")):
        at_market, edge = int(core[f"taken_{side}"][0]), int(core[f"taken_{side}_edge"][0])
        taken[f"{verb}_lots"], taken[f"{verb}_notional"] = at_market, (sign * edge + at_market * before) // 2
        # Fills of the step have those of market orders among them.
        left, rest = int(core[f"{side}_fill"][0]) - at_market, int(core[f"{side}_edge"][0]) - edge
        outcome[f"{side}_fill_lots"], outcome[f"{side}_fill_notional"] = (
            left,
            (sign * rest + left * before) // 2,
        )
