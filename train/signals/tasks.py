"""What each signal is taught: its inputs, its network, its labels, and what it must beat.

docs/signals.md gives the reasons for every input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.features.base import Feature
from mmenv.market.book import Book
from mmenv.market.correlated import Correlated
from mmenv.market.hidden_regime import HiddenRegime
from mmenv.market.replay import Replay
from mmenv.observation import observation_features
from mmenv.recording import labels
from mmenv.recording.windows import Recording
from mmenv.step.sizing import loss_per_lot
from policies.base import spread_skew
from policies.signals.exact import Filter, forecast
from policies.signals.network import Design, Head
from train.baselines import measured_dynamics
from train.signals.inputs import BOOK, DETECTOR, INVENTORY, MARKET, ORDER_FLOW, OWN_ASSET, RISK

Array = np.ndarray

Mirror = Callable[[Array], Array]
"""Targets, (..., heads), of the same rows with buyers and sellers exchanged."""


@dataclass(frozen=True)
class Labels:
    """Targets of a recording."""

    values: Array
    """float32 (R, heads), NaN where unknown."""
    horizon: int
    """Rows ahead that they are made of."""
    exact: dict[str, Array]
    """Forecasts that nothing can beat, by head, float64 (R,), where they are known."""
    alone: dict[str, Array] = field(default_factory=dict)
    """Those that nothing can beat which sees the quoted asset alone."""


@dataclass(frozen=True)
class Task:
    """One of the signals."""

    name: str
    what: str
    lookback: int
    """Rows that a window for it has; training sequences are at least as long."""
    inputs: Callable[[EnvConfig], tuple[str, ...]]
    design: Callable[[EnvConfig, Any], Design]
    label: Callable[[Recording, Any], Labels]
    mirror: Mirror
    horizons: tuple[float, ...]
    """Default horizons of the labels, seconds."""
    groups: tuple[str, ...] = ()
    """Feature groups that are recorded for it besides the usual ones."""
    inventory: bool = False
    """Its data are recorded under the position limit, from random positions."""
    limits: str = ""
    """Limits of its use, for the card."""


def steps(config: EnvConfig, seconds: float) -> int:
    """Decisions in a time, at least one."""
    return max(round(seconds / config.market.step_seconds), 1)


def column(recording: Recording, name: str) -> Array:
    return recording.features[:, recording.columns((name,))[0]]


def _span(seconds: float) -> str:
    return f"{seconds:g}s"


# --- Order flow ---------------------------------------------------------------------------------------------


def _order_flow_design(config: EnvConfig, options: Any) -> Design:
    span = _span(options.horizons[0])
    head = Head("flow_up", "probability", f"chance that the mid's move in {span}, if any, is upward")
    return Design((len(ORDER_FLOW),), 0, (64, 32), (), (head,), dropout=options.dropout)


def _order_flow_labels(recording: Recording, options: Any) -> Labels:
    horizon = steps(recording.config, options.horizons[0])
    change = labels.price_change(recording.field("mid"), recording.first, horizon)
    up = np.where(change == 0, np.nan, change > 0)
    up[np.isnan(change)] = np.nan
    exact = {}
    if type(recording.config.market) is HiddenRegime:
        known, beliefs = _beliefs(recording)
        exact["flow_up"] = known.direction(beliefs, horizon)
    return Labels(up[:, None].astype(np.float32), horizon, exact)


def _beliefs(recording: Recording) -> tuple[Filter, Array]:
    market = recording.config.market
    assert isinstance(market, HiddenRegime)
    known = Filter(market)
    mid, buy, sell = (recording.field(name) for name in ("mid", "buy_lots", "sell_lots"))
    return known, known.beliefs(mid, buy, sell, recording.first)


# --- Fair value ---------------------------------------------------------------------------------------------


def _fair_inputs(config: EnvConfig) -> tuple[str, ...]:
    if not isinstance(config.market, Book):
        raise ConfigError(
            f"--data = {config.market.name!r} is not possible: fair-value learns from the efficient price of "
            "a simulated book, so it must be 'book'."
        )
    return BOOK


def _fair_design(config: EnvConfig, options: Any) -> Design:
    head = Head("fair_gap", "value", "efficient price less mid, price units", -10.0, 10.0)
    return Design((len(BOOK),), 0, options.lstm or (64,), (64,), (head,), dropout=options.dropout)


def _fair_labels(recording: Recording, options: Any) -> Labels:
    return Labels(column(recording, "latent")[:, None].astype(np.float32), 1, {})


# --- Adverse selection --------------------------------------------------------------------------------------

SIDES = (("ask", 1), ("bid", -1))


def _adverse_names(options: Any) -> list[tuple[str, float, str, int]]:
    return [(f"adverse_{side}_{_span(h)}", h, side, sign) for side, sign in SIDES for h in options.horizons]


def _adverse_design(config: EnvConfig, options: Any) -> Design:
    heads = tuple(
        Head(name, "probability", f"chance that a fill of our {side} now has lost money after {_span(h)}")
        for name, h, side, _ in _adverse_names(options)
    )
    return Design((), len(DETECTOR), (), (128, 64, 32), heads, dropout=options.dropout)


def _adverse_labels(recording: Recording, options: Any) -> Labels:
    mid, first = recording.field("mid"), recording.first
    values, exact = [], {}
    solvable = type(recording.config.market) is HiddenRegime
    known, beliefs = _beliefs(recording) if solvable else (None, None)
    for name, seconds, side, sign in _adverse_names(options):
        horizon = steps(recording.config, seconds)
        fills, edge = recording.field(f"{side}_fill"), recording.field(f"{side}_edge")
        cost = labels.markout_cost(mid, fills, edge, first, horizon, sign)
        values.append(np.where(np.isnan(cost), np.nan, cost > 0))
        if known is not None and beliefs is not None:
            distance = recording.field(f"{side}_distance")
            exact[name] = known.adverse(beliefs, horizon, int(distance[first[0] + 1]), sign)
    longest = max(steps(recording.config, seconds) for seconds in options.horizons)
    return Labels(np.stack(values, axis=1).astype(np.float32), longest, exact)


def _swap_sides(values: Array) -> Array:
    half = values.shape[-1] // 2
    return np.concatenate([values[..., half:], values[..., :half]], axis=-1)


# --- Multi-task ---------------------------------------------------------------------------------------------

SPREAD_WINDOW_SECONDS = 4.0
"""Window of fills of the half-spread label, in multiples of the horizon."""
LEVELS = 10
PROBE_DECISIONS = 300
"""Length of the episodes from which the fill rate is fitted where the market does not say it."""


def _multi_design(config: EnvConfig, options: Any) -> Design:
    span = _span(options.horizons[0])
    box = spread_skew(config, "the signal multi-task")
    heads = (
        Head("multi_move", "value", f"move of the mid in the next {span}, price units", -10.0, 10.0),
        Head(
            "multi_half_spread",
            "bounded",
            "half-spread that earns most, price units",
            box.min_half_spread,
            box.max_half_spread,
        ),
        Head("multi_position", "tanh", "position to hold now / position limit", -1.0, 1.0),
    )
    return Design(
        (len(MARKET),), len(INVENTORY), options.lstm or (128, 64), (128, 64), heads, dropout=options.dropout
    )


def _multi_labels(recording: Recording, options: Any) -> Labels:
    config, mid, first = recording.config, recording.field("mid"), recording.first
    unit = config.market.price_scale
    horizon = steps(config, options.horizons[0])
    window = steps(config, SPREAD_WINDOW_SECONDS * options.horizons[0])
    decay, box = fill_decay(config), spread_skew(config, "the signal multi-task")
    move = labels.price_change(mid, first, horizon) / unit
    half = labels.optimal_half_spread(
        mid,
        recording.field("ask_fill"),
        recording.field("bid_fill"),
        first,
        horizon=horizon,
        window=window,
        fill_decay=decay / unit,
        low=box.min_half_spread * unit,
        high=box.max_half_spread * unit,
    )
    # Half a spread to trade; per unit of q in [-1, 1], so penalties are those of a full position per lot.
    limit = config.risk.position_limit
    position = labels.position_signal(
        mid,
        first,
        horizon=window,
        levels=LEVELS,
        cost=unit / decay,
        penalty=config.reward.inventory_penalty * config.market.step_seconds * limit * unit,
        start=np.clip(recording.field("position") / limit, -1.0, 1.0),
    )
    return Labels(np.stack([move, half / unit, position], axis=1).astype(np.float32), window + horizon, {})


def fill_decay(config: EnvConfig) -> float:
    """k of the rate of fills A exp(-k d), per price unit: the market's own, or fitted to probes of it."""
    known = getattr(config.market, "fill_decay", None)
    if known is not None:
        return float(known)
    probed = dataclasses.replace(
        config, features=EnvConfig.features, start_inventory=0, horizon=PROBE_DECISIONS
    )
    if isinstance(config.market, Replay):
        probed = dataclasses.replace(probed, market=dataclasses.replace(config.market, split="train"))
    return measured_dynamics(probed)["fill_decay"]


