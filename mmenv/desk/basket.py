"""Several quoted assets: an environment is as many lanes of the one compiled step, one for each asset.

The lanes know nothing of each other but the factor that moves their mids (`mmenv.market.basket`). What
belongs to the whole is done here, after their step: an action is handed out, observations are put side by
side, profit and loss is added up, and the penalty is that of all positions together,

    inventory_penalty q' Sigma q dt,   and terminal_penalty q' Sigma q at the end of the episode,

of which asset i bears q_i (Sigma q)_i. The ledger has the sums under its usual names, then the same of each
asset: the identity holds for each and for the whole, on a simulated market to the last bit, for all its terms
are whole half-ticks. Of tapes the price units of the assets differ, and all money is in those of the first.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numba import njit

from mmenv.config import EnvConfig
from mmenv.desk.buffers import BUFFERS, Buffer, Step, renewed
from mmenv.desk.desk import Desk, NotFiniteError
from mmenv.desk.networks import make_desk
from mmenv.engine import plan as engine
from mmenv.engine.rng import asset_key, keys
from mmenv.engine.state import LANES, LEDGER
from mmenv.market.outside import ExternalMarket
from mmenv.observation import TOGETHER, basket_entries

Array = np.ndarray

ASSET_ROWS = (
    *("spread_capture", "adverse_selection", "carry", "fees"),
    *("inventory_penalty", "wealth", "fills", "position"),
)
"""Rows of the ledger that each asset has, named `asset_1_carry` and so on."""

PENALTY, POSITION = LEDGER.index("inventory_penalty"), LEDGER.index("position")
ROWS = np.array([LEDGER.index(row) for row in ASSET_ROWS])
COUNTS = (LEDGER.index("fills"), POSITION)
"""Rows in lots; all others are money."""


class BasketDesk:
    """n environments of a market that quotes several assets, for `NeuralMMEnv` and `NeuralMMVectorEnv`.

    It does what they ask of a `Desk`, whose arguments it has.
    """

    def __init__(
        self,
        config: EnvConfig,
        n: int,
        *,
        autoreset: bool,
        strict: bool = False,
        num_threads: int | None = 1,
    ) -> None:
        market = config.market
        self.config, self.n, self.autoreset = config, n, autoreset
        self.assets = market.quoted
        self._strict, self._num_threads = strict, num_threads
        # The desk of the lanes never resets itself: what all of them show last must be put together first.
        self.lanes = Desk(
            lane_config(config), n * self.assets, autoreset=False, strict=strict, num_threads=num_threads
        )
        self.actions = self.lanes.actions.reshape(n, -1)  # the same memory
        names = self.lanes.ledger_names
        self.ledger_names = (
            *names,
            *(f"asset_{k}_{row}" for k in range(1, self.assets + 1) for row in ASSET_ROWS),
        )
        entries = basket_entries(config)
        self._assets = np.array([asset for _, asset, _ in entries])
        self._columns = np.array([column for _, _, column in entries])
        together = market.together
        self._covariance, self._worths = together.covariance, together.worths
        self._running = config.reward.inventory_penalty * market.step_seconds
        self._terminal = config.reward.terminal_penalty
        unit, root = market.price_scale, market.step_seconds**0.5
        exposures = together.exposures
        span = max(float(np.abs(exposures).sum()) * config.risk.position_limit, 1e-12)
        self._factor = np.stack([together.factor_weights / (unit * root), exposures / span])
        self._final = np.zeros((n, len(entries)), np.float32)
        self.any_done = False
        self._buffer = self._make_buffer()
        self._buffers = deque([self._buffer], BUFFERS)

    def _make_buffer(self) -> Buffer:
        return Buffer(self.n, len(self._assets), self._final, self.ledger_names)

    # Steps.

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Seed environment i with seeds[i] where it is not None; its next episode is its first."""
        core = self.lanes.core
        for i, seed in enumerate(seeds):
            if seed is None:
                continue
            key0, key1 = keys(seed)
            for asset in range(self.assets):
                block, lane = divmod(i * self.assets + asset, LANES)
                core["key0"][block, lane], core["key1"][block, lane] = key0, asset_key(key1, asset)
                core["episode"][block, lane] = 0xFFFFFFFF

    def reset(
        self,
        lanes: Array | None = None,
        positions: Array | None = None,
        parameters: Mapping[str, float] | None = None,
    ) -> Array:
        """Start a new episode in the environments of the mask `lanes` (all by default); observations (n, F).

        `positions`, int32 (n x assets,), sets where they start. There is no family to choose `parameters`
        from.
        """
        assert parameters is None
        mask = None if lanes is None else np.repeat(lanes, self.assets)
        observations = np.empty((self.n, len(self._assets)), np.float32)
        self._show(self.lanes.reset(mask, positions), observations)
        return observations

    def step(self, actions: Array) -> Step:
        """One decision in every environment; `actions` is float32 (n, A)."""
        self._buffer = renewed(self._buffers, self._make_buffer)
        self.actions[...] = actions
        self.step_in_place()
        return self.out

    def step_in_place(self) -> None:
        """One decision from `self.actions` into the arrays of `self.out`, whoever holds them."""
        try:
            self.lanes.step_in_place()
        except NotFiniteError as error:
            raise NotFiniteError(error.row // self.assets) from None
        own, out = self.lanes.out, self.out
        add_up(
            own.rewards, own.ledger, own.terminated, own.truncated, self._covariance, self._running,
            self._terminal, self._worths, ROWS, out.rewards, out.ledger, out.terminated, out.truncated
        )  # fmt: skip
        self._show(own.observations, out.observations)
        self.any_done = self.lanes.any_done
        if self.autoreset and self.any_done:
            done = out.terminated | out.truncated
            out.final_observations[done] = out.observations[done]
            out.observations[:] = self.reset(done)

    def one_call(self) -> Callable[[], int]:
        """`step_in_place` with a status below 0 in place of `NotFiniteError`."""

        def call() -> int:
            try:
                self.step_in_place()
            except NotFiniteError as error:
                return -1 - error.row
            return engine.DONE if self.any_done else engine.NOTHING_DONE

        return call

    def read_outcome(self) -> Callable[[], tuple[Any, ...]]:
        """As `Desk.read_outcome`."""
        assert self.n == 1
        return self._buffer.reader()

    def _show(self, own: Array, observations: Array) -> None:
        """Put the observations of the lanes, (n x assets, f), side by side, with what they have together."""
        core = self.lanes.core
        arrange(own, core["move"], core["position"], self._factor, self._assets, self._columns, observations)

    # Arrays.

    @property
    def external(self) -> ExternalMarket | None:
        """The market outside the compiled step, which has the lanes; None for a simulated one."""
        return self.lanes.external

    @property
    def out(self) -> Step:
        """The arrays that the next `step_in_place` writes."""
        return self._buffer.step

    def get(self, name: str) -> Array:
        """Field `name` of `mmenv.engine.state.CORE` for every asset, (n, assets), a copy."""
        return self.lanes.get(name).reshape(self.n, self.assets)

    def parameters(self) -> dict[str, Array]:
        """None: episodes of several assets draw no parameters."""
        return {}

    def get_state(self) -> dict[str, Any]:
        """As `Desk.get_state`."""
        return self.lanes.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """As `Desk.set_state`."""
        self.lanes.set_state(state)

    def close(self) -> None:
        self.lanes.close()

    def __reduce__(self) -> tuple[Any, ...]:
        settings = {
            "autoreset": self.autoreset, "strict": self._strict, "num_threads": self._num_threads
        }  # fmt: skip
        return restore, (self.config, self.n, settings, self.get_state())


def restore(config: EnvConfig, n: int, settings: dict[str, Any], state: dict[str, Any]) -> BasketDesk:
    """A desk from its pickled parts."""
    desk = BasketDesk(config, n, **settings)
    desk.set_state(state)
    return desk


def lane_config(config: EnvConfig) -> EnvConfig:
    """The configuration of the lanes: one asset each, without the penalty, which is that of the whole."""
    free = dataclasses.replace(config.reward, inventory_penalty=0.0, terminal_penalty=0.0)
    return dataclasses.replace(config, market=config.market.lanes, reward=free)


def open_desk(config: EnvConfig, n: int, **settings: Any) -> Desk | BasketDesk:
    """The desk of environments: of one quoted asset, or of several."""
    if config.market.quoted > 1:
        return BasketDesk(config, n, **settings)
    return make_desk(config, n, **settings)


@njit(cache=True, nogil=True)
def add_up(
    lane_rewards: Array, lane_ledger: Array, lane_terminated: Array, lane_truncated: Array, covariance: Array,
    running: float, terminal: float, worths: Array, rows: Array,
    rewards: Array, ledger: Array, terminated: Array, truncated: Array,
) -> None:  # fmt: skip
    """Rewards, ledger and flags of the environments from those of their lanes.

    `lane_ledger` is (rows, n x assets), `ledger` (rows + assets x len(ROWS), n); `running` and `terminal` are
    the weights of the penalty, per step and per episode, and `worths` what a price unit x lot of each asset
    is in the money of the whole.
    """
    assets, own = len(covariance), len(lane_ledger)
    for i in range(len(rewards)):
        first = i * assets
        total = 0.0
        for k in range(assets):
            total += worths[k] * lane_rewards[first + k]
        for row in range(own):
            some = 0.0
            for k in range(assets):
                some += (1.0 if row in COUNTS else worths[k]) * lane_ledger[row, first + k]
            ledger[row, i] = some
        weight = running + (terminal if lane_terminated[first] else 0.0)
        penalty = 0.0
        for k in range(assets):
            risk = 0.0
            for j in range(assets):
                risk += covariance[k, j] * lane_ledger[POSITION, first + j]
            borne = weight * lane_ledger[POSITION, first + k] * risk
            penalty += borne
            for row in range(len(rows)):
                at = own + k * len(rows) + row
                worth = 1.0 if rows[row] in COUNTS else worths[k]
                ledger[at, i] = borne if rows[row] == PENALTY else worth * lane_ledger[rows[row], first + k]
        ledger[PENALTY, i] = penalty
        rewards[i] = total - penalty
        terminated[i], truncated[i] = lane_terminated[first], lane_truncated[first]


@njit(cache=True, nogil=True)
def arrange(
    own: Array, moves: Array, positions: Array, factor: Array, assets: Array, columns: Array,
    observations: Array,
) -> None:  # fmt: skip
    """Observations (n, F) of environments from those of their lanes, (n x k, f), and fields of their core.

    `assets` and `columns`, (F,), say where each entry comes from; `factor`, (2, k), what to weigh moves and
    positions with for `OF_THE_BASKET`.
    """
    count = factor.shape[1]
    for i in range(len(observations)):
        moved, exposed = 0.0, 0.0
        for k in range(count):
            block, lane = divmod(i * count + k, LANES)
            moved += factor[0, k] * moves[block, lane]
            exposed += factor[1, k] * positions[block, lane]
        for j in range(len(assets)):
            if assets[j] != TOGETHER:
                observations[i, j] = own[i * count + assets[j], columns[j]]
            elif columns[j] == 0:
                observations[i, j] = min(max(moved, -10.0), 10.0)
            else:
                observations[i, j] = min(max(exposed, -1.0), 1.0)
