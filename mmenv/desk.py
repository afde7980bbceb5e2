"""The desk: the one path from an action to an observation, for every market and every number of environments.

    action -> quote -> risk -> market (events and fills) -> ledger -> features -> observation

Training, evaluation, backtest and live differ only in the market: stages compiled into the step, or a venue
outside (`ExternalMarket`) that is handed the quotes and hands back events and fills.
"""

from __future__ import annotations

import functools
import math
import struct
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mmenv import episode, kernel, threads
from mmenv.config import ConfigError, EnvConfig
from mmenv.family import WORD, Family, draw, fee_rate, varies_market
from mmenv.features import GROUPS, observation_features
from mmenv.kernel import (
    CORE,
    EMPTY,
    LANES,
    LEDGER,
    LINE,
    PARAMS,
    Call,
    Stage,
    address,
    aligned_zeros,
    make_plan,
)
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
    """What one step of n environments gives. Nobody overwrites the arrays as long as you hold one of them, or
    a view: `Desk.step` writes to memory that is no longer in use."""

    observations: np.ndarray
    """float32 (n, F)."""
    rewards: np.ndarray
    """float64 (n,), price units x lots."""
    terminated: np.ndarray
    truncated: np.ndarray
    ledger: np.ndarray
    """float64 (len(LEDGER), n), price units x lots, of this step; `wealth` since reset."""
    ledger_rows: dict[str, np.ndarray]
    """Its rows by the names of `LEDGER`."""
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


class NotFiniteError(ValueError):
    """An action of environment `row` is not finite; no environment has made a step."""

    def __init__(self, row: int) -> None:
        super().__init__(f"the action of environment {row} is not finite")
        self.row = row


