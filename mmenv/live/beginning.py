"""What comes before a desk's first decision: code is loaded, the market measured, the journal looked at."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from decimal import Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmenv.checks import ConfigError, differences
from mmenv.data.rows import BBO, CLEAR, DEPTH, ROW, SNAPSHOT, TRADE
from mmenv.live.guard import BEFORE, GuardConfig
from mmenv.live.journal import Memory
from mmenv.live.market_feed import Instrument
from mmenv.live.plan import Plan
from mmenv.live.rerun import recover, setup_of
from mmenv.live.session import Session
from mmenv.live.setup import Player, Setup, require_orders, usual_orders
from mmenv.market.live import Live
from mmenv.market.units import units
from mmenv.times import MILLISECOND, SECOND
from mmenv.venue.view import View

WINDOW: Final = 0.1
"""Prices within this fraction of the first mid are followed."""
FROM_JOURNAL: Final = (
    "start_ns", "session", "low_tick", "high_tick", "position", "baseline", "dust", "base", "quote",
    "min_lots", "min_value", "reduces", "last_trade",
)  # fmt: skip
"""Fields of a `Setup` that a restart takes from the journal."""

OF_VENUE: Final = ("max_orders", *BEFORE)
"""Fields of a `GuardConfig` that a restart takes from the journal."""


def rehearse(plan: Plan, player: Player) -> None:
    """A session of two decisions that nobody hears of: compiled code is loaded before the market waits."""
    market = Live(step_seconds=plan.config.market.step_seconds, venue=plan.venue, symbol=plan.symbol)
    config = replace(plan.config, market=market, start_inventory=0)
    guard = GuardConfig(daily_loss=1e12, drawdown=1e12, position_limit=config.risk.position_limit)
    setup = Setup(
        config=config, guard=guard, policy="", mode="paper", session="", start_ns=2, tick_size="1",
        lot_size="1", low_tick=100, high_tick=2000,
    )  # fmt: skip
    session = Session(setup, player, Memory())
    kinds = ((CLEAR, 0), (SNAPSHOT, 1), (SNAPSHOT, -1), (DEPTH, 1), (BBO, 1), (BBO, -1), (TRADE, 1))
    rows = np.array([(1, 1, kind, side, 1000 - side, 5, 1) for kind, side in kinds], ROW)
    session.feed(True, "")
    session.take(rows)
    for _ in range(2):
        session.tick(session.next_ns)
    player.reset()


def measure(plan: Plan, rows: NDArray[np.void]) -> tuple[Live, tuple[int, int]]:
    """The market with its units, and the window of prices to follow, by ROW rows [n] of the warm-up.

    Raises `ConfigError` where they say too little.
    """
    prices = rows["price"][rows["price"] > 0]
    middle = float(np.median(prices))
    window = max(round(middle * (1 - WINDOW)), 1), round(middle * (1 + WINDOW))
    step = plan.config.market.step_seconds
    price_unit, lot_unit = plan.price_unit, plan.lot_unit
    if not (price_unit and lot_unit):
        measured = units(_watch(View(*window), rows, round(step * SECOND)))
        price_unit, lot_unit = price_unit or measured[0], lot_unit or measured[1]
    live = Live(
        step_seconds=step, venue=plan.venue, symbol=plan.symbol, price_unit=price_unit, lot_unit=lot_unit
    )
    return live, window


def _watch(view: View, rows: NDArray[np.void], interval_ns: int) -> NDArray[np.void]:
    """OUTCOME [n] at every decision that could have been made, nothing quoted."""
    at, outcomes = 0, []
    for time_ns in range(int(rows["local_ns"][0]) + interval_ns, int(rows["local_ns"][-1]), interval_ns):
        end = int(np.searchsorted(rows["local_ns"], time_ns, side="right"))
        view.take(rows[at:end])
        view.observe(time_ns)
        if view.known:
            outcomes.append(view.outcomes.copy())
        view.begin()
        at = end
    if len(outcomes) < 2:
        raise ConfigError("the market was silent while it was measured; give price_unit and lot_unit.")
    return np.concatenate(outcomes)


def make_setup(
    plan: Plan, instrument: Instrument, market: Live, start_ns: int, window: tuple[int, int]
) -> Setup:
    """What a new session is made from, but for what it must know of the account."""
    fee = instrument.maker_fee_bp if plan.maker_fee_bp is None else plan.maker_fee_bp
    config = replace(plan.config, market=market, start_inventory=0, maker_fee_bp=fee)
    setup = Setup(
        config=config,
        guard=GuardConfig(
            daily_loss=1.0, drawdown=1.0, position_limit=config.risk.position_limit,
            max_orders=usual_orders(config.quote),
        ),
        policy=plan.policy,
        mode=plan.mode,
        session=f"nmm{plan.symbol}{start_ns // MILLISECOND:x}",
        start_ns=start_ns,
        tick_size=instrument.tick_size,
        lot_size=instrument.lot_size,
        low_tick=window[0],
        high_tick=window[1],
        base=instrument.quote if instrument.inverse else instrument.base,
        quote=instrument.base if instrument.inverse else instrument.quote,
        inverse=instrument.inverse,
        latency_ns=round(plan.latency_ms * MILLISECOND),
        queue_model=plan.queue_model,
    )  # fmt: skip
    guard = plan.guard
    if guard is None:
        loss = config.risk.daily_loss_limit * market.price_unit * setup.money
        guard = replace(setup.guard, daily_loss=loss, drawdown=loss)
    if plan.max_orders is not None:
        guard = replace(guard, max_orders=plan.max_orders)
    guard = _within_venue(guard, instrument.max_orders // plan.desks)
    require_orders(config.quote, guard.max_orders, "GuardConfig.max_orders")
    return replace(setup, guard=guard)


def check_size(plan: Plan, instrument: Instrument, window: tuple[int, int]) -> None:
    """Raise `ConfigError` where the venue would refuse the size of each order: of each level of a ladder with
    equal lots, of a whole market order."""
    quote, lots, worth = plan.config.quote, plan.config.risk.order_lots, Decimal(instrument.lot_size)
    if not instrument.inverse:
        worth *= Decimal(sum(window)) / 2 * Decimal(instrument.tick_size)
    need = max(instrument.min_lots, math.ceil(Decimal(instrument.min_notional) / worth))
    takes = (
        f"{instrument.venue} takes {instrument.min_lots} lots or more, worth {instrument.min_notional} "
        f"{instrument.quote} or more"
    )
    if lots < (least := need * quote.side_orders):
        each = f" for each of {quote.side_orders} levels" if quote.side_orders > 1 else ""
        raise ConfigError(
            f"order_lots = {lots} is too small: {takes}{each}; give --order-lots {least} or more."
        )
    if quote.taking is not None and quote.taking.lots < need:
        raise ConfigError(
            f"quote.taker_lots = {quote.taking.lots} is too small: {takes}; take a policy whose market "
            f"orders have {need} lots or more."
        )


def _within_venue(guard: GuardConfig, allowed: int) -> GuardConfig:
    """The limits, where the venue takes no more than so many new orders in ten seconds of this desk."""
    if not allowed:
        return guard
    allowed = max(int(allowed * min(guard.order_window_s, 10.0) / 10.0), 3)
    return replace(guard, max_orders=min(guard.max_orders, allowed))


def recovered(plan: Plan, instrument: Instrument, player: Player) -> Session:
    """The session in the plan's journal, as it was. Raises `ConfigError` if it was made by another plan."""
    found = setup_of(plan.journal)
    if plan.mode == "live" and plan.maker_fee_bp is None:
        # Fees are counted as charged; the rate may be another by now, and is but an estimate.
        plan = replace(plan, maker_fee_bp=found.config.maker_fee_bp)
    # It may have changed since the journal began, which says so further on.
    instrument = replace(instrument, tick_size=found.tick_size, lot_size=found.lot_size)
    asked = make_setup(plan, instrument, found.market, 0, (found.low_tick, found.high_tick))
    # Its limits may have changed since, and the throttle knows those of today; but fewer orders than the
    # journal's are another setting.
    of_venue = {name: getattr(found.guard, name) for name in OF_VENUE}
    if plan.max_orders is not None:
        of_venue["max_orders"] = min(plan.max_orders, found.guard.max_orders)
    guard = replace(asked.guard, **of_venue)
    asked = replace(asked, guard=guard, **{name: getattr(found, name) for name in FROM_JOURNAL})
    ours, theirs = (json.loads(setup.to_json()) for setup in (asked, found))
    if differ := "; ".join(differences(ours, theirs)):
        raise ConfigError(
            f"{plan.journal} is of a session with other settings ({differ}). "
            "Use the same, or move it (and its parts) away to begin a new session."
        )
    return recover(plan.journal, player, plan.sync)
