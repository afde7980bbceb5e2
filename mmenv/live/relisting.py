"""What a session must know anew when the venue changes its instrument: ticks, lots and limits in new units.

Prices, positions and limits keep their meaning in money; a limit that does not come out even is rounded down,
so that none gets wider.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal

from mmenv.checks import ConfigError
from mmenv.live.market_feed import Instrument
from mmenv.live.setup import Setup


@dataclass(frozen=True)
class Terms:
    """An instrument's terms in a journal: sizes are exact decimal text, `min_value` is in ticks x lots."""

    tick_size: str
    lot_size: str
    min_lots: int
    min_value: int


def terms_of(instrument: Instrument) -> Terms:
    """The terms of an instrument."""
    tick, lot = Decimal(instrument.tick_size), Decimal(instrument.lot_size)
    value = Decimal(instrument.min_notional)
    min_lots, min_value = instrument.min_lots, math.ceil(value / (tick * lot))
    if instrument.inverse:
        # A lot is worth the same at any price.
        min_lots, min_value = max(min_lots, math.ceil(value / lot)), 0
    return Terms(instrument.tick_size, instrument.lot_size, min_lots, min_value)


def changed(setup: Setup, instrument: Instrument) -> str:
    """What of an instrument is not as a session knows it; empty if all is."""
    found = terms_of(instrument)
    names = ["tick_size", "lot_size"]
    if setup.mode == "live":
        names += ["min_lots", "min_value"]
    pairs = ((name, getattr(setup, name), getattr(found, name)) for name in names)
    return ", ".join(f"{name} {was} is now {now}" for name, was, now in pairs if _differ(was, now))


def _differ(was: str | int, now: str | int) -> bool:
    return Decimal(was) != Decimal(now)


def relisted(setup: Setup, terms: Terms, position: int, owed: Decimal) -> tuple[Setup, Decimal]:
    """The setup in new units with `position` lots of the old ones held, and what is owed of less than a lot.

    Raises `ConfigError` where an order would be less than the smallest there is.
    """
    tick, lot = Decimal(terms.tick_size), Decimal(terms.lot_size)
    ticks, lots = Decimal(setup.tick_size) / tick, Decimal(setup.lot_size) / lot
    config, market = setup.config, setup.market
    sizes = {
        name: int(getattr(config.risk, name) * Decimal(setup.lot_size) / lot)
        for name in ("position_limit", "order_lots")
    }
    if sizes["order_lots"] < terms.min_lots:
        raise ConfigError(
            f"order_lots = {config.risk.order_lots} of {setup.lot_size} is too small now: the venue takes "
            f"{terms.min_lots} lots of {terms.lot_size} or more; begin a new session with more."
        )
    own = Decimal(setup.baseline) * Decimal(setup.lot_size) + Decimal(setup.dust)
    baseline = int(own / lot)
    held = position * Decimal(setup.lot_size) - owed
    market = replace(
        market,
        price_unit=max(round(market.price_unit * ticks), 1),
        lot_unit=market.lot_unit * float(lots),
    )
    low = max(math.floor(setup.low_tick * ticks), 1)
    quote = replace(config.quote.in_new_lots(lots), requote_ticks=int(config.quote.requote_ticks * ticks))
    made = replace(
        setup,
        config=replace(config, market=market, quote=quote, risk=replace(config.risk, **sizes)),
        guard=replace(
            setup.guard,
            position_limit=max(int(setup.guard.position_limit * Decimal(setup.lot_size) / lot), 1),
        ),
        tick_size=terms.tick_size,
        lot_size=terms.lot_size,
        min_lots=terms.min_lots,
        min_value=terms.min_value,
        low_tick=low,
        high_tick=max(math.ceil(setup.high_tick * ticks), low + 2),
        baseline=baseline,
        dust=f"{own - baseline * lot:f}" if own != baseline * lot else "0",
        position=round(held / lot),
    )
    return made, made.position * lot - held