class Desk:
    """n environments of one configuration.

    With `autoreset`, an environment that ends starts its next episode in the same step. An action that is not
    finite quotes nothing, or is refused with `NotFiniteError` if `strict`. `num_threads` share the step; None
    finds the fastest number for this many environments in the first steps. Nothing else depends on it.
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
        self.config, self.n, self.autoreset, self.strict = config, n, autoreset, strict
        self.num_threads = num_threads
        self.blocks = -(-n // LANES)
        self.width = len(observation_features(config))
        self.core = aligned_zeros(self.blocks, CORE)
        self._tile = aligned_zeros((self.width, LANES), np.float32)
        self.core["count"] = np.minimum(LANES, n - LANES * np.arange(self.blocks))
        self.core["fee_rate"] = fee_rate(config.maker_fee_bp)
        self.family = Family(config) if config.randomise else None
        self.external: ExternalMarket | None = config.market.attach(config, n)
        self._params = self._make_params()
        self._states: list[np.ndarray] = [self.core]
        self._groups: dict[str, np.ndarray] = {}
        self.actions = np.zeros((n, 2), np.float32)
        self._final = np.zeros((n, self.width), np.float32)
        self._build_plans()
        self._trial: threads.Trial | None = None
        self._share()
        self.any_done = False
        """Whether an episode ended in the last step."""
        self._buffer = Buffer(n, self.width, self._final)
        self._buffers = deque([self._buffer], BUFFERS)
        self._out, self._plan[kernel.OUT_AT] = self._buffer.step, self._buffer.address
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
        addresses = np.zeros(kernel.OUTPUTS, np.int64)
        addresses[kernel.OBSERVATIONS_AT] = address(observations)
        self._plan[kernel.OUT_AT] = address(addresses)
        kernel.reset_blocks(self._plan)
        self._plan[kernel.OUT_AT] = self._buffer.address
        return observations

    def step(self, actions: np.ndarray) -> Step:
        """One decision in every environment; `actions` is float32 (n, 2)."""
        self._renew_out()
        self.actions[...] = actions
        self.step_in_place()
        return self.out

    def step_in_place(self) -> None:
        """One decision from `self.actions` into the arrays of `self.out`, whoever holds them."""
        if self.external is not None:
            self._step_external()
            return
        self._check(self._run())

    def one_call(self) -> Callable[[], int]:
        """`step_in_place` with a status below 0 in place of `NotFiniteError`, for a step that counts every
        call: where the step is compiled, this is the compiled function itself."""
        if type(self) is Desk and self.external is None and self._threads == 1:
            return functools.partial(self._call, self._plan_at)
        return self._step_to_status

    def _step_to_status(self) -> int:
        try:
            self.step_in_place()
        except NotFiniteError as error:
            return -1 - error.row
        return kernel.DONE if self.any_done else kernel.NOTHING_DONE

    def read_outcome(self) -> Callable[[], tuple[Any, ...]]:
        """What reads the step in `out` of a single environment as Python's own values: reward, terminated,
        truncated, then the entries of `LEDGER`."""
        assert self.n == 1
        layout = struct.Struct(
            f"=d{LINE - 8}x?{LINE - 1}x?{LINE - 1}x{len(LEDGER)}d"
        )  # each at a line's start
        return functools.partial(layout.unpack_from, self._buffer.outcome.data)

    def decide(self, actions: np.ndarray) -> None:
        """First half of a step on a market outside: quotes, cut to the limits, from actions, (n, 2)."""
        self._renew_out()
        self.actions[...] = actions
        self._check(kernel.step_blocks(self._decide))

    def finish(self) -> Step:
        """Second half, once the market has answered: ledger, features, observation."""
        self._check(self._run())
        return self._out

    def _run(self) -> int:
        if self._trial is not None:
            status = self._trial.step(self._run_on)
            if self._trial.over:
                self._threads, self._trial = self._trial.best, None
            return status
        if self._threads == 1:
            return self._call(self._plan_at)
        return self._run_on(self._threads)

    def _run_on(self, count: int) -> int:
        """A step on so many threads; its status."""
        plans = self._shares[count]
        plans[:, kernel.OUT_AT] = self._buffer.address
        statuses = threads.run(kernel.step_at, [address(plan) for plan in plans])
        return min(statuses) if min(statuses) < 0 else max(statuses)

    def _check(self, status: int) -> None:
        if status < 0:
            raise NotFiniteError(-1 - status)
        self.any_done = status == kernel.DONE

    def _step_external(self) -> None:
        assert self.external is not None
        self._check(kernel.step_blocks(self._decide))
        self.external.advance(self)
        self._check(self._run())
        out = self._out
        if self.autoreset and self.any_done:
            done = out.terminated | out.truncated
            out.final_observations[done] = out.observations[done]
            out.observations[:] = self._restart(done)

    # Arrays.

    @property
    def out(self) -> Step:
        """The arrays that the next `step_in_place` writes."""
        return self._out

    @property
    def entries(self) -> int:
        """Entries of an observation, those of signals too."""
        return int(self.out.observations.shape[1])

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
        settings = {"autoreset": self.autoreset, "strict": self.strict, "num_threads": self.num_threads}
        return restore, (self.config, self.n, settings, self.get_state())

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
            own = aligned_zeros(self.blocks, group.own)
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
            self._plan[kernel.ACTIONS_AT] = 0  # taken already
            self._plan[kernel.STRICT] = 0

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
            plan[kernel.ACTIONS_AT] = plan[kernel.STRICT] = 0
        return EventPlans(first, following, calls)

    def _fill(self, plan: np.ndarray) -> np.ndarray:
        plan[kernel.BLOCKS], plan[kernel.COUNT], plan[kernel.WIDTH] = self.blocks, self.n, self.width
        plan[kernel.CORE_AT], plan[kernel.CORE_STRIDE] = address(self.core), CORE.itemsize
        plan[kernel.TILE_AT], plan[kernel.PARAMS_AT] = address(self._tile), address(self._params)
        plan[kernel.ACTIONS_AT], plan[kernel.FINAL_AT] = address(self.actions), address(self._final)
        plan[kernel.AUTORESET] = int(self.autoreset and self.external is None)
        plan[kernel.STRICT] = int(self.strict)
        return plan

    def _share(self) -> None:
        """Plans for each number of threads that may be used: every thread has its blocks and its tile."""
        self._plan_at = address(self._plan)
        self._call = kernel.entry(kernel.step_at if self.blocks > 1 else kernel.step_alone)
        most = min(self.blocks, self.num_threads or threads.processors())
        counts = [most]
        if self.num_threads is None:
            counts = [2**k for k in range(most.bit_length())] if self.n >= LEAST_THREADED else [1]
        self._tiles = aligned_zeros((most, self.width, LANES), np.float32)
        self._shares: dict[int, np.ndarray] = {}
        for count in counts:
            plans = self._shares[count] = np.tile(self._plan, (count, 1))
            edges = np.linspace(0, self.blocks, count + 1).round().astype(int)
            plans[:, kernel.FIRST_BLOCK], plans[:, kernel.BLOCKS] = edges[:-1], np.diff(edges)
            plans[:, kernel.TILE_AT] = [address(tile) for tile in self._tiles[:count]]
        self._threads = counts[0]
        self._trial = threads.Trial(counts) if len(counts) > 1 else None

    def _renew_out(self) -> None:
        """Choose memory for the next step that nobody uses, looking first at what was used longest ago."""
        for _ in range(len(self._buffers)):
            buffer = self._buffers.popleft()
            self._buffers.append(buffer)
            if buffer.unused():
                break
        else:
            buffer = Buffer(self.n, self.width, self._final)
            self._buffers.append(buffer)
        if buffer is not self._buffer:
            self._buffer, self._out = buffer, buffer.step
            self._plan[kernel.OUT_AT] = buffer.address


LEAST_THREADED = 1024
"""Below so many environments, handing the work over takes longer than the work."""

BUFFERS = 4
"""How many of the last steps' memory is looked at for reuse."""


