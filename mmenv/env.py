"""NeuralMM-v0, one environment. The vector environment is `mmenv.vector`; both are one `Desk`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from mmenv.arguments import (
    RENDER_FPS,
    ActionError,
    as_action,
    choose_config,
    open_screen,
    shown,
    start_parameters,
    start_positions,
)
from mmenv.config import DEFAULT_MARKET, EnvConfig
from mmenv.desk.basket import BasketDesk, open_desk
from mmenv.desk.desk import Desk
from mmenv.market.base import Market
from mmenv.observation import action_space, observation_names, observation_space


class NeuralMMEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """
    ## Description

    You make a market. At every decision you quote a bid and an ask around the mid-price; market orders of
    others may fill them, then the mid moves. You earn the spread, lose to those who know where the price
    goes, and carry the risk of what you hold. The same environment runs over simulated markets, some of them
    with a known optimum, and over recorded ones with queue position, latency and fees:

    | Market | What it is for | Seconds a decision |
    |--------|----------------|--------------------|
    | `book` (default) | an order book: our orders queue, partial fills, informed flow | 1 (or 0.1) |
    | `brownian` | correctness: orders at random, a random walk, the exact optimum | 1 |
    | `bursts` | risk: `brownian` whose volatility now and then multiplies; the same optimum of the mean | 1 |
    | `hidden-regime` | memory: informed flow behind a hidden state; optima with and without memory | 1 |
    | `correlated` | other assets: some are observed, and lead the quoted one; the exact worth of it | 1 |
    | `basket` | several quoted assets whose mids move together; the exact optimum (see below) | 1 |
    | `replay` | recorded tapes, see `neuralmm import` | 0.1 |
    | `replay-basket` | recorded tapes of several symbols, quoted together (see below) | 0.1 |

    The default preset of `book`, `large-tick`, is a stock whose spread is one tick and whose venue pays
    makers: the question is which queue to stand in, and when to leave it. `market={"name": "book", "preset":
    "binance-usdm-btc"}` was the default before: a perpetual of small ticks without a rebate, in which the
    best rule earns what not quoting earns. `neuralmm solve book` prints what is known of the default's value.

    Prices and distances are in *price units*, "pu", so that the same numbers mean the same everywhere: on
    `book` and `replay` one standard deviation of the mid's move between two decisions, but never less than
    half a tick, on the others what their formulas call 1. Sizes are in *lots*, the smallest tradable size;
    volume also in *typical lots of a step*, what is traded between two decisions in the mean (1 on the other
    markets). Money is in pu x lots, time in decisions where no seconds are named. `Market.price_scale` is the
    number of half-ticks in a pu.

    ## Action Space

    `Box(-1, 1, (2,), float32)`. What lies outside is clipped; an action that is not finite or not of shape
    (2,) raises `ActionError`.

    | Num | Action | -1 | +1 |
    |-----|--------|----|----|
    | 0 | half-spread `h`, pu | `quote.min_half_spread` | `quote.max_half_spread` |
    | 1 | skew `s`, pu | `-quote.max_skew` | `quote.max_skew` |

    ask = mid + h + s, bid = mid - h + s, each clipped to `[0, quote.max_distance]` from the mid and rounded
    outward to the tick; post-only, bid < ask. Above 0, the skew moves both quotes up (to buy).

    On `book`, `replay` and live (`quote.withdraw`) a side that asks for more than `quote.max_distance` is
    left: it has no order. An order keeps its place in the queue as long as its price stays the same, or, with
    `quote.requote_ticks`, as long as the price asked for is that near.

    `quote={"name": "touch"}` is another action: per side, leave it, stand a tick behind the touch, join the
    touch, or step before it; see `mmenv.actions.touch`. `quote={"name": "taker"}` adds a third number, a
    market order beside the quotes, `touch-taker` one beside those of `touch`; see `mmenv.actions.taker`.
    `size` chooses the lots of either side too, `ladder` quotes several levels: `docs/actions.md`.

    ## Observation Space

    `Box(low, high, (30,), float32)` with the default feature groups `order_flow` (0 to 7), `trade_book` (8 to
    11), `inventory` (12 to 16), `clock` (17) and, where there is a book, `orders` (18 to 25) and `queues` (26
    to 29); without one there are 18. `observation_names` names the entries of any choice. All are known at
    the decision. A window that is not yet full counts what it has. Where a side may have several orders
    (`ladder`), `orders` has its eight entries for the nearest that are left, then for the second
    (`ask_2_order_distance` to `bid_2_order_age`), and so on up to `quote.levels`.

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
    | 8 | trade_size | 0 | 10 | mean size of the trades of this step over that of the last 100 (0: none) |
    | 9 | trade_gap | 0 | 10 | decisions since the last trade, tens |
    | 10 | book_imbalance | -1 | 1 | (bid - ask) / (bid + ask) size at the touch (0: no book) |
    | 11 | volatility | 0 | 10 | root mean square of the last 20 moves, pu per step |
    | 12 | inventory | -1 | 1 | position / position limit |
    | 13 | unrealised | -10 | 10 | unrealised profit / position limit, pu |
    | 14 | holding_time | 0 | 1 | decisions since the position was flat or changed sign / horizon |
    | 15 | entry_gap | -10 | 10 | mid minus average entry price, pu (0 when flat) |
    | 16 | risk_exposure | 0 | 10 | abs(position) x volatility over the horizon / daily loss limit |
    | 17 | time_left | 0 | 1 | decisions left / horizon |
    | 18 | ask_order_distance | -10 | 10 | our ask behind the touch, ticks (0: at it, or none) |
    | 19 | ask_order_lots | 0 | 1 | lots left of our ask over order size (0: none) |
    | 20 | ask_order_ahead | 0 | 10 | lots ahead of our ask over the queue at the touch |
    | 21 | ask_order_age | 0 | 10 | decisions since our ask was placed, hundreds |
    | 22 | bid_order_distance | -10 | 10 | our bid behind the touch, ticks (0: at it, or none) |
    | 23 | bid_order_lots | 0 | 1 | lots left of our bid over order size (0: none) |
    | 24 | bid_order_ahead | 0 | 10 | lots ahead of our bid over the queue at the touch |
    | 25 | bid_order_age | 0 | 10 | decisions since our bid was placed, hundreds |
    | 26 | ask_queue | 0 | 10 | half the logarithm of 1 + lots at the best ask / typical lots of a step |
    | 27 | bid_queue | 0 | 10 | half the logarithm of 1 + lots at the best bid / typical lots of a step |
    | 28 | ask_queue_change | -5 | 5 | change of twice ask_queue since the decision before |
    | 29 | bid_queue_change | -5 | 5 | change of twice bid_queue since the decision before |

    `features` chooses groups. Beside those above there are:

    | Observation | Min | Max | Meaning |
    |-------------|-----|-----|---------|
    | **tape** | | | |
    | buy_volume | 0 | 10 | market buys since the last decision, typical lots of a step |
    | sell_volume | 0 | 10 | market sells since the last decision, typical lots of a step |
    | move | -10 | 10 | move of the mid since the last decision, pu |
    | **microstructure** | | | |
    | flow_fast | -10 | 10 | signed market volume, average over 5 decisions, unit variance |
    | flow_medium | -10 | 10 | signed market volume, average over 20 decisions, unit variance |
    | flow_slow | -10 | 10 | signed market volume, average over 100 decisions, unit variance |
    | trade_run | -10 | 10 | decisions in a row with trades of one side alone, signed, tens |
    | imbalance_change | -2 | 2 | book imbalance less that of the decision before |
    | volatility_ratio | 0 | 10 | volatility of the last 20 moves over that of about 200 |
    | trade_vwap | -10 | 10 | price of the last trades less VWAP, pu (0: none) |
    | depth_taken | -10 | 10 | bought / ask size less sold / bid size at the touch |
    | microprice_gap | -10 | 10 | microprice less mid, pu (0: no book) |
    | day_sine | -1 | 1 | sine of the time of day, UTC (0 in simulated markets) |
    | day_cosine | -1 | 1 | cosine of the time of day, UTC (1 in simulated markets) |
    | **risk** | | | |
    | volume_ratio | 0 | 10 | market volume, average over 20 decisions over that of 200 |
    | spread_rank | 0 | 1 | share of the last 100 spreads below this one (equal: half) |
    | day_fraction | 0 | 1 | time of day, UTC, in days (0 in simulated markets) |
    | own_impact | 0 | 10 | volatility x sqrt(abs(position) / volume of a step), pu |
    | loss_used | 0 | 1 | loss since reset / daily loss limit |
    | correlation_loss | -2 | 2 | correlation with the first observed asset, slow less fast |
    | liquidity | 0 | 10 | size at the touch over its average of 200 decisions (1: no book) |
    | news | -1 | 1 | set from outside: expected effect of news on risk (0: none known) |
    | macro | -1 | 1 | set from outside: macroeconomic risk, such as a release due (0: none) |
    | **wealth** | | | |
    | wealth | -100 | 100 | gain since the episode began, after fees / sqrt(horizon), pu x lots |
    | **observed** | | | |
    | asset_1_return | -10 | 10 | move of asset 1 since the last decision, pu |
    | asset_1_flow | -10 | 10 | market buys minus sells of asset 1, standard deviations |
    | asset_1_relative | -10 | 10 | its moves less ours, fading in 10 steps, over sqrt(10), pu |
    | **parameters** | | | |
    | parameter_volatility | -3 | 3 | volatility of this episode: -1 for 0.5, 1 for 2 |
    | **latent** | | | |
    | latent | -10 | 10 | hidden state of the simulated market (0: none) |
    | activity | 0 | 10 | how much faster than usual the simulated market is |
    | **surprise** | | | |
    | ask_fill_surprise | -1e+06 | 1e+06 | lots sold less their mean |
    | bid_fill_surprise | -1e+06 | 1e+06 | lots bought less their mean |
    | buy_surprise | -1 | 1 | whether a market buy came, less its chance |
    | sell_surprise | -1 | 1 | whether a market sell came, less its chance |
    | latent_surprise | -10 | 10 | hidden state less its mean |
    | latent_square_surprise | -100 | 100 | square of the hidden state less its mean |

    `observed` has three entries for each asset that the market shows (default on `correlated`), `parameters`
    one for each that `randomise` draws, here volatility from 0.5 to 2. For training only, never for a policy
    that is to trade: `latent` and `surprise` (what happened less its mean, see `mmenv.features.surprise`).

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
    `RewardConfig` sets the weights, and how averse to risk a policy is that is trained for them.

    ## Starting State

    Flat, or with a position drawn from `[-start_inventory, start_inventory]`, lots. Windows are empty.
    `reset(seed=s)` starts path 0 of seed s, each further `reset()` the next one; what the others do on a path
    does not depend on what is quoted. `reset(options={"position": 3})` sets the position, in whole lots up to
    the position limit.

    With `randomise` each episode draws parameters of its market (see `mmenv.desk.family`), and
    `info["parameters"]` says which; `reset(options={"parameters": {"volatility": 3.0}})` sets them.

    ## Episode End

    Terminated after `horizon` decisions; truncated where recorded data end. A position past its loss limit
    does not end the episode: the desk stops quoting (see `mmenv.step.risk`).

    ## Arguments

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("mmenv:NeuralMM-v0", market="brownian", horizon=100, quote={"max_half_spread": 4.0})
    >>> print(env)
    <NeuralMMEnv<NeuralMM-v0>>
    >>> market = {"name": "hidden-regime", "tilt": 0.2}
    >>> env = gym.make("mmenv:NeuralMM-v0", market=market, risk={"position_limit": 5}, render_mode="ansi")
    >>> observation, info = env.reset(seed=1, options={"position": 3})
    >>> observation.shape, env.unwrapped.observation_names[12], observation[12].item()
    ((18,), 'inventory', 0.6000000238418579)
    >>> print(env.render())
    0/300 ACTIVE  mid 10000.00  no bid  no ask  position +3 of 5
    wealth +0.00 = spread capture +0.00, adverse selection +0.00, carry +0.00, fees +0.00
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    >>> sorted(info["ledger"])[:3]
    ['adverse_selection', 'carry', 'fees']
    >>> env = gym.make("mmenv:NeuralMM-v0", market="brownian", randomise={"volatility": (0.5, 2.0)})
    >>> observation, info = env.reset(seed=1)
    >>> info["parameters"]
    {'volatility': 1.8681739568710327}
    >>> env.reset(options={"parameters": {"volatility": 3.0}})[1]["parameters"]
    {'volatility': 3.0}

    ```

    | Argument | Default | Meaning |
    |----------|---------|---------|
    | `market` | `"book"` | its name (or name:preset), a dict with `name` and parameters, or a `Market` |
    | `horizon` | 600 on `book`, else 300 | decisions in an episode |
    | `start_inventory` | 0 | largest position, long or short, that an episode starts with, lots |
    | `maker_fee_bp` | the preset's, or 0 | fee on our fills, basis points of notional; negative: a rebate |
    | `features` | the groups above | names of feature groups, in the order of their entries |
    | `signals` | none | trained networks, whose outputs follow the features; see `mmenv.signals` |
    | `manager` | none | dict with `signal`: a network that lowers the position limit, `mmenv.step.sizing` |
    | `randomise` | nothing | what episodes draw: {parameter: (low, high)}, or see `mmenv.desk.family` |
    | `curriculum_episodes` | 0 | episodes of each environment until the drawn ranges are at full width |
    | `quote`, `risk`, `reward` | the market's | dict, or an `Action`, `RiskConfig`, `RewardConfig` |
    | `config` | None | a whole `EnvConfig` (see `make_config`) in place of all the above |
    | `render_mode` | None | "rgb_array": a picture; "ansi": two lines of text; "human": a window |

    An unknown or impossible setting raises `ConfigError` saying what is allowed. Without a display, "human"
    prints the text. Defaults of the markets (`Market.defaults`): largest half-spread, pu, which is also the
    largest skew and distance, but on `book` (skew 2, distance 3: beyond it a side is left; 14, 14 and 12 in
    the presets of small ticks); decisions; penalties of the reward. All else is the same in all: half-spread
    from 0, position limit 10 lots (3 on `basket`), orders of 1 lot, daily loss limit 500 pu x lots.

    | Market | `max_half_spread` | `horizon` | `inventory_penalty` | `terminal_penalty` |
    |--------|-------------------|-----------|---------------------|--------------------|
    | `book` | 4 | 600 | 0.001 | 0.01 |
    | `brownian` | 8 | 300 | 0.01 | 0.1 |
    | `bursts` | 8 | 300 | 0.01 | 0.1 |
    | `hidden-regime` | 6 | 300 | 0.01 | 0.05 |
    | `correlated` | 8 | 300 | 0.01 | 0.1 |
    | `basket` | 4 | 300 | 0.2 | 1 |

    ## Several quoted assets

    On `basket` and `replay-basket` an action has the numbers of each asset, one asset's after another's, and
    the observation each group's entries of each asset, `asset_1_inventory` and so on (the clock once), then
    two that they have together:

    | Observation | Min | Max | Meaning |
    |-------------|-----|-----|---------|
    | factor_move | -10 | 10 | best estimate of the factor's last move, standard deviations |
    | factor_exposure | -1 | 1 | what the factor moves the positions, over the most that limits allow |

    The penalty is inventory_penalty q' Sigma q x seconds (at the end terminal_penalty q' Sigma q) with q the
    positions and Sigma the covariance of the mids' moves in a second. The ledger has the sums, and rows of
    each asset, `asset_1_wealth` and so on: `mmenv.desk.basket`. On tapes Sigma and the factor are measured on
    the training split, and all money is in price units x lots of the first symbol. The position limit is an
    asset's (3 lots on `basket`), and `reset(options={"position": [3, -2]})` sets one position each.

    ## Vectorized environment

    ```python
    >>> envs = gym.make_vec("mmenv:NeuralMM-v0", num_envs=1024, market="brownian")
    >>> observations, info = envs.reset(seed=1)
    >>> observations, rewards, terminated, truncated, info = envs.step(envs.action_space.sample())
    >>> observations.shape, rewards.shape, info["ledger"]["wealth"].shape
    ((1024, 18), (1024,), (1024,))

    ```

    It is native: one compiled call per step. With the same seed its environment i gives the same bytes as a
    single one seeded with `seed + i`. `autoreset_mode` is "SameStep" (default), "NextStep" or "Disabled"; see
    `mmenv.vector.NeuralMMVectorEnv`.

    ## Version History

    * v0: initial version. `book` became the default market; `bursts`, `correlated`, `randomise` and groups
      `observed` and `parameters` were added before the first release. Since 0.2 the default preset of `book`
      is `large-tick`, sides can be left and own orders are observed.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array", "ansi"], "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(
        self,
        market: str | Mapping[str, Any] | Market = DEFAULT_MARKET,
        *,
        config: EnvConfig | None = None,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self.config = choose_config(market, config, settings)
        self.observation_names = observation_names(self.config)
        self.observation_space = observation_space(self.config)
        self.action_space = action_space(self.config)
        self.render_mode = render_mode
        self._screen = open_screen(render_mode, self.metadata["render_modes"], self.config, 1)
        self._running = False
        self._seeded = False
        self._drawn: dict[str, float] = {}
        self._take(open_desk(self.config, 1, autoreset=False, strict=True))

    def _take(self, desk: Desk | BasketDesk) -> None:
        """Keep the desk, with the views of its arrays that every step reads."""
        self._desk = desk
        self._desk_step = desk.one_call()
        self._action: Any = desk.actions[0].data
        self._observation = desk.out.observations[0]
        self._outcome = desk.read_outcome()
        self._ledger_names = desk.ledger_names

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        positions = start_positions(self.config, options, 1)
        parameters = start_parameters(self.config, options)
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self._desk.seed([int(self.np_random.integers(2**63)) if seed is None else seed])
            self._seeded = True
        self._running = True
        observation = self._desk.reset(positions=positions, parameters=parameters)[0]
        self._drawn = {name: values.item() for name, values in self._desk.parameters().items()}
        if self._screen is not None:
            self._screen.record(self._desk)
        return observation, self._about_episode()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self._running:
            raise gymnasium.error.ResetNeeded(
                "The episode is over, or never began: call reset() before step()."
            )
        try:
            self._action[:] = action  # refused unless it is an array like ours
        except (TypeError, ValueError):
            self._action[:] = as_action(self.config, action)
        if self._desk_step() < 0:
            raise ActionError(f"action = {shown(action)} is not possible: all its numbers must be finite.")
        reward, terminated, truncated, *ledger = self._outcome()
        info: dict[str, Any] = {"ledger": dict(zip(self._ledger_names, ledger, strict=True))}
        if terminated or truncated:
            self._running = False
        if self._screen is not None:
            self._screen.record(self._desk)
        if self._drawn:
            info |= self._about_episode()
        return self._observation.copy(), reward, terminated, truncated, info

    def _about_episode(self) -> dict[str, Any]:
        return {"parameters": dict(self._drawn)} if self._drawn else {}

    def render(self) -> Any:
        """A uint8 (height, width, 3) picture, a text, or None where the mode is "human" (a window)."""
        if self._screen is not None:
            return self._screen.render()
        gymnasium.logger.warn(
            "You are calling render method without specifying any render mode. You can specify the "
            'render_mode at initialization, e.g. gym.make("NeuralMM-v0", render_mode="rgb_array")'
        )
        return None

    def close(self) -> None:
        self._desk.close()
        if self._screen is not None:
            self._screen.close()

    def __getstate__(self) -> dict[str, Any]:
        views = ("_desk_step", "_action", "_observation", "_outcome", "_ledger_names")
        return {name: value for name, value in self.__dict__.items() if name not in views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._take(self._desk)
