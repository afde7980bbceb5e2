"""Market makers in closed form: no-trade, fixed spread, Avellaneda-Stoikov, GLFT, Cartea-Jaimungal.

They believe in independent Poisson orders around a Brownian mid. Where the market is another, its parameters
are matched to that belief (`dynamics`), and the risk aversion is tuned (`tune`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg, optimize

from mmenv.config import ConfigError, EnvConfig, require, require_number
from mmenv.market.brownian import Brownian
from mmenv.market.hidden_regime import HiddenRegime
from policies import chain
from policies.base import Policy, QuotingPolicy, make_policy, register

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """What the closed forms need to know of a market; price units and seconds."""

    arrival_rate: float
    """lambda (A in GLFT): market orders per second and side."""
    fill_decay: float
    """kappa (k): an order reaches distance d with chance exp(-kappa d)."""
    volatility: float
    """sigma: per square root of a second."""

    def __post_init__(self) -> None:
        require_number(self, "arrival_rate", 0.0, 1e6)
        require_number(self, "fill_decay", 1e-6, 1e6)
        require_number(self, "volatility", 0.0, 1e6)


def dynamics(config: EnvConfig, **given: float) -> Dynamics:
    """The dynamics of `config`'s market, with those `given` (names of `Dynamics`) in their place.

    `hidden-regime`: the Poisson rate whose chance of an order in a step is the mean one over the regimes,
    and the root mean square move of a step. Another market needs all three given.
    """
    market = config.market
    known: dict[str, float] = {}
    if isinstance(market, Brownian):
        known = {name: getattr(market, name) for name in ("arrival_rate", "fill_decay", "volatility")}
    elif isinstance(market, HiddenRegime):
        seen = chain.outcomes(market)
        often = seen.stationary @ seen.chance
        # Symmetric between the sides in the long run, so the buys stand for both.
        some = min(float(often @ (seen.buy > 0)), 1 - 1e-9)
        known = {
            "arrival_rate": -math.log1p(-some) / market.step_seconds,
            "fill_decay": market.fill_decay,
            "volatility": math.sqrt(float(often @ seen.move**2) / market.step_seconds),
        }
    missing = {"arrival_rate", "fill_decay", "volatility"} - known.keys() - given.keys()
    if missing:
        raise ConfigError(
            f"market {market.name!r} does not say its {', '.join(sorted(missing))}: give them to the policy."
        )
    return Dynamics(**{**known, **given})


@register("no-trade")
class NoTrade:
    """Never quotes: its action is not finite, which a desk that is not strict takes as no quote."""

    name = "no-trade"

    def __init__(self, config: EnvConfig) -> None:
        pass

    def reset(self, n: int) -> None:
        return None

    def act(self, observation: Array, state: None) -> tuple[Array, None]:
        return np.full((len(observation), 2), np.nan, np.float32), None


@register("fixed-spread")
class FixedSpread(QuotingPolicy):
    """The same distance on both sides, always."""

    name = "fixed-spread"

    def __init__(self, config: EnvConfig, half_spread: float) -> None:
        """`half_spread`: distance of each quote from the mid, price units."""
        super().__init__(config)
        require(
            0 <= half_spread <= config.quote.max_distance,
            "FixedSpread",
            "half_spread",
            half_spread,
            f"from 0 to {config.quote.max_distance:g} (QuoteConfig.max_distance)",
        )
        self.half_spread = half_spread

    def quotes(self, step: Array, position: Array) -> tuple[Array, Array]:
        same = np.full(np.broadcast_shapes(np.shape(step), np.shape(position)), self.half_spread)
        return same, same


def require_aversion(owner: str, gamma: float) -> None:
    require(math.isfinite(gamma) and gamma > 0, owner, "gamma", gamma, "a finite number above 0")


@register("avellaneda-stoikov")
class AvellanedaStoikov(QuotingPolicy):
    """A spread around a reservation price that leans against the inventory, more so the more time is left.

    Source: Avellaneda and Stoikov (2008), "High-frequency trading in a limit order book", eqs. (29) and (30).
    With tau the time left: reservation price S - q gamma sigma^2 tau, spread gamma sigma^2 tau +
    2/gamma log(1 + gamma/kappa).
    """

    name = "avellaneda-stoikov"

    def __init__(self, config: EnvConfig, gamma: float, **given: float) -> None:
        """`gamma`: risk aversion, per price unit; `given` overrides `dynamics`."""
        super().__init__(config)
        require_aversion("AvellanedaStoikov", gamma)
        self.gamma = gamma
        self._risk = gamma * dynamics(config, **given).volatility ** 2 * config.market.step_seconds
        self._spread = 2 / gamma * math.log1p(gamma / dynamics(config, **given).fill_decay)

    def quotes(self, step: Array, position: Array) -> tuple[Array, Array]:
        risk = self._risk * (self.config.horizon - step)
        half = (risk + self._spread) / 2
        return half - position * risk, half + position * risk


@register("glft")
class GLFT(QuotingPolicy):
    """The quotes of Avellaneda and Stoikov's problem far from its end, with inventory limits.

    Source: Gueant, Lehalle and Fernandez-Tapia (2013), "Dealing with the inventory risk", the closed-form
    approximation of section 4: bid 1/gamma log(1 + gamma/k) + (2q + 1)/2 w, ask the same with (1 - 2q)/2,
    w = sqrt(sigma^2 gamma / (2 k A) (1 + gamma/k)^(1 + k/gamma)).
    """

    name = "glft"

    def __init__(self, config: EnvConfig, gamma: float, **given: float) -> None:
        """`gamma`: risk aversion, per price unit; `given` overrides `dynamics`."""
        super().__init__(config)
        require_aversion("GLFT", gamma)
        self.gamma = gamma
        known = dynamics(config, **given)
        require(known.arrival_rate > 0, "GLFT", "arrival_rate", known.arrival_rate, "above 0")
        k = known.fill_decay
        self._spread = math.log1p(gamma / k) / gamma
        # The power as an exponential: (1 + gamma/k)^(k/gamma) tends to e as gamma tends to 0.
        power = math.exp((1 + k / gamma) * math.log1p(gamma / k))
        self._lean = known.volatility * math.sqrt(gamma / (2 * k * known.arrival_rate) * power)

    def quotes(self, step: Array, position: Array) -> tuple[Array, Array]:
        ask = self._spread + (1 - 2 * position) / 2 * self._lean
        bid = self._spread + (1 + 2 * position) / 2 * self._lean
        still = np.zeros_like(step)
        return ask + still, bid + still


@register("cartea-jaimungal")
class CarteaJaimungal(QuotingPolicy):
    """The optimum in continuous time under a running and a terminal inventory penalty.

    Source: Cartea, Jaimungal and Penalva (2015), "Algorithmic and High-Frequency Trading", section 10.2:
    ask distance 1/kappa + h(t, q) - h(t, q-1), bid distance 1/kappa + h(t, q) - h(t, q+1), where
    h = log(omega)/kappa, omega(t) = exp(A (T - t)) z, z_q = exp(-alpha kappa q^2), and A is tridiagonal with
    -phi kappa q^2 on the diagonal and lambda/e beside it.
    """

    name = "cartea-jaimungal"

    def __init__(self, config: EnvConfig, phi: float | None = None, **given: float) -> None:
        """`phi`: running penalty, by default the reward's; `given` overrides `dynamics`."""
        super().__init__(config)
        known = dynamics(config, **given)
        phi = config.reward.inventory_penalty if phi is None else phi
        require(math.isfinite(phi) and phi >= 0, "CarteaJaimungal", "phi", phi, "a finite number from 0")
        kappa, limit = known.fill_decay, config.risk.position_limit
        require(known.arrival_rate > 0, "CarteaJaimungal", "arrival_rate", known.arrival_rate, "above 0")
        square = np.arange(-limit, limit + 1.0) ** 2
        beside = np.full(2 * limit, known.arrival_rate / math.e)
        generator = np.diag(-phi * kappa * square)
        generator += np.diag(beside, 1) + np.diag(beside, -1)
        # The slowest decay, taken out, keeps omega within range; it does not change any difference of h.
        generator -= np.eye(len(square)) * generator.max()
        advance = linalg.expm(generator * config.market.step_seconds)
        omega = np.exp(-config.reward.terminal_penalty * kappa * (square - square.min()))
        gains = []
        for _ in range(config.horizon):
            omega = advance @ omega
            omega /= omega.max()
            h = np.log(np.maximum(omega, 1e-300)) / kappa
            gains.append(np.diff(h))
            if len(gains) > 1 and np.abs(gains[-1] - gains[-2]).max() < 1e-13:
                break  # stationary: with more time left the quotes are the same
        # (time left - 1, position -limit ... limit - 1): what one more lot is worth.
        self._gains = np.array(gains)
        self._kappa, self._limit = kappa, limit

    def quotes(self, step: Array, position: Array) -> tuple[Array, Array]:
        left = np.clip(self.config.horizon - step, 1, len(self._gains)) - 1
        # At a limit that side is not quoted; its entry repeats its neighbour.
        below = np.clip(position + self._limit - 1, 0, 2 * self._limit - 1)
        above = np.clip(position + self._limit, 0, 2 * self._limit - 1)
        return 1 / self._kappa + self._gains[left, below], 1 / self._kappa - self._gains[left, above]


