"""The desk: the one path from an action to an observation, for every market and every number of environments.

    action -> quote -> risk -> market (events and fills) -> ledger -> features -> observation

Training, evaluation, backtest and live differ only in the market: stages compiled into the step, or a venue
outside (`ExternalMarket`) that is handed the quotes and hands back events and fills.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mmenv import episode, kernel
from mmenv.config import ConfigError, EnvConfig
from mmenv.family import WORD, Family, draw, fee_rate, varies_market
from mmenv.features import GROUPS, observation_features
from mmenv.kernel import CORE, EMPTY, LANES, LEDGER, PARAMS, Call, Stage, address, make_plan
from mmenv.ledger import settle, track
from mmenv.quote import quote
from mmenv.risk import risk
from mmenv.rng import keys


class ExternalMarket(Protocol):
    """A market outside the compiled step, such as a replay or a live feed."""

    def reset(self, desk: Desk, lanes: np.ndarray) -> None:
        """Start the environments whose entry in `lanes`, bool (n,), is true: set `mid`, book and spread."""

    def advance(self, desk: Desk) -> None:
        """Take the quotes of `desk` to the next decision: set the market's answer (see `kernel.CORE`)."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Step:
    """What one step of n environments gives. Arrays are fresh at every `Desk.step`."""

    observations: np.ndarray
    """float32 (n, F)."""
    rewards: np.ndarray
    """float64 (n,), price units x lots."""
    terminated: np.ndarray
    truncated: np.ndarray
    ledger: np.ndarray
    """float64 (len(LEDGER), n), price units x lots, of this step; `wealth` since reset."""
    final_observations: np.ndarray
    """float32 (n, F): where an episode ended and the desk resets itself, its last observation. Kept by the
    desk: the next step that ends an episode overwrites it."""


class EventPlans(NamedTuple):
    """See `Desk.event_plans`."""

    first: np.ndarray
    """From the observation of a desk just reset to its first orders."""
    following: np.ndarray
    """From an event to orders."""
    calls: list[Call]
    """Their calls: the plans hold addresses of these."""


