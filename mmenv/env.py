"""NeuralMM-v0, one environment. The vector environment is `mmenv.vector`; both are one `mmenv.desk.Desk`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from mmenv.config import ConfigError, EnvConfig, Market, check_keys, make_config
from mmenv.desk import Desk
from mmenv.features import observation_features, observation_names
from mmenv.kernel import LEDGER


class ActionError(ValueError):
    """An action the environment cannot take: the message names what is wrong and what is expected."""


def observation_space(config: EnvConfig) -> spaces.Box:
    """Box of the features' bounds, float32 (F,)."""
    features = observation_features(config)
    low = np.array([f.low for f in features], np.float32)
    high = np.array([f.high for f in features], np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def action_space() -> spaces.Box:
    """Box [-1, 1]^2: half-spread and skew."""
    return spaces.Box(-1.0, 1.0, (2,), np.float32)


def start_positions(config: EnvConfig, options: Mapping[str, Any] | None, n: int) -> np.ndarray | None:
    """The positions that `options["position"]` asks for, int32 (n,), or None where it says nothing."""
    check_keys("reset options", options or {}, ["position"])
    if not options:
        return None
    positions = np.broadcast_to(np.asarray(options["position"]), (n,))
    limit = config.risk.position_limit
    if not np.issubdtype(positions.dtype, np.integer) or (np.abs(positions) > limit).any():
        raise ConfigError(
            f"reset options: position = {options['position']!r} is not possible: "
            f"give whole lots from {-limit} to {limit}."
        )
    return positions.astype(np.int32)


class NeuralMMEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """
    ## Description

    You make a market. At every decision you quote a bid and an ask around the mid-price; market orders of
    others may fill them, then the mid moves. You earn the spread, lose to those who know where the price
    goes, and carry the risk of what you hold. The same environment runs over simulated markets, two of them
    with a known optimum, and over recorded ones with queue position, latency and fees.

    All money is in *price units* of the market (`config.market.price_scale` half-ticks), sizes are in lots.

    ## Action Space

    `Box(-1, 1, (2,), float32)`; not-finite or wrongly shaped actions raise `ActionError`.

    | Num | Action | -1 | +1 |
    |-----|--------|----|----|
    | 0 | half-spread `h` | `quote.min_half_spread` | `quote.max_half_spread` |
    | 1 | skew `s` | `-quote.max_skew` | `quote.max_skew` |

    ask = mid + h + s, bid = mid - h + s, each clipped to `[0, quote.max_distance]` from the mid and rounded
    outward to the tick; post-only, bid < ask. Above 0, the skew moves both quotes up (to buy).

    ## Observation Space

    `Box(low, high, (18,), float32)` with the default feature groups; `observation_names` names the entries.
    A window that is not yet full counts what it has. Price units "pu".

    | Num | Observation | Min | Max | Meaning |
    |-----|-------------|-----|-----|---------|
    | 0 | flow_imbalance | -1 | 1 | (buy - sell) / (buy + sell) market volume since the last decision |
    | 1 | return | -10 | 10 | move of the mid since the last decision, pu |
    | 2 | return_mean | -10 | 10 | mean of the last 20 moves x sqrt(20), pu |
    | 3 | return_std | 0 | 10 | standard deviation of the last 20 moves, pu |
    | 4 | vwap_deviation | -10 | 10 | mid minus VWAP of the last 20 steps, over sqrt(20), pu |
    | 5 | spread | 0 | 10 | best ask minus best bid, pu (0: no book) |
    | 6 | spread_mean | 0 | 10 | mean spread of the last 10 steps, pu |
    | 7 | volume | 0 | 10 | market volume since the last decision, typical lots of a step |
    | 8 | trade_size | 0 | 10 | mean size of this step's trades over that of the last 100 steps (0: none) |
    | 9 | trade_gap | 0 | 10 | decisions since the last trade, tens |
    | 10 | book_imbalance | -1 | 1 | (bid - ask) / (bid + ask) size at the touch (0: no book) |
    | 11 | volatility | 0 | 10 | root mean square of the last 20 moves, pu per step |
    | 12 | inventory | -1 | 1 | position / position limit |
    | 13 | unrealised | -10 | 10 | unrealised profit / position limit, pu |
    | 14 | holding_time | 0 | 1 | decisions since the position was flat or changed sign / horizon |
    | 15 | entry_gap | -10 | 10 | mid minus average entry price, pu (0 when flat) |
    | 16 | risk_exposure | 0 | 10 | abs(position) x volatility x sqrt(horizon) / daily loss limit |
    | 17 | time_left | 0 | 1 | decisions left / horizon |

    ## Rewards

    The profit and loss of the step by an exact identity, minus penalties:

        spread capture    fills x their distance from the mid at the decision
        adverse selection signed fills of this step x move of the mid
        carry             position held before x move of the mid
        fees              maker fee x notional
        penalty           inventory_penalty x position^2 x seconds; at the end terminal_penalty x position^2

    spread capture + adverse selection + carry - fees is the change of mark-to-market wealth, to the last
    bit. `info["ledger"]` holds these terms of the step, `wealth` since reset, `fills` and `position` in lots,
    and `noise`, the part of the reward whose mean is zero whatever is quoted (a control variate).
    `RewardConfig` sets the weights.

    ## Starting State

    Flat, or with a position drawn from `[-start_inventory, start_inventory]`; `reset(options={"position": 3})`
    sets it. Windows are empty. `reset(seed=s)` starts path 0 of seed s, each further `reset()` the next one;
    paths do not depend on what is quoted.

    ## Episode End

    Terminated after `horizon` decisions; truncated where recorded data end. A position past its loss limit
    does not end the episode: the desk stops quoting (see `mmenv.risk`).

    ## Arguments

    ```python
    gym.make("NeuralMM-v0", market="brownian", horizon=100, quote={"max_half_spread": 4.0})
    gym.make("NeuralMM-v0", market={"name": "hidden-regime", "tilt": 0.2}, risk={"position_limit": 5})
    ```

    * `market`: name, dict with `name` and parameters, or a `Market`. Default `"hidden-regime"`.
    * `horizon`, `start_inventory`, `maker_fee_bp`, `features`: see `mmenv.config.EnvConfig`.
    * `quote`, `risk`, `reward`: dicts or `QuoteConfig`, `RiskConfig`, `RewardConfig`.
    * `config`: a whole `EnvConfig` in place of all the above.

    An unknown or impossible setting raises `ConfigError` saying what is allowed.

    ## Vectorized environment

    `gym.make_vec("NeuralMM-v0", num_envs=1024)` is native: one compiled call per step, SAME_STEP autoreset.
    With the same seed its environment i gives the same bytes as a single one seeded with `seed + i`.

    ## Version History

    * v0: initial version
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "render_fps": 10}

    def __init__(
        self,
        market: str | Mapping[str, Any] | Market = "hidden-regime",
        *,
        config: EnvConfig | None = None,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self.config = config or make_config(market, **settings)
        self.observation_names = observation_names(self.config)
        self.observation_space = observation_space(self.config)
        self.action_space = action_space()
        self.render_mode = render_mode
        self._desk = Desk(self.config, 1, autoreset=False)
        self._running = False
        self._seeded = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        positions = start_positions(self.config, options, 1)
        if seed is not None or not self._seeded:
            self._desk.seed([int(self.np_random.integers(2**63)) if seed is None else seed])
            self._seeded = True
        self._running = True
        return self._desk.reset(positions=positions)[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self._running:
            raise gymnasium.error.ResetNeeded(
                "The episode is over, or never began: call reset() before step()."
            )
        desk = self._desk
        values = np.asarray(action, np.float32).tolist()
        if not (isinstance(values, list) and len(values) == 2 and all(isinstance(v, float) for v in values)):
            raise ActionError(f"action = {action!r} is not possible: give two numbers, (half-spread, skew).")
        if not (math.isfinite(values[0]) and math.isfinite(values[1])):
            raise ActionError(f"action = {action!r} is not possible: both entries must be finite numbers.")
        desk.actions[0] = values
        desk.step_in_place()
        out = desk.out
        terminated, truncated = bool(out.terminated[0]), bool(out.truncated[0])
        self._running = not (terminated or truncated)
        ledger = dict(zip(LEDGER, out.ledger.ravel().tolist(), strict=True))
        return out.observations[0].copy(), float(out.rewards[0]), terminated, truncated, {"ledger": ledger}

    def close(self) -> None:
        self._desk.close()