@dataclass(frozen=True)
class Tuned:
    """The best of a family of policies on a solvable market."""

    policy: Policy
    parameter: str
    best: float
    value: float
    """Its exact value from position 0."""


TUNABLE = {
    "fixed-spread": ("half_spread", lambda config: (1e-3, config.quote.max_distance)),
    "avellaneda-stoikov": ("gamma", lambda config: (1e-6, 10.0)),
    "glft": ("gamma", lambda config: (1e-6, 10.0)),
    "cartea-jaimungal": ("phi", lambda config: (1e-6, 10.0)),
}
"""Family: its parameter, and the range in which the best is looked for."""


def tune(family: str, config: EnvConfig, progress: Callable[[], Any] | None = None) -> Tuned:
    """The best policy of `family` (a key of `TUNABLE`) on a solvable market, by its exact value.

    A logarithmic grid over the range finds the hill and Brent's method its top. Raises `ConfigError` where
    the family has nothing to tune or the market has no exact values.
    """
    require(family in TUNABLE, "tune", "family", family, f"one of {', '.join(TUNABLE)}")
    parameter, bounds = TUNABLE[family]

    def loss(log_parameter: float) -> float:
        policy: Any = make_policy(family, config, **{parameter: math.exp(log_parameter)})
        if progress:
            progress()
        return -float(chain.evaluate_tabular(config, *policy.tabulate())[config.risk.position_limit])

    low, high = bounds(config)
    grid = np.linspace(math.log(low), math.log(high), 25)
    losses = [loss(point) for point in grid]
    best = int(np.argmin(losses))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = optimize.minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-4})
    value, log_best = min((float(found.fun), float(found.x)), (losses[best], float(grid[best])))
    policy = make_policy(family, config, **{parameter: math.exp(log_best)})
    return Tuned(policy, parameter, math.exp(log_best), -value)
