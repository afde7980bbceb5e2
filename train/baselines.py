"""What a trained policy is judged against: the exact optima, and baselines tuned with the same care.

On a solvable market the analytic policies are tuned by their exact value; on recorded data by simulation on
the training split, with the market's parameters measured there too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmenv.actions.base import make_action
from mmenv.actions.spread_skew import SpreadSkew
from mmenv.actions.taker import MarketOrders, Taker
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.market.base import Market
from mmenv.market.basket import Basket
from mmenv.market.brownian import Brownian
from mmenv.market.bursts import Bursts
from mmenv.market.hidden_regime import HiddenRegime
from mmenv.market.replay import Replay
from mmenv.market.replay_basket import ReplayBasket, longest
from mmenv.market.stretch import stretches
from mmenv.measure.dynamics import market_dynamics, read_dynamics
from policies.analytic import dynamics
from policies.base import Policy, tuned_policies
from policies.basket.exact import solve_basket
from policies.basket.ladder import CLOSED_FORMS, basket_policies
from policies.basket.problem import make_basket_problem
from policies.make import make_policy
from policies.optimal import solve
from policies.solver.problem import make_problem
from policies.tune import tune
from train.simulate import EVALUATION_SEED, Interval, Outcome, simulate

CACHE = Path("logs/optima")
"""Solutions of the dynamic programmes are kept here."""

KINDS: dict[type[Market], list[str]] = {
    Brownian: ["optimum"],
    Bursts: ["optimum"],
    HiddenRegime: ["belief-optimal", "exponential-average", "memoryless"],
    Basket: ["basket-optimum"],
}
"""The solutions that are compared with, by market; the first is what no policy can beat."""

TUNING_EPISODES = 64
TAIL_EPISODES = 1024
"""The same where their tail counts."""
TAPE_EPISODES = 16
"""The same on tapes, which are short: they cover the training part many times over."""
SHORTEST = 60
"""Decisions of the shortest episodes that are played on tapes."""
TUNING_SEED = 2_000_000_000


@dataclass(frozen=True)
class Scale:
    """Where a value lies between what needs no skill (0%) and what cannot be beaten (100%)."""

    label: str
    zero: float
    one: float
    bottom: str = "no-trade"
    """What earns 0%."""
    top: str = "optimum"
    """What earns 100%."""
    gap: bool = False
    """Whether it is the gap that memory closes."""

    def percent(self, value: Any) -> Any:
        """The percentage of a value, or those of an array of them."""
        return 100 * (value - self.zero) / (self.one - self.zero)

    def percents(self, outcomes: Sequence[Outcome]) -> list[float]:
        """Those of policies on the same paths. Where what earns 100% is among them, theirs follow from paired
        differences to it: its own is 100, and the luck of the paths is nobody's. What earns 0% has that."""
        top = next((outcome for outcome in outcomes if outcome.name == self.top), None)
        if top is None:
            return [float(self.percent(outcome.value().mean)) for outcome in outcomes]
        return [
            0.0 if outcome.name == self.bottom else self.paired(outcome, top).mean for outcome in outcomes
        ]

    def paired(self, outcome: Outcome, top: Outcome) -> Interval:
        """The percentage of a policy, from its paired difference to `top`, which earns 100%."""
        return Interval(*(100 + 100 * less / (self.one - self.zero) for less in outcome.minus(top)))

    def exact(self, name: str) -> float:
        """The exact value of a policy; NaN where it is not one of the two of the scale."""
        return {self.bottom: self.zero, self.top: self.one}.get(name, math.nan)


def solvable(config: EnvConfig) -> bool:
    """Whether the optimum is known: fees, larger orders or other reward weights have none."""
    try:
        if isinstance(config.market, Basket):
            make_basket_problem(config)
        else:
            make_problem(config)
    except ConfigError:
        return False
    return type(config.market) in KINDS


def bound(config: EnvConfig) -> str | None:
    """The name of the policy that no other can beat, where it is known."""
    return KINDS[type(config.market)][0] if solvable(config) else None


def scale(config: EnvConfig, progress: bool = False) -> Scale | None:
    """Percent of the exact optimum, or of the gap between the best with and without memory, if known."""
    if not solvable(config):
        return None
    if isinstance(config.market, Basket):
        value = solve_basket(config, cache=CACHE, progress=progress).value
        return Scale("% of optimum", 0.0, value, top=KINDS[Basket][0])
    if isinstance(config.market, Brownian):
        return Scale("% of optimum", 0.0, solve(config, "optimum", cache=CACHE, progress=progress).value)
    kinds = "memoryless", "belief-optimal"
    zero, one = (solve(config, kind, cache=CACHE, progress=progress).value for kind in kinds)
    return Scale("% of memory gap", zero, one, *kinds, gap=True)


@dataclass(frozen=True)
class Best:
    """What earns 100% on some paths of a market."""

    scale: Scale
    outcome: Outcome

    @classmethod
    def of(
        cls, config: EnvConfig, episodes: int, seed: int = EVALUATION_SEED, progress: bool = False
    ) -> Best | None:
        """Play it; None where it is not known. `progress`: of solving."""
        kind, measure = bound(config), scale(config, progress)
        if kind is None or measure is None:
            return None
        config = with_observed(config)
        return cls(measure, simulate(make_policy(kind, config, cache=CACHE), config, episodes, seed=seed))

    def percent(self, outcome: Outcome) -> Interval:
        """The percentage of a policy on the same paths."""
        return self.scale.paired(outcome, self.outcome)


