"""Market makers in closed form: no-trade, fixed spread, Avellaneda-Stoikov, GLFT, Cartea-Jaimungal.

They believe in independent Poisson orders around a Brownian mid. Where the market is another, its parameters
are matched to that belief (`dynamics`), and the risk aversion is tuned (`policies.tune`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from mmenv.checks import ConfigError, check_keys, require, require_number
from mmenv.config import EnvConfig
from mmenv.engine.products import exponential, product
from mmenv.market.brownian import Brownian
from mmenv.market.bursts import Bursts
from mmenv.market.hidden_regime import HiddenRegime
from mmenv.observation import action_entries
from policies.base import QuotingPolicy, Tuning, max_distance, register
from policies.solver.outcomes import outcomes

Array = np.ndarray

AVERSIONS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Risk aversions that are tried, per price unit."""


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
    and the root mean square move of a step. Another market, one that inherits from these included, needs all
    three given.
    """
    market, names = config.market, [field.name for field in dataclasses.fields(Dynamics)]
    check_keys("Dynamics", given, names)
    known: dict[str, float] = {}
    if type(market) in (Brownian, Bursts):
        known = {name: getattr(market, name) for name in names}
    elif type(market) is HiddenRegime:
        seen = outcomes(market)
        often = product(seen.stationary, seen.chance)
        # Symmetric between the sides in the long run, so the buys stand for both.
        some = min(float(product(often, seen.buy > 0)), 1 - 1e-9)
        known = {
            "arrival_rate": -math.log1p(-some) / market.step_seconds,
            "fill_decay": market.fill_decay,
            "volatility": math.sqrt(float(product(often, seen.move**2)) / market.step_seconds),
        }
    missing = {*names} - known.keys() - given.keys()
    if missing:
        raise ConfigError(
            f"market {market.name!r} does not say its {', '.join(sorted(missing))}: give them to the policy."
        )
    return Dynamics(**{**known, **given})


@register
class NoTrade:
    """Never quotes.

    Its action is not finite, which a desk that is not strict takes as no quote.
    """

    name = "no-trade"

    def __init__(self, config: EnvConfig) -> None:
        self._numbers = len(action_entries(config))

    def reset(self, n: int) -> None:
        return None

    def act(self, observation: Array, state: None) -> tuple[Array, None]:
        return np.full((len(observation), self._numbers), np.nan, np.float32), None


@register
class FixedSpread(QuotingPolicy):
    """The same distance on both sides, always."""

    name = "fixed-spread"
    reads = False
    tuning = Tuning("half_spread", 1e-3, math.inf, (0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0))

    def __init__(self, config: EnvConfig, half_spread: float) -> None:
        """`half_spread`: distance of each quote from the mid, price units."""
        super().__init__(config)
        top = max_distance(config)
        allowed = f"from 0 to {top:g} (SpreadSkew.max_distance)"
        require(0 <= half_spread <= top, "FixedSpread", "half_spread", half_spread, allowed)
        self.half_spread = half_spread

    def quotes(self, step: Array, position: Array) -> tuple[Array, Array]:
        return np.array(self.half_spread), np.array(self.half_spread)


def require_aversion(owner: str, gamma: float) -> None:
    """Raise `ConfigError` unless `gamma` is a risk aversion."""
    require(math.isfinite(gamma) and gamma > 0, owner, "gamma", gamma, "a finite number above 0")


@register
class AvellanedaStoikov(QuotingPolicy):
    """A spread around a reservation price that leans against the inventory, the more the more time is left.

    Source: Avellaneda and Stoikov (2008), "High-frequency trading in a limit order book", eqs. (29) and (30).
    With tau the time left: reservation price S - q gamma sigma^2 tau, spread gamma sigma^2 tau +
    2/gamma log(1 + gamma/kappa).
    """

    name = "avellaneda-stoikov"
    tuning = Tuning("gamma", 1e-6, 10.0, AVERSIONS)

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


@register
class GLFT(QuotingPolicy):
    """The quotes of Avellaneda and Stoikov's problem far from its end, with inventory limits.

    Source: Gueant, Lehalle and Fernandez-Tapia (2013), "Dealing with the inventory risk", the closed-form
    approximation of section 4: bid 1/gamma log(1 + gamma/k) + (2q + 1)/2 w, ask the same with (1 - 2q)/2,
    w = sqrt(sigma^2 gamma / (2 k A) (1 + gamma/k)^(1 + k/gamma)).
    """

    name = "glft"
    tuning = Tuning("gamma", 1e-6, 10.0, AVERSIONS)

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
        return ask, bid


@register
class CarteaJaimungal(QuotingPolicy):
    """The optimum in continuous time under a running and a terminal inventory penalty.

    Source: Cartea, Jaimungal and Penalva (2015), "Algorithmic and High-Frequency Trading", section 10.2:
    ask distance 1/kappa + h(t, q) - h(t, q-1), bid distance 1/kappa + h(t, q) - h(t, q+1), where
    h = log(omega)/kappa, omega(t) = exp(A (T - t)) z, z_q = exp(-alpha kappa q^2), and A is tridiagonal with
    -phi kappa q^2 on the diagonal and lambda/e beside it.
    """

    name = "cartea-jaimungal"
    tuning = Tuning("phi", 1e-6, 10.0, (0.001, 0.01, 0.1))

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
        advance = exponential(generator * config.market.step_seconds)
        omega = np.exp(-config.reward.terminal_penalty * kappa * (square - square.min()))
        gains = []
        for _ in range(config.horizon):
            omega = product(advance, omega)
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
