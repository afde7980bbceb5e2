"""Tick to quote: what the market did in, orders out, in one compiled call.

    outcome -> ledger, features -> policy -> quote -> risk -> orders

The stages are the desk's own (`mmenv.desk.desk`) with the policy as one more among them: there is no second
implementation of anything, and the outcomes of a session give the orders of that session.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.np.numpy_support import carray

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.desk.desk import Desk
from mmenv.engine import plan, state
from mmenv.engine.memory import address, array_at, pointer_to
from mmenv.engine.stage import Call, stage
from mmenv.engine.state import TILE
from mmenv.market.base import Market
from mmenv.market.live import Live
from mmenv.market.outside import give_outcomes, take_quotes
from mmenv.venue.outcome import OUTCOME
from policies.bundle import Bundle
from policies.network.program import ACTION_AT, ACTIONS, INPUTS, MEMORY, Program, decide

ORDERS = ("ask_tick", "ask_lots", "bid_tick", "bid_lots")
"""Entries of the orders; 0 lots: that side is not quoted."""
WIDEST = (1, 2**30)
"""Ticks from the lowest to the highest that may be quoted, where no narrower ones are given."""

PLACE = np.dtype([("at", "i8"), ("size", "i8")])
OUTCOME_TYPE = from_dtype(OUTCOME)


@stage(PLACE)
def take_outcome(s, w, p, x):
    """The OUTCOME at `w` is the market's answer."""
    give_outcomes(carray(pointer_to(s), 1), array_at(w.at, OUTCOME_TYPE, 1))


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
    """Raise `ConfigError` unless the policy is the only network at the desk, and gives one quote a side."""
    if config.quote.taking is not None or config.quote.side_orders > 1:
        raise ConfigError(
            f"quote = {config.quote.name!r} is not possible for a desk that is one compiled call: it gives "
            "one quote a side, no market orders; neuralmm paper and live send those."
        )
    if config.networks:
        raise ConfigError(
            "A desk with signals or a risk manager is not one compiled call; give a bundle without them."
        )


class TickToQuote:
    """A policy at its desk: from each OUTCOME of an interval to orders, int64 (len(ORDERS),).

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
        # As bytes: numpy copies records field by field.
        self._outcome = link.outcomes.view(f"V{OUTCOME.itemsize}")
        self._numbers = np.array([*window, 0, 0, 0, 0], np.int64)
        self.orders = self._numbers[2:]
        """The orders after the last outcome, in place."""
        places = np.zeros(3, PLACE)
        operations = self.program.operations
        for i, array in enumerate((self._outcome, operations, self._numbers)):
            places[i] = address(array), array.size
        self._places = places  # the plans hold its address
        nothing = np.zeros(1, state.PARAMS)
        outcome, policy, orders = (
            Call(stage, places[i : i + 1], nothing)
            for i, stage in enumerate((take_outcome, act, give_orders))
        )
        self._plans = self.desk.event_plans(outcome, policy, orders, stamp)
        self._step, self._plan_at = plan.entry(plan.step_alone), address(self._plans.following)

    def start(self, outcome: np.void, position: int = 0) -> np.ndarray:
        """The first orders of a session: this book, this position, and a policy without memories."""
        self._take(outcome)
        self.desk.reset(positions=np.array([position], np.int32))
        self.program.state[:] = 0
        plan.step_at(address(self._plans.first))
        return self.orders

    def quote(self, outcome: np.void) -> np.ndarray:
        """The orders after `outcome`, the same array at every call."""
        self._take(outcome)
        self._step(self._plan_at)
        return self.orders

    def _take(self, outcome: np.void) -> None:
        if outcome.dtype != OUTCOME:
            raise TypeError(f"outcome = {outcome!r} is not possible: it must be an OUTCOME record.")
        self._outcome[0] = outcome


@dataclass(frozen=True)
class Session:
    """What a desk met and did, decision by decision."""

    outcomes: np.ndarray
    """OUTCOME (D,): what was known at each decision; the first of an episode has the book alone."""
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
    outcomes, orders = np.zeros(decisions, OUTCOME), np.zeros((decisions, len(ORDERS)), np.int64)
    starts, observations = np.zeros(decisions, bool), np.zeros((decisions, desk.width), np.float32)
    core, over, mid = desk.core, True, 0
    for k in range(decisions):
        if over:
            observation = desk.reset()[0]
            stream.reset()
        starts[k], observations[k] = over, observation
        _to_outcome(core[0], mid, over, outcomes[k])
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
    return Session(outcomes, starts, observations, orders)


def _to_outcome(core: Any, before: int, first: bool, outcome: np.void) -> None:
    """The core of a desk as an OUTCOME, the mid having been `before`: what `give_outcomes` undoes."""
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
    sold, bought = int(core["ask_fill"][0]), int(core["bid_fill"][0])
    # Only the sum of both notionals is used.
    outcome["buy_notional"] = (int(core["trade_value"][0]) + lots * before) // 2
    outcome["ask_fill_lots"] = sold
    outcome["ask_fill_notional"] = (int(core["ask_edge"][0]) + sold * before) // 2
    outcome["bid_fill_lots"] = bought
    outcome["bid_fill_notional"] = (bought * before - int(core["bid_edge"][0])) // 2