def closed_form_config(config: EnvConfig) -> EnvConfig:
    """The configuration that baselines quote under: `config` with the default action, whose box any pair of
    distances fits, with market orders where `config` has them, and with what they observe. What the others do
    on a path is the same under any."""
    config = with_observed(config)
    quote = config.quote
    if isinstance(quote, SpreadSkew):
        return config
    settings: dict[str, Any] = {}
    if isinstance(quote, MarketOrders):
        own = {each.name for each in dataclasses.fields(MarketOrders)} - {"requote_ticks"}
        settings = {"name": Taker.name, **{name: getattr(quote, name) for name in own}}
    default = make_action(settings or None, config.market.defaults().get("quote", {}))
    return dataclasses.replace(config, quote=default)


def with_observed(config: EnvConfig) -> EnvConfig:
    """`config` with the feature groups that a `QuotingPolicy` reads, where a trained policy does without."""
    flow = () if {"order_flow", "trade_book"} <= {*config.features} else ("tape",)
    lacking = [name for name in ("inventory", "clock", *flow) if name not in config.features]
    return dataclasses.replace(config, features=(*config.features, *lacking)) if lacking else config


def make_baselines(
    config: EnvConfig,
    note: Callable[[str], Any] = lambda name: None,
    calibration: Path | None = None,
    left_out: Callable[[str], Any] = lambda why: None,
) -> list[Policy]:
    """Baselines for `config`, the bound first, no-trade last; `note(name)` hears of each before.

    One that does not fit the configuration is left out, and `left_out` hears why in a sentence.
    `calibration`: see `best_by_simulation`.
    """
    policies: list[Policy] = []
    exact = solvable(config)
    if isinstance(config.market, Basket):
        some = basket_policies(config, CACHE, note) if exact else (form(config) for form in CLOSED_FORMS)
        return [*some, make_policy("no-trade", config)]
    for kind in KINDS[type(config.market)] if exact else []:
        note(kind)
        policies.append(make_policy(kind, config, cache=CACHE))
    several = config.market.quoted > 1  # the closed forms of one asset have no say there
    for family in ["fixed-spread"] if several else tuned_policies():
        note(family)
        try:
            if exact:
                policies.append(tune(family, config).policy)
            else:
                policies.append(
                    make_policy(family, config, **best_by_simulation(family, config, calibration))
                )
        except ConfigError as error:
            left_out(f"{family} is left out: {error}")
    return [*policies, make_policy("no-trade", config)]


def best_parameters(family: str, config: EnvConfig, calibration: Path | None = None) -> dict[str, float]:
    """Parameters of a policy that has one to tune: the exactly best, or where none is known by trying."""
    if solvable(config):
        found = tune(family, config)
        return {found.parameter: found.best}
    print(f"choosing the parameters of {family} on the training data...", file=sys.stderr)
    return best_by_simulation(family, config, calibration)


def best_by_simulation(family: str, config: EnvConfig, calibration: Path | None = None) -> dict[str, float]:
    """The best parameters of a family among `candidates`, by simulation.

    On recorded data, on the training split alone. The closed forms are fed what `neuralmm calibrate`
    measured: in the file `calibration`, or else here.
    """
    tried, refused = [], None
    for given in candidates(family, config, calibration):
        try:
            policy = make_policy(family, config, **given)
        except ConfigError as error:
            refused = error  # such as a spread wider than the box
            continue
        tried.append((try_out(policy, config).controlled.mean(), given))
    if not tried:
        raise refused or ConfigError(f"{family} has no candidates to try.")
    return max(tried, key=lambda one: one[0])[1]


def candidates(family: str, config: EnvConfig, calibration: Path | None = None) -> list[dict[str, float]]:
    """The parameters that `best_by_simulation` tries."""
    given = {} if family == "fixed-spread" else measured_dynamics(_training(config), calibration)
    tuning = tuned_policies()[family]
    return [{tuning.parameter: value, **given} for value in tuning.tried]


def try_out(policy: Policy, config: EnvConfig) -> Outcome:
    """What `policy` does on the market of `config`; on recorded data, on the training split."""
    reward = config.reward
    averse = reward.risk_aversion > 0 or reward.shortfall_weight > 0
    episodes = TAIL_EPISODES if averse else TUNING_EPISODES
    if isinstance(config.market, Replay):
        episodes = TAPE_EPISODES
    return simulate(policy, _training(config), episodes, seed=TUNING_SEED)


def _training(config: EnvConfig) -> EnvConfig:
    if not isinstance(config.market, Replay):
        return config
    return that_fits(dataclasses.replace(config, market=dataclasses.replace(config.market, split="train")))


def that_fits(config: EnvConfig) -> EnvConfig:
    """The configuration of a tape, with episodes no longer than its longest stretch: minutes of data are
    played in minutes, where a policy is from longer ones. `SHORTEST` decisions they have in any case."""
    assert isinstance(config.market, Replay)
    return dataclasses.replace(config, horizon=min(config.horizon, max(_longest(config.market), SHORTEST)))


@functools.cache
def _longest(market: Replay) -> int:
    """Decisions of the longest stretch; kept, for each candidate of a search asks for it."""
    if isinstance(market, ReplayBasket):
        return longest(market)
    return max(piece.decisions for _, piece in stretches(market))


def measured_dynamics(config: EnvConfig, calibration: Path | None = None) -> dict[str, float]:
    """A and k of the fill rate A exp(-k d) of a resting quote, and the volatility; price units, seconds.

    From the file `calibration` where it is given, in the units of `config`'s market. Where the market says
    them itself (`policies.analytic.dynamics`), nothing is measured; else `mmenv.measure.calibrate` measures.
    """
    if calibration is not None:
        return read_dynamics(calibration, config.market.price_scale)
    try:
        dynamics(config)
    except ConfigError:
        return _calibrated(config.market)
    return {}


@functools.cache
def _calibrated(market: Market) -> dict[str, float]:
    return market_dynamics(market)