def _mirror_multi(values: Array) -> Array:
    return values * np.array([-1, 1, -1], values.dtype)


# --- Cross-asset --------------------------------------------------------------------------------------------


def _cross_inputs(config: EnvConfig) -> tuple[str, ...]:
    others = config.market.assets
    if not isinstance(config.market, Correlated):
        raise ConfigError(
            f"--data = {config.market.name!r} is not possible: it must be a market that shows other assets, "
            "such as 'correlated'."
        )
    return (
        *OWN_ASSET,
        *(f"asset_{k}_{name}" for k in range(1, others + 1) for name in ("return", "flow", "relative")),
    )


def _cross_design(config: EnvConfig, options: Any) -> Design:
    head = Head(
        "cross_move",
        "value",
        f"move of the mid in the next {_span(options.horizons[0])}, price units",
        -10,
        10,
    )
    streams = (len(OWN_ASSET),) * (1 + config.market.assets)
    return Design(
        streams, 0, options.lstm or (32,), (32,), (head,), shared=options.shared, dropout=options.dropout
    )


def _move_labels(recording: Recording, options: Any) -> Labels:
    horizon = steps(recording.config, options.horizons[0])
    change = labels.price_change(recording.field("mid"), recording.first, horizon)
    unit = recording.config.market.price_scale
    exact: dict[str, Array] = {}
    alone: dict[str, Array] = {}
    if type(recording.config.market) is Correlated:
        exact, alone = ({"cross_move": _kalman(recording, horizon, others)} for others in (True, False))
    return Labels((change / unit)[:, None].astype(np.float32), horizon, exact, alone)