class Buffer:
    """The arrays of a step in one piece of memory, used again once nobody holds any of them.

    Fresh memory would cost more than the step itself, because the system has to clear it page by page.
    """

    def __init__(self, n: int, width: int, final_observations: np.ndarray) -> None:
        f4, f8, flag = (np.dtype(kind) for kind in (np.float32, np.float64, np.bool_))
        shapes = ((n, width), (n,), (n,), (n,), (len(LEDGER), n))
        kinds = (f4, f8, flag, flag, f8)
        sizes = [
            -(-math.prod(shape) * kind.itemsize // LINE) * LINE
            for shape, kind in zip(shapes, kinds, strict=True)
        ]
        starts = np.cumsum([0, *sizes])
        memory = aligned_zeros(int(starts[-1]), np.uint8)
        arrays: list[np.ndarray] = [
            np.ndarray(shape, kind, memory, int(start))
            for shape, kind, start in zip(shapes, kinds, starts[:-1], strict=True)
        ]
        rows = dict(zip(LEDGER, arrays[-1], strict=True))
        observations, rewards, terminated, truncated, ledger = arrays
        self.step = Step(observations, rewards, terminated, truncated, ledger, rows, final_observations)
        self._addresses = np.array([address(array) for array in arrays])
        self.address = address(self._addresses)
        self.outcome = memory[starts[1] :]  # all but the observations, as bytes
        # A view of a view holds the array that owns the memory, not what it was made from.
        self._held = (memory.base, *arrays, *rows.values())
        del memory, arrays, rows, observations, rewards, terminated, truncated, ledger
        self._references = self._count()

    def unused(self) -> bool:
        """Whether only this object refers to the arrays."""
        return self._count() == self._references

    def _count(self) -> int:
        return sum(map(sys.getrefcount, self._held))


def make_desk(config: EnvConfig, n: int, **settings: Any) -> Desk:
    """A desk, with the networks that `config` names."""
    if config.networks:
        from mmenv.signal_desk import SignalDesk

        return SignalDesk(config, n, **settings)
    return Desk(config, n, **settings)


def restore(config: EnvConfig, n: int, settings: dict[str, Any], state: dict[str, Any]) -> Desk:
    """A desk from its pickled parts: addresses differ in every process, so the plan is made anew."""
    desk = make_desk(config, n, **settings)
    desk.set_state(state)
    return desk