class Desk:
    """n environments of one configuration.

    With `autoreset`, an environment that ends starts its next episode in the same step.
    """

    def __init__(self, config: EnvConfig, n: int, *, autoreset: bool) -> None:
        self.config, self.n, self.autoreset = config, n, autoreset
        self.blocks = -(-n // LANES)
        self.width = len(observation_features(config))
        self.core = np.zeros(self.blocks, CORE)
        self.core["count"] = np.minimum(LANES, n - LANES * np.arange(self.blocks))
        self.core["fee_rate"] = fee_rate(config.maker_fee_bp)
        self.family = Family(config) if config.randomise else None
        self.external: ExternalMarket | None = config.market.attach(config, n)
        self._params = self._make_params()
        self._tile = np.zeros((self.width, LANES), np.float32)
        self._states: list[np.ndarray] = [self.core]
        self._groups: dict[str, np.ndarray] = {}
        self.actions = np.zeros((n, 2), np.float32)
        self._final = np.zeros((n, self.width), np.float32)
        self._build_plans()
        self._layout = Layout(n, self.width)
        self._renew_out()

    # Steps.

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Seed environment i with seeds[i] where it is not None; its next episode is its first."""
        for i, seed in enumerate(seeds):
            if seed is not None:
                block, lane = divmod(i, LANES)
                self.core["key0"][block, lane], self.core["key1"][block, lane] = keys(seed)
                self.core["episode"][block, lane] = 0xFFFFFFFF

    def reset(
        self,
        lanes: np.ndarray | None = None,
        positions: np.ndarray | None = None,
        parameters: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        """Start a new episode in the environments of the mask `lanes` (all by default); observations (n, F).

        `positions`, int32 (n,), sets where they start, and `parameters` a member of the family, in place of
        the draw.
        """
        return self._restart(lanes, positions, parameters)

    def _restart(
        self,
        lanes: np.ndarray | None = None,
        positions: np.ndarray | None = None,
        parameters: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        mask = np.ones(self.n, bool) if lanes is None else lanes
        if parameters is not None:
            assert self.family is not None
            self.set("chosen", self.family.choose(parameters), mask)
        self.set("done", mask)
        if positions is not None:
            self.set("forced", 1, mask)
            self.set("position", positions, mask)
        if self.external is not None:
            self.external.reset(self, mask)
        observations = np.empty((self.n, self.width), np.float32)
        self._plan[kernel.OBSERVATIONS_AT] = address(observations)
        kernel.reset_blocks(self._plan)
        self._plan[kernel.OBSERVATIONS_AT] = address(self._out.observations)
        return observations

    def step(self, actions: np.ndarray) -> Step:
        """One decision in every environment; `actions` is float32 (n, 2)."""
        self._renew_out()
        self.actions[...] = actions
        self.step_in_place()
        return self.out

    def step_in_place(self) -> None:
        """One decision from `self.actions` into the arrays of `self.out`, without allocation."""
        if self.external is None:
            kernel.step_blocks(self._plan)
        else:
            self._step_external()

    def decide(self, actions: np.ndarray) -> None:
        """First half of a step on a market outside: quotes, cut to the limits, from actions, (n, 2)."""
        self._renew_out()
        self.actions[...] = actions
        kernel.step_blocks(self._decide)

    def finish(self) -> Step:
        """Second half, once the market has answered: ledger, features, observation."""
        kernel.step_blocks(self._plan)
        return self._out

    def _step_external(self) -> None:
        assert self.external is not None
        kernel.step_blocks(self._decide)
        self.external.advance(self)
        kernel.step_blocks(self._plan)
        out = self._out
        done = out.terminated | out.truncated
        if self.autoreset and done.any():
            out.final_observations[done] = out.observations[done]
            out.observations[:] = self._restart(done)

    # Arrays.

    @property
    def out(self) -> Step:
        """The arrays that the next `step_in_place` writes."""
        return self._out

    def get(self, name: str) -> np.ndarray:
        """Field `name` of `kernel.CORE` for every environment, (n,), a copy."""
        return self.core[name].reshape(-1)[: self.n].copy()

    def set(self, name: str, values: np.ndarray | int, lanes: np.ndarray | None = None) -> None:
        """Set field `name` of `kernel.CORE` (in the environments of the mask `lanes`)."""
        field = self.core[name].reshape(-1)
        field[: self.n] = values if lanes is None else np.where(lanes, values, field[: self.n])
        self.core[name] = field.reshape(self.blocks, LANES)

    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters that each environment's episode drew, float64 (n,) by name."""
        values = np.moveaxis(self.core["parameters"], 1, 0).reshape(kernel.PARAMETERS, -1)
        return {d.name: values[k, : self.n].astype(float) for k, d in enumerate(self.config.randomise)}

    def group_state(self, name: str) -> np.ndarray:
        """The state of a feature group, one record for each block; `ConfigError` where it is not used."""
        if name not in self._groups:
            raise ConfigError(f"feature group {name!r} is not in use: used are {', '.join(self._groups)}.")
        return self._groups[name]

    def get_state(self) -> dict[str, Any]:
        """Everything the next step depends on, as arrays; see `set_state`."""
        return {"stages": [array.copy() for array in self._states]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly from a state that `get_state` gave, of a desk with the same configuration.

        Not so on a market outside the compiled step: its memory cannot be saved, so new episodes start.
        """
        for ours, theirs in zip(self._states, state["stages"], strict=True):
            ours[...] = theirs
        if self.external is not None:
            self.reset()

    def close(self) -> None:
        if self.external is not None:
            self.external.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (self.config, self.n, self.autoreset, self.get_state())

    # Making the plan.

    def _make_params(self) -> np.ndarray:
        c = self.config
        unit = c.market.price_scale
        params = np.zeros(1, PARAMS)
        for name, value in {
            "horizon": c.horizon,
            "start_inventory": c.start_inventory,
            "position_limit": c.risk.position_limit,
            "order_lots": c.risk.order_lots,
            "assets": c.market.assets,
            "parameters": len(c.randomise),
            "half_low": c.quote.min_half_spread * unit,
            "half_range": (c.quote.max_half_spread - c.quote.min_half_spread) * unit,
            "max_skew": c.quote.max_skew * unit,
            "max_distance": c.quote.max_distance * unit,
            "loss_limit": c.risk.daily_loss_limit * unit,
            "reducing_loss": c.risk.daily_loss_limit * c.risk.reducing_at * unit,
            "weight_spread": c.reward.spread_capture,
            "weight_adverse": c.reward.adverse_selection,
            "weight_carry": c.reward.carry,
            "weight_fees": c.reward.fees,
            "phi": c.reward.inventory_penalty * c.market.step_seconds,
            "alpha": c.reward.terminal_penalty,
            "per_unit": 1 / unit,
            "per_lot": 1 / c.market.lot_scale,
        }.items():
            params[name] = value
        return params

    def _build_plans(self) -> None:
        nothing = np.zeros(1, EMPTY)

        def call(stage: Stage, own: np.ndarray = nothing, row: int = 0) -> Call:
            return Call(stage, own, self._params, row)

        decide = [call(quote), call(risk)]
        market: list[Call] = []
        market_reset: list[Call] = []
        family: np.ndarray | None = None
        if self.external is None:
            by_lane = varies_market(self.config)
            stages = self.config.market.stages(self.blocks, by_lane)
            market, market_reset = list(stages.step), list(stages.reset)
            family = stages.family
            self._states += [c.own for c in market if c.own.dtype != EMPTY]
        updates, observes, row = [call(settle), call(track), call(episode.moves)], [], 0
        for group in (GROUPS[name] for name in self.config.features):
            own = np.zeros(self.blocks, group.own)
            self._states.append(own)
            self._groups[group.name] = own
            if group.update is not None:
                updates.append(call(group.update, own))
            observes.append(call(group.observe, own, row))
            row += len(group.entries(self.config))
        drawn: list[Call] = []
        if self.family is not None:
            drawn = [Call(draw, np.zeros(1, WORD) if family is None else family, self.family.params)]
        resets = [call(episode.begin), *drawn, *market_reset, call(episode.began)]
        self._calls = (decide, market, updates, observes, resets)  # keeps every array alive

        if self.external is None:
            self._plan = self._fill(make_plan([*decide, *market, *updates], observes, resets))
        else:
            self._decide = self._fill(make_plan(decide, [], []))
            self._plan = self._fill(make_plan(updates, observes, resets))

    def event_plans(self, event: Call, policy: Call, orders: Call, stamp: Call | None = None) -> EventPlans:
        """Plans for `kernel.step_blocks` that take one event of a market outside to orders in one call.

        `event` sets the market's answer, `policy` reads the tile of observations and sets the action,
        `orders` takes the quotes. `stamp` is called before the first part, between two, and after the last.
        """
        decide, _, updates, observes, _ = self._calls
        parts = [[event], [*updates, *observes], [policy], decide, [orders]]
        between = [stamp] if stamp else []
        calls = [call for part in parts for call in (*between, *part)] + between
        first, following = (self._fill(make_plan(c, [], [])) for c in ([policy, *decide, orders], calls))
        for plan in (first, following):
            plan[kernel.ACTIONS_AT] = plan[kernel.OBSERVATIONS_AT] = 0
        return EventPlans(first, following, calls)

    def _fill(self, plan: np.ndarray) -> np.ndarray:
        plan[kernel.BLOCKS], plan[kernel.COUNT], plan[kernel.WIDTH] = self.blocks, self.n, self.width
        plan[kernel.CORE_AT], plan[kernel.CORE_STRIDE] = address(self.core), CORE.itemsize
        plan[kernel.TILE_AT], plan[kernel.PARAMS_AT] = address(self._tile), address(self._params)
        plan[kernel.ACTIONS_AT], plan[kernel.FINAL_AT] = address(self.actions), address(self._final)
        plan[kernel.AUTORESET] = int(self.autoreset and self.external is None)
        return plan

    def _renew_out(self) -> None:
        """Fresh arrays for the next step, in one piece of memory that the plan points to."""
        memory = np.empty(self._layout.size, np.uint8)
        self._out = self._layout.step(memory, self._final)
        self._plan[self._layout.slots] = self._layout.offsets + address(memory)


class Layout:
    """Where the arrays of a `Step` lie in one piece of memory: finding their addresses one by one would take
    longer than stepping a block of environments."""

    def __init__(self, n: int, width: int) -> None:
        f4, f8, flag = (np.dtype(kind) for kind in (np.float32, np.float64, np.bool_))
        shapes = ((n, width), (n,), (n,), (n,), (len(LEDGER), n))
        self._arrays = tuple(zip(shapes, (f4, f8, flag, flag, f8), strict=True))
        k = kernel
        slots = (k.OBSERVATIONS_AT, k.REWARDS_AT, k.TERMINATED_AT, k.TRUNCATED_AT, k.LEDGER_AT)
        self.slots = np.array(slots)
        sizes = [-(-math.prod(shape) * kind.itemsize // 64) * 64 for shape, kind in self._arrays]
        self.offsets = np.cumsum([0, *sizes[:-1]])
        self.size = sum(sizes)
        self._starts = self.offsets.tolist()

    def step(self, memory: np.ndarray, final_observations: np.ndarray) -> Step:
        """The arrays of a step in this memory."""
        arrays: list[np.ndarray] = [
            np.ndarray(shape, kind, memory, start)
            for (shape, kind), start in zip(self._arrays, self._starts, strict=True)
        ]
        observations, rewards, terminated, truncated, ledger = arrays
        return Step(observations, rewards, terminated, truncated, ledger, final_observations)


def make_desk(config: EnvConfig, n: int, *, autoreset: bool) -> Desk:
    """A desk, with the networks that `config` names."""
    if config.networks:
        from mmenv.signal_desk import SignalDesk

        return SignalDesk(config, n, autoreset=autoreset)
    return Desk(config, n, autoreset=autoreset)


def restore(config: EnvConfig, n: int, autoreset: bool, state: dict[str, Any]) -> Desk:
    """A desk from its pickled parts: addresses differ in every process, so the plan is made anew."""
    desk = make_desk(config, n, autoreset=autoreset)
    desk.set_state(state)
    return desk
