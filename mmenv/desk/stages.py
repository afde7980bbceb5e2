"""The order of a step: which compiled stages run, one after another, for every market and every desk.

    decide    turn     a new step begins
              action   numbers in [-1, 1] -> distances and sizes       (mmenv.actions)
              risk     sizes cut to what the limits allow              (mmenv.step.risk)
              limit    market orders, where the action sends any       (mmenv.step.taker)
              hold     orders stay where a new price is near           (mmenv.step.hold)
    market    fill     our market orders, where there are any          (mmenv.step.taker)
                       orders of others, our fills, the mid            (mmenv.market; or a venue outside)
    account   follow   our orders in a market outside                  (mmenv.step.orders)
              book     fills of market orders among the others         (mmenv.step.taker)
              settle   fills -> position, cash, attribution            (mmenv.step.ledger)
              charge   taker fee in place of the maker fee             (mmenv.step.taker)
              track    entry price and holding time                    (mmenv.step.ledger)
              moves    window of moves that features share             (mmenv.step.episode)
              rewards  terms of the reward, added up                   (mmenv.rewards)
              updates  windows of the feature groups                   (mmenv.features)
    observe            feature groups write their rows of the tile     (mmenv.features)
    restart   begin    lanes that are done start an episode            (mmenv.step.episode)
              draw     parameters of the family                        (mmenv.desk.family)
              market   the market's own reset                          (mmenv.market)
              began    no lane is done any more                        (mmenv.step.episode)

A simulated step runs decide, market, account, observe and, for lanes that are done, restart and observe
again. A replay hands what `decide` made to a venue in place of `market`. A live desk runs the two halves the
other way round, because there the market speaks first: account and observe when an event has come, then the
policy, then decide. `docs/architecture.md` walks one event through all three.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mmenv.config import EnvConfig, group_features
from mmenv.desk.family import Family, draw, varies_market
from mmenv.engine.memory import aligned_zeros
from mmenv.engine.stage import Call, Stage
from mmenv.engine.state import EMPTY, PARAMS
from mmenv.features.base import GROUPS
from mmenv.rewards.base import add
from mmenv.rewards.base import begin as first_term
from mmenv.step import episode, taker
from mmenv.step.hold import NEAR, hold
from mmenv.step.ledger import settle, track
from mmenv.step.levels import ORDERS, follow_level_places, follow_levels
from mmenv.step.orders import PLACED, follow, follow_places
from mmenv.step.risk import risk


@dataclass(frozen=True)
class Stages:
    """The calls of a step in their order, and the memory that they keep between steps."""

    decide: list[Call]
    market: list[Call]
    account: list[Call]
    observe: list[Call]
    restart: list[Call]
    states: list[np.ndarray]
    """What the next step depends on beside the core, one record for each block."""
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    """The states of feature groups by name."""
    terms: list[np.ndarray] = field(default_factory=list)
    """The states of the reward terms that the ledger publishes beside its own rows."""
    levels: tuple[np.ndarray, np.ndarray] | None = None
    """For a market outside to which an action gives several orders a side: see
    `mmenv.market.outside.ExternalMarket.take_levels`."""
    ladder: np.ndarray | None = None
    """The record of an action with several orders a side: `mmenv.actions.base.Further.levels`."""
    standing: np.ndarray | None = None
    """What is left of them where the market has queues: `mmenv.engine.state.STANDING` of each block."""


def make_stages(config: EnvConfig, blocks: int, family: Family | None, simulated: bool) -> Stages:
    """The stages of `blocks` blocks of environments; without those of a market that is not `simulated`."""
    params = make_params(config)
    nothing = np.zeros(1, EMPTY)

    def call(stage: Stage, own: np.ndarray = nothing, row: int = 0) -> Call:
        return Call(stage, own, params, row)

    unit = config.market.price_scale
    quotes = config.quote.compiled(unit, config.market.on_ticks)
    further = config.quote.further(unit, config.market.on_ticks, blocks)
    several = further.levels is not None
    market = config.market.stages(blocks, varies_market(config), several) if simulated else None
    if market is not None and market.levels is not None:
        further = further.on(market.levels)
    decide = [call(episode.turn), call(config.quote.stage, quotes)]
    decide += [*(call(*more) for more in further.decide), call(risk)]
    taking = config.quote.taking
    terms_of_taking = nothing if taking is None else taker.terms(taking, config.risk.taker_spacing, unit)
    if taking is not None:
        decide.append(call(taker.limit, terms_of_taking))
    if config.quote.requote_ticks:
        decide.append(call(hold, np.array([(2 * config.quote.requote_ticks,)], NEAR)))
    states = [market.state] if market is not None and market.state is not None else []

    after = [*further.fill, *(further.surprise if "surprise" in config.features else ())]
    if market is not None and market.levels is not None:
        after = []  # it has filled them all
    trades = [*market.step, *(call(*more) for more in after)] if market is not None else []
    account = [call(settle), call(track), call(episode.moves)]
    if taking is not None:
        account[:1] = [call(taker.book), call(settle), call(taker.charge, terms_of_taking)]
        if simulated:
            trades.insert(0, call(taker.fill, terms_of_taking))
    placed, levels, exact = [], None, config.market.knows_places
    if not simulated and further.levels is not None:
        placed = [aligned_zeros(blocks, ORDERS)]
        placed[0]["most"] = config.quote.side_orders
        levels = further.levels, placed[0]
        account.insert(0, call(follow_level_places if exact else follow_levels, placed[0]))
    elif not simulated:
        placed = [aligned_zeros(blocks, PLACED)]
        account.insert(0, call(follow_places if exact else follow, placed[0]))
    terms = []
    for k, term in enumerate(config.reward.all_terms()):
        own = aligned_zeros(blocks, term.stage.own)
        account.append(Call(term.stage, own, term.compiled(unit, config.market.step_seconds)))
        account.append(call(add if k else first_term, own))
        terms.append(own)
    published = terms[len(terms) - len(config.reward.terms) :]

    standing = market.standing if market is not None else None if levels is None else levels[1]["standing"]
    if standing is not None:
        standing["most"] = config.quote.side_orders
    groups, observe, row = {}, [], 0
    for group in (GROUPS[name] for name in config.features):
        groups[group.name] = own = aligned_zeros(blocks, group.own)
        if group.update is not None:
            account.append(call(group.update, own))
        observe.append(call(group.observe, own, row))
        if standing is not None and group.observe_further is not None:
            further_row = row + len(group.entries(config.market, config.randomise))
            observe.append(call(group.observe_further, standing, further_row))
        row += len(group_features(group.name, config))

    drawn = []
    if family is not None:
        records = market.family if market is not None else None
        drawn = [Call(draw, nothing if records is None else records, family.params)]
    restart = [call(episode.begin), *drawn, *(market.reset if market else ()), call(episode.began)]
    return Stages(
        decide=decide,
        market=trades,
        account=account,
        observe=observe,
        restart=restart,
        states=[*states, *groups.values(), *published, *placed],
        groups=groups,
        terms=published,
        levels=levels,
        ladder=further.levels,
        standing=standing,
    )


def make_params(config: EnvConfig) -> np.ndarray:
    """What the stages of the step read of a configuration, one record of `PARAMS`."""
    unit = config.market.price_scale
    params = np.zeros(1, PARAMS)
    for name, value in {
        "horizon": config.horizon,
        "start_inventory": config.start_inventory,
        "position_limit": config.risk.position_limit,
        "order_lots": config.risk.order_lots,
        "assets": config.market.assets,
        "parameters": len(config.randomise),
        "hidden": len(config.market.hidden),
        "loss_limit": config.risk.daily_loss_limit * unit,
        "reducing_loss": config.risk.daily_loss_limit * config.risk.reducing_at * unit,
        "per_unit": 1 / unit,
        "per_lot": 1 / config.market.lot_scale,
    }.items():
        params[name] = value
    return params
