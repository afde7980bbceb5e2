"""The desk: the one path from an action to an observation, for every market and every number of environments.

    action -> quote -> risk -> market (events and fills) -> ledger -> features -> observation

Training, evaluation, backtest and live differ only in the market: stages compiled into the step, or a venue
outside (`ExternalMarket`) that is handed the quotes and hands back events and fills.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, check_single
from mmenv.desk.buffers import BUFFERS, Buffer, Step, renewed
from mmenv.desk.family import Family
from mmenv.desk.stages import make_stages
from mmenv.engine import plan as engine
from mmenv.engine import state, threads
from mmenv.engine.memory import address, aligned_zeros, fill
from mmenv.engine.plan import make_plan
from mmenv.engine.rng import keys
from mmenv.engine.stage import Call
from mmenv.engine.state import CORE, LANES, LEDGER, fee_rate
from mmenv.market.outside import ExternalMarket
from mmenv.observation import observation_features
from mmenv.rewards.base import row_name


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
        """Raises `ConfigError` for a market that quotes several assets: see `mmenv.desk.basket`."""
        check_single(config, "this use of it")
        self.config, self.n, self.autoreset, self.strict = config, n, autoreset, strict
        self.num_threads = num_threads
        self.blocks = -(-n // LANES)
        self.width = len(observation_features(config))
        self.core = aligned_zeros(self.blocks, CORE)
        self._tile = aligned_zeros((self.width, LANES), np.float32)
        self.core["count"] = np.minimum(LANES, n - LANES * np.arange(self.blocks))
        self.core["fee_rate"] = fee_rate(config.maker_fee_bp)
        self.family = Family(config) if config.randomise else None
        self.external: ExternalMarket | None = config.market.attach(
            n, config.horizon, config.risk.position_limit
        )
        self.stages = make_stages(config, self.blocks, self.family, self.external is None)
        """The compiled stages of a step, in their order."""
        if self.external is not None:
            self.tell(self.external)
        self._states = [self.core, *self.stages.states]
        self.actions = np.zeros((n, len(config.quote.entries)), np.float32)
        self.ledger_names = (*LEDGER, *(row_name(term) for term in config.reward.terms))
        """Rows of the published ledger: `LEDGER`, then the further terms of the reward."""
        self._terms = np.array([[address(own), own.strides[0]] for own in self.stages.terms], np.int64)
        self._final = np.zeros((n, self.width), np.float32)
        self._make_plans()
        self._trial: threads.Trial | None = None
        self._share()
        self.any_done = False
        """Whether an episode ended in the last step."""
        self._buffer = Buffer(n, self.width, self._final, self.ledger_names)
        self._buffers = deque([self._buffer], BUFFERS)
        self._out, self.plan[engine.OUT_AT] = self._buffer.step, self._buffer.address
        self._renew_out()

    # Steps.

    def tell(self, market: ExternalMarket) -> None:
        """Say which orders the action sends to a market outside, before its first reset."""
        if self.config.quote.taking is not None:
            market.take_market_orders()
        if self.stages.levels is not None:
            market.take_levels(*self.stages.levels)

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
            self.set("keep_position", 1, mask)
            self.set("position", positions, mask)
        if self.external is not None:
            self.external.reset(self.core, mask)
        observations = np.empty((self.n, self.width), np.float32)
        addresses = np.zeros(engine.OUTPUTS, np.int64)
        addresses[engine.OBSERVATIONS_AT] = address(observations)
        self.plan[engine.OUT_AT] = address(addresses)
        engine.reset_at(address(self.plan))
        self.plan[engine.OUT_AT] = self._buffer.address
        return observations

    def step(self, actions: np.ndarray) -> Step:
        """One decision in every environment; `actions` is float32 (n, A)."""
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
        return engine.DONE if self.any_done else engine.NOTHING_DONE

    def read_outcome(self) -> Callable[[], tuple[Any, ...]]:
        """What reads the step in `out` of a single environment as Python's own values: reward, terminated,
        truncated, then the entries of `ledger_names`."""
        assert self.n == 1
        return self._buffer.reader()

    def decide(self, actions: np.ndarray) -> None:
        """First half of a step on a market outside: quotes, cut to the limits, from actions, (n, A)."""
        self._renew_out()
        self.actions[...] = actions
        self._check(engine.step_at(address(self.decide_plan)))

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
        return self._run_on(self._threads)

    def _run_on(self, count: int) -> int:
        """A step on so many threads; its status."""
        if count == 1:
            return self._call(self._plan_at)
        team = self._teams[count]
        team.plans[:, engine.OUT_AT] = self._buffer.address
        return engine.refused_at(self._plan_at) or team.step()

    def _check(self, status: int) -> None:
        if status < 0:
            raise NotFiniteError(-1 - status)
        self.any_done = status == engine.DONE

    def _step_external(self) -> None:
        assert self.external is not None
        self._check(engine.step_at(address(self.decide_plan)))
        self.external.advance(self.core)
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
        """Field `name` of `mmenv.engine.state.CORE` for every environment, (n,), a copy."""
        return self.core[name].reshape(-1)[: self.n].copy()

    def set(self, name: str, values: np.ndarray | int, lanes: np.ndarray | None = None) -> None:
        """Set field `name` of `mmenv.engine.state.CORE` (in the environments of the mask `lanes`)."""
        field = self.core[name].reshape(-1)
        field[: self.n] = values if lanes is None else np.where(lanes, values, field[: self.n])
        self.core[name] = field.reshape(self.blocks, LANES)

    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters that each environment's episode drew, float64 (n,) by name."""
        values = np.moveaxis(self.core["parameters"], 1, 0).reshape(state.PARAMETERS, -1)
        return {d.name: values[k, : self.n].astype(float) for k, d in enumerate(self.config.randomise)}

    def group_state(self, name: str) -> np.ndarray:
        """The state of a feature group, one record for each block; `ConfigError` where it is not used."""
        if name not in self.stages.groups:
            raise ConfigError(
                f"feature group {name!r} is not in use: used are {', '.join(self.stages.groups)}."
            )
        return self.stages.groups[name]

    def get_state(self) -> dict[str, Any]:
        """Everything the next step depends on, as arrays; see `set_state`."""
        return {"stages": [array.copy() for array in self._states]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly from a state that `get_state` gave, of a desk with the same configuration.

        Not so on a market outside the compiled step: its memory cannot be saved, so new episodes start.
        """
        for ours, theirs in zip(self._states, _as_now(state["stages"], self._states), strict=True):
            _take_over(ours, theirs)
        if self.external is not None:
            self.reset()

    def take_back(self, stages: list[np.ndarray]) -> None:
        """Continue exactly from the "stages" of `get_state`, be they bytes, of a desk with the same
        configuration whose market outside is where it was. Raises `ValueError` where they do not fit."""
        for ours, saved in zip(self._states, stages, strict=True):
            fill(ours, saved)

    def close(self) -> None:
        if self.external is not None:
            self.external.close()

    def __reduce__(self) -> tuple[Any, ...]:
        settings = {"autoreset": self.autoreset, "strict": self.strict, "num_threads": self.num_threads}
        return restore, (type(self), self.config, self.n, settings, self.get_state())

    # Making the plan.

    def _make_plans(self) -> None:
        s = self.stages
        if self.external is None:
            self.plan = self._fill(make_plan([*s.decide, *s.market, *s.account], s.observe, s.restart))
        else:
            self.decide_plan = self._fill(make_plan(s.decide, [], []))
            self.plan = self._fill(make_plan(s.account, s.observe, s.restart))
            self.plan[engine.ACTIONS_AT] = 0  # taken already
            self.plan[engine.STRICT] = 0

    def event_plans(
        self, event: Sequence[Call], policy: Call, orders: Sequence[Call], stamp: Call | None = None
    ) -> EventPlans:
        """Plans for `step_at` that take one event of a market outside to orders in one call.

        `event` sets the market's answer, `policy` reads the tile of observations and sets the action,
        `orders` takes quotes and market orders. `stamp` is called before the first part, between two, and
        after the last.
        """
        s = self.stages
        parts = [event, [*s.account, *s.observe], [policy], s.decide, orders]
        between = [stamp] if stamp else []
        calls = [call for part in parts for call in (*between, *part)] + between
        first, following = (self._fill(make_plan(c, [], [])) for c in ([policy, *s.decide, *orders], calls))
        for plan in (first, following):
            plan[engine.ACTIONS_AT] = plan[engine.STRICT] = 0
        return EventPlans(first, following, calls)

    def _fill(self, plan: np.ndarray) -> np.ndarray:
        plan[engine.BLOCKS], plan[engine.COUNT], plan[engine.WIDTH] = self.blocks, self.n, self.width
        plan[engine.CORE_AT], plan[engine.CORE_STRIDE] = address(self.core), CORE.itemsize
        plan[engine.TILE_AT], plan[engine.PRICE_SCALE] = address(self._tile), self.config.market.price_scale
        plan[engine.ACTIONS_AT], plan[engine.FINAL_AT] = address(self.actions), address(self._final)
        plan[engine.AUTORESET] = int(self.autoreset and self.external is None)
        plan[engine.STRICT] = int(self.strict)
        plan[engine.ACTION_WIDTH] = self.actions.shape[1]
        plan[engine.AHEAD] = engine.lines_ahead(plan)
        plan[engine.TERMS], plan[engine.TERMS_AT] = len(self._terms), address(self._terms)
        return plan

    def _share(self) -> None:
        """Teams of each number of threads that may be used."""
        self._plan_at = address(self.plan)
        self._call = engine.entry(engine.step_at if self.blocks > 1 else engine.step_alone)
        most = min(self.blocks, self.num_threads or threads.processors())
        counts = [most]
        if self.num_threads is None:
            counts = [2**k for k in range(most.bit_length())] if self.n >= LEAST_THREADED else [1]
        self._tiles = aligned_zeros((most, self.width, LANES), np.float32)
        self._teams = {count: self._team(count) for count in counts if count > 1}
        self._threads = counts[0]
        self._trial = threads.Trial(counts) if len(counts) > 1 else None

    def _team(self, count: int) -> threads.Team:
        """So many threads, each with a part of the blocks and a tile."""
        plans = np.tile(self.plan, (count, 1))
        team = threads.Team(engine.share.address, plans, self.blocks)
        plans[:, engine.PART_OWNED], plans[:, engine.PARTS] = np.arange(count), count
        plans[:, engine.TILE_AT] = [address(tile) for tile in self._tiles[:count]]
        plans[:, engine.SHARED_AT] = team.shared_at
        return team

    def _renew_out(self) -> None:
        """Choose memory for the next step that nobody uses, looking first at what was used longest ago."""
        buffer = renewed(self._buffers, lambda: Buffer(self.n, self.width, self._final, self.ledger_names))
        if buffer is not self._buffer:
            self._buffer, self._out = buffer, buffer.step
            self.plan[engine.OUT_AT] = buffer.address


def _take_over(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Copy a state field by field, in their order: what an earlier version did not have stays at zero."""
    if ours.dtype.names is None or ours.dtype == theirs.dtype:
        ours[...] = theirs
        return
    for name, earlier in zip(ours.dtype.names, theirs.dtype.names, strict=False):
        own = ours[name]
        own[tuple(slice(size) for size in theirs[earlier].shape)] = theirs[earlier]


def _as_now(saved: list[np.ndarray], ours: list[np.ndarray]) -> list[np.ndarray]:
    """States that version 0.1.0 may have saved, laid out as `ours`.

    There the book's state had its parameters behind it, and a family of `brownian` came twice. (Fields of
    other names are no matter: they are copied in their order.)
    """
    if len(saved) == len(ours) + 1:
        saved = [saved[0], *saved[2:]]
    if len(saved) == len(ours) - 1:
        # Of a market outside, where new episodes start: what orders were placed with came later.
        saved = [*saved, ours[-1]]
    both = ("own", "family")
    if any(now.dtype.names == both for now in ours):
        return saved
    return [theirs["own"] if theirs.dtype.names == both else theirs for theirs in saved]


LEAST_THREADED = 1024
"""Below so many environments, handing the work over takes longer than the work."""


def restore(
    kind: type[Desk], config: EnvConfig, n: int, settings: dict[str, Any], state: dict[str, Any]
) -> Desk:
    """A desk from its pickled parts: addresses differ in every process, so the plan is made anew."""
    desk = kind(config, n, **settings)
    desk.set_state(state)
    return desk