def _kalman(recording: Recording, horizon: int, others: bool) -> Array:
    """The best forecast of the mid's move over `horizon` steps, price units, float64 (R,); without the
    `others`, of those that see the quoted asset alone."""
    market = recording.config.market
    assert isinstance(market, Correlated)
    known = forecast(market, others=others)
    assets = range(1, market.assets + 1)
    moves = recording.columns(("return", *(f"asset_{k}_return" for k in assets)))
    flows = recording.columns(tuple(f"asset_{k}_flow" for k in assets))
    result = np.empty(len(recording))
    for begin, end in zip(recording.first[:-1], recording.first[1:], strict=True):
        x = recording.features[begin:end].astype(np.float64)
        result[begin:end] = known.filter(x[:, moves, None], x[:, flows, None])[:, 0]
    return result / known.speed * (1 - (1 - known.speed) ** horizon)


# --- Risk ---------------------------------------------------------------------------------------------------


def _risk_design(config: EnvConfig, options: Any) -> Design:
    head = Head(
        "risk_score",
        "probability",
        f"chance that the position loses more than its limit in {_span(options.horizons[0])}",
    )
    return Design((), len(RISK), (), (64, 32), (head,), dropout=options.dropout)


def _risk_labels(recording: Recording, options: Any) -> Labels:
    """The limit of a position: what the base size allows it to lose, at the usual volatility (see
    `mmenv.step.sizing`)."""
    horizon = steps(recording.config, options.horizons[0])
    mid, first, position = recording.field("mid"), recording.first, recording.field("position")
    moves = np.diff(mid.astype(np.int64))
    moves[first[1:-1] - 1] = 0
    # The first part of the recording, which belongs to training.
    usual = float(np.sqrt(np.mean(moves[: len(moves) // 2].astype(np.float64) ** 2)))
    limit = loss_per_lot(np.array(usual), horizon, options.quantile)
    loss = -np.sign(position) * labels.price_change(mid, first, horizon)
    values = np.where(np.isnan(loss) | (position == 0), np.nan, loss > limit)
    return Labels(values[:, None].astype(np.float32), horizon, {})


# --- All of them --------------------------------------------------------------------------------------------

TASKS = {
    task.name: task
    for task in (
        Task(
            "order-flow",
            "chance of an upward move, from eight order-flow features",
            100,
            lambda config: ORDER_FLOW,
            _order_flow_design,
            _order_flow_labels,
            lambda values: 1 - values,
            (1.0,),
            limits="The chance is given that the mid moves at all within the horizon.",
        ),
        Task(
            "fair-value",
            "efficient price less mid, from 20 market features and the queues",
            100,
            _fair_inputs,
            _fair_design,
            _fair_labels,
            lambda values: -values,
            (1.0,),
            groups=("queues", "latent"),
            limits="Taught by a simulated market, which knows its efficient price; no tape says it.",
        ),
        Task(
            "adverse-selection",
            "chance that a fill now loses money, from fifteen features of trades and book",
            1,
            lambda config: DETECTOR,
            _adverse_design,
            _adverse_labels,
            _swap_sides,
            (1.0, 5.0),
            limits="Chances are given a fill, of a quote at the distance that was recorded.",
        ),
        Task(
            "multi-task",
            "price, half-spread and position, from 20 market features and 5 of the inventory",
            60,
            lambda config: (*MARKET, *INVENTORY),
            _multi_design,
            _multi_labels,
            _mirror_multi,
            (5.0,),
            inventory=True,
            limits="holding_time and risk_exposure are fractions of the recorded horizon and loss limit: use "
            "it under the same.",
        ),
        Task(
            "cross-asset",
            "price forecast from the quoted asset and the observed ones",
            60,
            _cross_inputs,
            _cross_design,
            _move_labels,
            lambda values: -values,
            (1.0,),
            limits="Inputs are those of the assets it was trained with, in their order.",
        ),
        Task(
            "risk",
            "chance that the position loses more than its limit, from ten inputs",
            1,
            lambda config: RISK,
            _risk_design,
            _risk_labels,
            lambda values: values,
            (6.0,),
            inventory=True,
            limits="news and macro were neutral throughout training: other values mean nothing to it yet.",
        ),
    )
}


def features_of(config: EnvConfig, names: tuple[str, ...]) -> tuple[Feature, ...]:
    """The features of these names under `config`."""
    known = {feature.name: feature for feature in observation_features(config)}
    return tuple(known[name] for name in names)


def recording_config(config: EnvConfig, task: Task) -> EnvConfig:
    """`config` as it is recorded: all features a signal may read; without limits where inventory is no
    matter, so that quotes never stop."""
    observed = ("observed",) if config.market.assets else ()
    usual = ("order_flow", "trade_book", "microstructure", "inventory", "risk")
    groups = (*usual, *observed, *task.groups)
    config = dataclasses.replace(config, features=groups, signals=(), manager=None)
    if task.inventory:
        return dataclasses.replace(config, start_inventory=config.risk.position_limit)
    wide = dataclasses.replace(config.risk, position_limit=1_000_000, daily_loss_limit=1e9)
    return dataclasses.replace(config, risk=wide)
