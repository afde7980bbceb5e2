"""NeuralMM-v0, n environments in one compiled call a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mmenv.config import ConfigError, EnvConfig, Market, make_config
from mmenv.desk import Desk
from mmenv.env import ActionError, action_space, observation_space, start_positions
from mmenv.features import observation_names
from mmenv.kernel import LEDGER


class NeuralMMVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """n environments of `NeuralMMEnv`, which documents actions, observations, rewards and arguments.

    SAME_STEP autoreset: where an episode ends, `info["final_obs"]` holds its last observation and
    `info["final_info"]` its last ledger, and the observation returned starts the next episode.
    `info["ledger"]` holds float64 (n,) arrays of the step just made, for all environments.

    `reset(seed=s)` seeds environment i with s + i. `reset(options={"reset_mask": mask})` resets some of them,
    `options={"position": q}` sets starting positions (one, or one for each environment).

    With `strict_actions=False` an action that is not finite quotes nothing instead of raising `ActionError`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        market: str | Mapping[str, Any] | Market = "hidden-regime",
        *,
        config: EnvConfig | None = None,
        strict_actions: bool = True,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(num_envs, int) or num_envs < 1:
            raise ConfigError(
                f"num_envs = {num_envs!r} is not possible: it must be an integer of at least 1."
            )
        self.config = config or make_config(market, **settings)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.strict_actions = strict_actions
        self.observation_names = observation_names(self.config)
        self.single_observation_space = observation_space(self.config)
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._desk = Desk(self.config, num_envs, autoreset=True)
        self._seeded = False
        self._started = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed if isinstance(seed, int) else None)
        options = dict(options or {})
        mask = self._check_mask(options.pop("reset_mask", None))
        positions = start_positions(self.config, options, self.num_envs)
        self._desk.seed(self._seeds(seed))
        self._seeded = self._started = True
        return self._desk.reset(mask, positions), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if not self._started:
            raise RuntimeError("The environments were never reset: call reset() before step().")
        given = np.ascontiguousarray(actions, np.float32)
        if given.shape != (self.num_envs, 2):
            raise ActionError(
                f"actions of shape {given.shape} are not possible: expected ({self.num_envs}, 2), "
                "a half-spread and a skew for each environment."
            )
        if self.strict_actions and not np.isfinite(given).all():
            row = int(np.argmin(np.isfinite(given).all(axis=1)))
            raise ActionError(
                f"actions[{row}] = {given[row]!r} is not possible: both entries must be finite."
            )
        out = self._desk.step(given)
        info: dict[str, Any] = {"ledger": dict(zip(LEDGER, out.ledger, strict=True))}
        done = out.terminated | out.truncated
        if done.any():
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(done):
                final[i] = out.final_observations[i]
            info |= {"final_obs": final, "_final_obs": done}
            info |= {"final_info": {"ledger": info["ledger"], "_ledger": done}, "_final_info": done}
        return out.observations, out.rewards, out.terminated, out.truncated, info

    @property
    def ledger(self) -> np.ndarray:
        """The ledger of the step just made, float64 (len(LEDGER), n): what `info["ledger"]` names by row."""
        return self._desk.out.ledger

    def close_extras(self, **kwargs: Any) -> None:
        self._desk.close()

    def get_state(self) -> dict[str, Any]:
        """Everything the next step depends on; `set_state` continues from it to the same bytes."""
        return {"desk": self._desk.get_state(), "np_random": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        self._desk.set_state(state["desk"])
        self.np_random.bit_generator.state = state["np_random"]
        self._seeded = self._started = True

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if isinstance(seed, int):
            return [seed + i for i in range(self.num_envs)]
        if seed is not None:
            if len(seed) != self.num_envs:
                raise ConfigError(
                    f"seed has {len(seed)} entries: give one for each of {self.num_envs} environments."
                )
            return [None if s is None else int(s) for s in seed]
        if self._seeded:
            return []
        first = int(self.np_random.integers(2**62))
        return [first + i for i in range(self.num_envs)]

    def _check_mask(self, mask: Any) -> np.ndarray | None:
        if mask is None:
            return None
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ConfigError(
                f"reset_mask = {mask!r} is not possible: give a bool array of shape ({self.num_envs},) "
                "with at least one True."
            )
        return mask
