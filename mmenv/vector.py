"""NeuralMM-v0, n environments in one compiled call a step."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mmenv.arguments import (
    RENDER_FPS,
    ActionError,
    choose_config,
    open_screen,
    start_parameters,
    start_positions,
)
from mmenv.checks import ConfigError
from mmenv.config import DEFAULT_MARKET, EnvConfig
from mmenv.desk.basket import open_desk
from mmenv.desk.buffers import Step
from mmenv.desk.desk import NotFiniteError
from mmenv.market.base import Market
from mmenv.observation import action_space, observation_names, observation_space

FLOAT32 = np.dtype(np.float32)


class NeuralMMVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """n environments of `NeuralMMEnv`, which documents actions, observations, rewards and arguments.

    `info["ledger"]` holds float64 (n,) arrays of the step just made. What happens where an episode ends is
    `autoreset_mode`, an `AutoresetMode` of gymnasium or its value:

    * `"SameStep"` (default): `info["final_obs"]` holds its last observation and `info["final_info"]` its last
      ledger, and the observation returned starts the next episode.
    * `"NextStep"`: the next step ignores the action and resets it, with a reward of 0.
    * `"Disabled"`: it waits for `reset(options={"reset_mask": mask})`; a step before raises `ResetNeeded`.

    `reset(seed=s)` seeds environment i with s + i. `reset(options={"reset_mask": mask})` resets some of them,
    `options={"position": q}` sets starting positions (one, or one for each environment), and
    `options={"parameters": {...}}` the member of the family that they start in.

    With `strict_actions=False` an action that is not finite quotes nothing instead of raising `ActionError`.

    `num_threads` share the step, from one up to one for each 128 environments; with None the first steps of
    1,024 environments or more try several and keep the fastest. The bytes do not depend on it.

    `render()` with `render_mode="rgb_array"` returns a tuple of pictures, one for each environment.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": RENDER_FPS,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        market: str | Mapping[str, Any] | Market = DEFAULT_MARKET,
        *,
        config: EnvConfig | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        strict_actions: bool = True,
        num_threads: int | None = None,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(num_envs, int) or num_envs < 1:
            raise ConfigError(
                f"num_envs = {num_envs!r} is not possible: it must be an integer of at least 1."
            )
        if num_threads is not None and (not isinstance(num_threads, int) or num_threads < 1):
            raise ConfigError(
                f"num_threads = {num_threads!r} is not possible: it must be None or an integer of at least 1."
            )
        self.config = choose_config(market, config, settings)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = as_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.strict_actions = strict_actions
        self.observation_names = observation_names(self.config)
        self.single_observation_space = observation_space(self.config)
        self.single_action_space = action_space(self.config)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
        self._desk = open_desk(
            self.config, num_envs, autoreset=self._same_step, strict=strict_actions, num_threads=num_threads
        )
        self._action_shape = self.action_space.shape
        self._screen = open_screen(render_mode, self.metadata["render_modes"], self.config, num_envs)
        self._ended = np.zeros(num_envs, bool)  # and not yet reset
        self._drawn: dict[str, np.ndarray] = {}
        self._any_ended = False
        self._all = np.ones(num_envs, bool)
        self._all.flags.writeable = False
        self._seeded = False
        self._started = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        options = dict(options or {})
        mask = self._check_mask(options.pop("reset_mask", None))
        positions = start_positions(self.config, options, self.num_envs)
        parameters = start_parameters(self.config, options)
        first = int(seed) if isinstance(seed, (int, np.integer)) else None
        super().reset(seed=first)
        seeds = self._seeds(first if first is not None else seed)
        if mask is not None:
            seeds = [seed if chosen else None for seed, chosen in zip(seeds, mask, strict=True)]
        self._desk.seed(seeds)
        self._seeded = self._started = True
        self._ended[:] = False if mask is None else self._ended & ~mask
        self._any_ended = bool(self._ended.any())
        observations = self._desk.reset(mask, positions, parameters)
        if self._screen is not None:
            self._screen.record(self._desk)
        return observations, self._about_episodes()

    def weigh_members(self, members: Sequence[Mapping[str, float]], chances: np.ndarray) -> None:
        """From the next episodes on, draw these members of the family with `chances`, (k,), not evenly from
        its ranges; see `mmenv.desk.family`.

        Raises `ConfigError` where a member is not of the family, or not possible.
        """
        family = getattr(self._desk, "family", None)
        if family is None:
            raise ConfigError("EnvConfig.randomise = () is not possible: give a family to weigh members of.")
        family.weigh(members, chances)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if not self._started or (self._any_ended and self.autoreset_mode == AutoresetMode.DISABLED):
            raise gymnasium.error.ResetNeeded(self._what_to_reset())
        try:
            out = self._desk.step(self._check_actions(actions))
        except NotFiniteError as error:
            raise ActionError(
                f"actions[{error.row}] = {np.asarray(actions)[error.row].tolist()} is not possible: "
                "all its numbers must be finite."
            ) from None
        info: dict[str, Any] = {"ledger": out.ledger_rows.copy(), "_ledger": self._all}
        drawn, some_reset = self._drawn, self._any_ended
        if some_reset:  # next-step autoreset: what these made of the action does not count
            info["_ledger"] = ~self._ended
            out = self._reset_ended(out, self._ended)
        if drawn:
            new = some_reset or self._desk.any_done
            info |= self._about_episodes() if new else about(drawn, self.num_envs)
        if not self._same_step:
            np.logical_or(out.terminated, out.truncated, out=self._ended)
            self._any_ended = bool(self._ended.any())
        elif self._desk.any_done:
            done = out.terminated | out.truncated
            info |= self._final(out, done, info["ledger"])
            if drawn:
                info["final_info"] |= {"parameters": drawn, "_parameters": done}
        if self._screen is not None:
            self._screen.record(self._desk)
        return out.observations, out.rewards, out.terminated, out.truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A picture of every environment, uint8 (height, width, 3) each."""
        if self._screen is not None:
            self._screen.check()
            return tuple(self._screen.frame(lane) for lane in range(self.num_envs))
        gymnasium.logger.warn(
            "You are calling render method without specifying any render mode. You can specify the "
            'render_mode at initialization, e.g. gym.make_vec("NeuralMM-v0", render_mode="rgb_array")'
        )
        return None

    @property
    def ledger(self) -> np.ndarray:
        """The ledger of the step just made, float64 (rows, n): what `info["ledger"]` names by row."""
        return self._desk.out.ledger

    @property
    def position_rows(self) -> list[int]:
        """The rows of `ledger` that have the positions, of each quoted asset one."""
        names = self._desk.ledger_names
        of_assets = [row for row, name in enumerate(names) if name.endswith("_position")]
        return of_assets if self.config.market.quoted > 1 else [names.index("position")]

    @property
    def mids(self) -> np.ndarray:
        """The mid-prices now, half-ticks, int32 (n,); of several quoted assets (n, assets)."""
        return self._desk.get("mid").copy()

    @property
    def tape_times(self) -> np.ndarray | None:
        """Number of the tape (of several assets that of the first) and local time, nanoseconds, at which each
        environment is, int64 (2, num_envs); None where the market is no tape."""
        return getattr(self._desk.external, "times", None)

    def close_extras(self, **kwargs: Any) -> None:
        if not hasattr(self, "_screen"):
            return  # refused by the constructor: gymnasium's __del__ closes it all the same
        self._desk.close()
        if self._screen is not None:
            self._screen.close()

    def get_state(self) -> dict[str, Any]:
        """Everything the next step depends on; `set_state` continues from it to the same bytes."""
        return {
            "desk": self._desk.get_state(),
            "np_random": self.np_random.bit_generator.state,
            "ended": self._ended.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._desk.set_state(state["desk"])
        self.np_random.bit_generator.state = state["np_random"]
        self._ended = state["ended"].copy()
        self._drawn = self._desk.parameters()
        self._any_ended = bool(self._ended.any())
        self._seeded = self._started = True

    def _check_actions(self, actions: Any) -> np.ndarray:
        """The actions as numbers (n, A)."""
        if type(actions) is np.ndarray and actions.dtype is FLOAT32 and actions.shape == self._action_shape:
            return actions
        try:
            given = np.asarray(actions)
        except (TypeError, ValueError):  # such as lists of different lengths
            given = np.asarray(None)
        if given.shape != self._action_shape or given.dtype.kind not in "fiu":
            raise ActionError(
                f"actions of shape {given.shape} and type {given.dtype} are not possible: expected numbers "
                f"of shape {self._action_shape}, one action for each environment."
            )
        return given

    def _about_episodes(self) -> dict[str, Any]:
        """The entries of `info` on what the episodes drew, read anew."""
        self._drawn = self._desk.parameters()
        return about(self._drawn, self.num_envs)

    def _what_to_reset(self) -> str:
        if not self._started:
            return "The environments were never reset: call reset() before step()."
        return (
            f"Environments {np.flatnonzero(self._ended).tolist()} are at their end: call "
            'reset(options={"reset_mask": terminated | truncated}) before step().'
        )

    def _reset_ended(self, out: Step, ended: np.ndarray) -> Step:
        out.observations[:] = self._desk.reset(ended)
        out.rewards[ended] = 0.0
        out.terminated[ended] = out.truncated[ended] = False
        out.ledger[:, ended] = 0.0
        return out

    def _final(self, out: Step, done: np.ndarray, ledger: dict[str, np.ndarray]) -> dict[str, Any]:
        """The entries of `info` on episodes that ended and were reset in the same step."""
        last = np.full(self.num_envs, None, object)
        for i, observation in zip(np.flatnonzero(done).tolist(), out.final_observations[done], strict=True):
            last[i] = observation
        return {
            "final_obs": last,
            "_final_obs": done,
            "final_info": {"ledger": ledger, "_ledger": done},
            "_final_info": done,
        }

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        """One seed for each environment, None where it keeps its own."""
        n = self.num_envs
        if seed is None:
            if self._seeded:
                return [None] * n
            seed = int(self.np_random.integers(2**62))
        if isinstance(seed, int):
            return range(seed, seed + n)
        try:
            seeds = [None if s is None else operator.index(s) for s in seed]
        except TypeError:  # neither an integer nor a list of some
            seeds = []
        if len(seeds) != n or any(s is not None and s < 0 for s in seeds):
            raise ConfigError(f"seed = {seed!r} is not possible: give one of at least 0, or a list of {n}.")
        return seeds

    def _check_mask(self, mask: Any) -> np.ndarray | None:
        if mask is None:
            return None
        if not self._started:
            raise gymnasium.error.ResetNeeded(
                "reset_mask resets some environments, but none was ever reset: call reset() without it first."
            )
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ConfigError(
                f"reset_mask = {mask!r} is not possible: give a bool array of shape ({self.num_envs},) "
                "with at least one True."
            )
        return mask


def about(drawn: dict[str, np.ndarray], n: int) -> dict[str, Any]:
    """`info` of parameters that episodes drew; nothing where none are."""
    return {"parameters": drawn, "_parameters": np.ones(n, bool)} if drawn else {}


def as_mode(mode: Any) -> AutoresetMode:
    """An autoreset mode from itself or its value."""
    try:
        return AutoresetMode(mode)
    except ValueError:
        allowed = ", ".join(repr(m.value) for m in AutoresetMode)
        raise ConfigError(
            f"autoreset_mode = {mode!r} is not possible: it must be one of {allowed}."
        ) from None
