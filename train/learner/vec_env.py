"""The native vector environment as a Stable-Baselines3 VecEnv. SB3 itself takes no gymnasium VectorEnv."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from mmenv.arguments import RENDER_FPS
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.engine.state import LEDGER
from mmenv.observation import observation_names, observation_space
from mmenv.vector import NeuralMMVectorEnv
from train.learner.basket_terms import BasketTerms
from train.learner.control_variate import Terms
from train.learner.shortfall import SHOWN, Shortfall
from train.simulate import TERMS

TERM_ROWS = [LEDGER.index(term) for term in TERMS]
NOISE, POSITION = LEDGER.index("noise"), LEDGER.index("position")


class NeuralMMVecEnv(VecEnv):
    """n environments of one configuration for SB3: SAME_STEP autoreset, episode statistics kept here.

    At the end of an episode `info["episode"]` holds its return `r`, length `l`, the sums of `TERMS` and the
    mean absolute inventory: no VecMonitor is needed, and SB3 is told that there is a `Monitor`, so that
    `evaluate_policy` and `EvalCallback` give returns of the true reward. What the learner gets is
    `reward_scale` times the reward, less its `noise` where `control_variate` is set: the same mean at a
    fraction of the variance (see `mmenv.step.ledger`).

    `set_options` gives options of the next reset to all environments, or to each its own. With
    `render_mode="rgb_array"` there are pictures, as `VecVideoRecorder` wants them.

    Where the last feature group is `surprise`, it is no observation but goes to `surprises`, float32 (n, K):
    those of the step just made, which a learner may use (see `train.learner.control_variate`), and
    `surprise_terms` says which terms explain most of several assets.

    Where the objective is mean less shortfall, the learner gets what each step adds to its expected utility
    instead (`train.learner.shortfall`), and more entries of the observation say, for the critic, how the
    episode stands.

    Noise is risk where not the mean is learned for. With `control_variate` exponential utility pays what it
    costs on average in its place; for a shortfall it is integrated out where it is normal, stays in the
    rewards elsewhere, and is the last of the surprises.
    """

    def __init__(
        self,
        config: EnvConfig,
        num_envs: int,
        *,
        seed: int = 0,
        control_variate: bool = True,
        reward_scale: float = 1.0,
        render_mode: str | None = None,
    ) -> None:
        self.envs = NeuralMMVectorEnv(num_envs, config=config, render_mode=render_mode)
        self.surprises: np.ndarray | None = None
        several = config.market.quoted > 1 and not config.reward.shortfall_weight
        self.surprise_terms: Terms | None = BasketTerms(config) if several else None
        if config.features[-1] == "surprise":
            config = dataclasses.replace(config, features=config.features[:-1])
            more = len(self.envs.observation_names) - len(observation_names(config))
            self.surprises = np.zeros((num_envs, more), np.float32)
        self._width = len(observation_names(config))
        self.control_variate, self.reward_scale = control_variate, reward_scale
        space, reward = observation_space(config), config.reward
        self._noise_surprises = control_variate and reward.shortfall_weight > 0
        self.shortfall: Shortfall | None = None
        if reward.shortfall_weight > 0:
            weight, level = reward.shortfall_weight, reward.shortfall_level
            self.shortfall = Shortfall(weight, level, config.horizon, 1 / reward_scale)
            self.surprise_terms = self.shortfall.terms
            ends = np.full(SHOWN, 100, np.float32)
            low, high = np.append(space.low, -ends), np.append(space.high, ends)
            space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        if self._noise_surprises:
            given = 0 if self.surprises is None else self.surprises.shape[1]
            self.surprises = np.zeros((num_envs, given + 1), np.float32)
        super().__init__(num_envs, space, self.envs.single_action_space)
        self.metadata: dict[str, Any] = {**self.metadata, "render_fps": RENDER_FPS}
        self._first_seed: int | None = seed
        self._sums = np.zeros((len(TERMS) + 3, num_envs))  # then: return, absolute inventory, steps
        self._began = time.monotonic()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed environment i with seed + i at the next reset."""
        self._first_seed = seed
        return [None if seed is None else seed + i for i in range(self.num_envs)]

    def reset(self) -> np.ndarray:
        observations = self._reset_with_options()
        self._first_seed = None  # seeds and options serve once
        self._reset_options()
        self._sums[:] = 0
        return self._observed(observations)

    def _reset_with_options(self) -> np.ndarray:
        n, first, each = self.num_envs, self._first_seed, self._options
        if len(each) != n:
            raise ConfigError(f"set_options of {len(each)} is not possible: give one, or a list of {n}.")
        given = {repr(options): options for options in each}
        if len(given) == 1:
            return self.envs.reset(seed=first, options=each[0])[0]
        observations = self.envs.reset(seed=first)[0]
        seeds = None if first is None else [first + i for i in range(n)]
        for name, options in given.items():
            chosen = np.array([repr(mine) == name for mine in each])
            observations = self.envs.reset(seed=seeds, options={**options, "reset_mask": chosen})[0]
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observations, rewards, terminated, truncated, info = self.envs.step(self._actions)
        ledger = self.envs.ledger
        self._sums[:-3] += ledger[TERM_ROWS]
        self._sums[-3] += rewards
        self._sums[-2] += np.abs(ledger[POSITION])
        self._sums[-1] += 1
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        last = observations
        learned = (self._learned(rewards, ledger) * self.reward_scale).astype(np.float32)
        if dones.any():
            last = observations.copy()
            last[dones] = np.stack(info["final_obs"][dones])
            shown = self._observed(last)
            for i in np.flatnonzero(dones):
                infos[i] = self._final_info(i, shown[i], bool(truncated[i] and not terminated[i]))
        if self.surprises is not None:
            self.surprises = self._surprises(last[:, self._width :], ledger)
        if self.shortfall is not None:
            self.shortfall.follow(self._sums[-3, dones])
        self._sums[:, dones] = 0
        return self._observed(observations), learned, dones, infos

    def _observed(self, observations: np.ndarray) -> np.ndarray:
        """The entries that the learner gets, a copy: surprises are none, and a critic may be told more."""
        seen = observations[:, : self._width].copy()
        if self.shortfall is None:
            return seen
        return np.concatenate([seen, self.shortfall.shown(self._sums[-3], self._sums[-1])], axis=1)

    def _surprises(self, given: np.ndarray, ledger: np.ndarray) -> np.ndarray:
        """Those of the market, and the noise where it is not taken off the rewards."""
        if not self._noise_surprises:
            return given
        noise = (ledger[NOISE] * self.reward_scale).astype(np.float32)
        return np.concatenate([given, noise[:, None]], axis=1)

    def _learned(self, rewards: np.ndarray, ledger: np.ndarray) -> np.ndarray:
        """The rewards, less what of them is noise. To who is averse to risk it costs half the aversion times
        its variance, the certainty equivalent of normal noise.

        The square of the noise stands for a variance that is not known: right on average, and so for
        utility, to second order in what the noise of a step does to it.
        """
        if self.shortfall is not None:
            return self._paid(self.shortfall, rewards, ledger)
        if not self.control_variate:
            return rewards
        variance, noise = self.envs.config.market.noise_variance, ledger[NOISE]
        squares = noise**2 if variance is None else variance * ledger[POSITION] ** 2
        return rewards - noise - 0.5 * self.envs.config.reward.risk_aversion * squares

    def _paid(self, shortfall: Shortfall, rewards: np.ndarray, ledger: np.ndarray) -> np.ndarray:
        """What steps add to the expected utility; normal noise is integrated out where it is controlled."""
        total, steps = self._sums[-3], self._sums[-1]
        variance = self.envs.config.market.noise_variance
        if not self.control_variate or variance is None:
            return shortfall.paid(rewards, total, steps)
        return shortfall.paid(rewards, total, steps, ledger[NOISE], variance * ledger[POSITION] ** 2)

    def _final_info(self, i: int, observation: np.ndarray, truncated: bool) -> dict[str, Any]:
        *sums, total, inventory, steps = self._sums[:, i].tolist()
        episode = {"r": total, "l": int(steps), "t": time.monotonic() - self._began}
        episode |= dict(zip(TERMS, sums, strict=True)) | {"inventory": inventory / steps}
        return {"terminal_observation": observation, "TimeLimit.truncated": truncated, "episode": episode}

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.envs.render() or [None] * self.num_envs

    def close(self) -> None:
        self.envs.close()

    @property
    def configuration(self) -> dict[str, Any]:
        """What the environments are made of; a checkpoint resumes under the same one alone."""
        return self.envs.config.to_dict()

    def get_state(self) -> dict[str, Any]:
        """Everything the next step depends on, for an exact resume."""
        state = {"envs": self.envs.get_state(), "sums": self._sums.copy()}
        return state if self.shortfall is None else {**state, "shortfall": self.shortfall.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        self.envs.set_state(state["envs"])
        self._sums[:] = state["sums"]
        if self.shortfall is not None:
            self.shortfall.set_state(state["shortfall"])
        self._first_seed = None

    # What SB3 asks of a VecEnv and one object answers for all.

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.envs, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        result = getattr(self.envs, method_name)(*args, **kwargs)
        return [result] * len(self._indices(indices))

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        return [wrapper_class is Monitor] * len(self._indices(indices))  # the episode statistics are here

    def _indices(self, indices: int | Iterable[int] | None) -> Sequence[int]:
        if indices is None:
            return range(self.num_envs)
        return [indices] if isinstance(indices, int) else list(indices)
