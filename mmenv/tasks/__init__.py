"""Tasks: environments whose parameters, seeds and paths never change, so that scores can be compared.

    gym.make("NeuralMM/brownian-v0")
    gym.make_vec("NeuralMM/large-tick-v0", num_envs=64, quote={"name": "touch"})

A task freezes the market, the horizon, the fees, the limits and the reward. How a policy acts and what it
observes is its own choice: `FREE`. A task is a JSON file in this folder; a change to one is a new task, with
the next number.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.checks import ConfigError, differences
from mmenv.config import EnvConfig, make_config
from mmenv.env import NeuralMMEnv
from mmenv.vector import NeuralMMVectorEnv

FOLDER = Path(__file__).parent
FREE = ("quote", "features", "signals", "manager")
"""Settings that are the policy's own choice."""
RENDERED = ("render_mode", "num_envs", "autoreset_mode", "strict_actions", "num_threads")
"""Arguments of the environments that change no episode."""
HASHED_EPISODES = 4


@dataclass(frozen=True)
class Scale:
    """What a score is a percentage of."""

    label: str
    """Such as "% of optimum"."""
    bottom: str
    """What is 0%."""
    zero: float
    top: str
    """What is 100%."""
    one: float
    one_half_width: float = 0.0
    """Half of the 95% interval of `one`, where it was simulated."""
    anchor: float = 0.0
    """Mean of `Task.reference`: exact, or the best that is known of it."""


@dataclass(frozen=True)
class Task:
    """A frozen environment, and how policies are scored on it."""

    name: str
    about: str
    frozen: dict[str, Any]
    """Settings of `mmenv.make_config`, all but `FREE`."""
    episodes: int
    """Episodes of a score, seeded seed, seed + 1, ..."""
    seed: int
    paths: str
    """Hash of the mid-prices of the first episodes: another one means that this machine draws other paths."""
    scale: Scale
    rule: dict[str, float] = field(default_factory=dict)
    """Parameters of the policy `Scale.bottom`, where a search of minutes found them."""

    @property
    def digest(self) -> str:
        """Hash of what is frozen; a score of another one is of another task."""
        content = json.dumps([self.frozen, self.episodes, self.seed], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def config(self, **free: Any) -> EnvConfig:
        """The configuration, with the policy's own choices.

        Raises `ConfigError` for a setting that the task freezes.
        """
        for name in free:
            if name not in FREE:
                raise ConfigError(
                    f"{name} = {free[name]!r} is not possible: task {self.name!r} freezes it; free are "
                    f"{', '.join(FREE)}. `NeuralMM-v0` takes any."
                )
        return make_config(**self.frozen, **free)

    def check(self, config: EnvConfig, name: str) -> None:
        """Raise `ConfigError`, naming the fields, unless the policy `name` was made for this task."""
        made, ours = (
            {key: value for key, value in one.to_dict().items() if key not in FREE}
            for one in (config, self.config())
        )
        if differ := differences(made, ours):
            raise ConfigError(
                f"{name} was made for another task than {self.name!r} ({'; '.join(differ[:3])}): score it on "
                "its own, or train it on this one."
            )

    def same_paths(self) -> bool:
        """Whether this machine draws the paths that the task was frozen with."""
        return path_hash(self.config(), self.seed) == self.paths

    @functools.cached_property
    def reference(self) -> np.ndarray:
        """What a policy whose value is known, `Scale.anchor`, earns in each episode, (episodes,).

        It shows the luck of each episode, which is taken off a score.
        """
        with np.load(FOLDER / f"{self.name}.npz", allow_pickle=False) as arrays:
            return np.asarray(arrays["reference"], np.float64)


def path_hash(config: EnvConfig, seed: int) -> str:
    """Hash of the mid-prices, whole numbers, of the first episodes where nothing is quoted."""
    envs = NeuralMMVectorEnv(HASHED_EPISODES, config=config, strict_actions=False)
    envs.reset(seed=seed)
    actions = np.full(envs.action_space.shape or (), np.nan, np.float32)
    found = hashlib.sha256()
    for _ in range(config.horizon - 1):
        envs.step(actions)
        found.update(envs.mids.astype("<i8").tobytes())
    envs.close()
    return found.hexdigest()[:16]


@functools.cache
def tasks() -> dict[str, Task]:
    """All tasks, by name."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json")))
    return {it["name"]: Task(**{**it, "scale": Scale(**it["scale"])}) for it in found}


def find_task(name: str) -> Task:
    """The task of a name, with or without "NeuralMM/" and its number; `ConfigError` where there is none."""
    plain = name.removeprefix("NeuralMM/")
    for known in (plain, f"{plain}-v0"):
        if known in tasks():
            return tasks()[known]
    near = difflib.get_close_matches(plain, tasks(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"there is no task {name!r}.{hint} Known: {', '.join(tasks())}.")


def make_env(task: str, render_mode: str | None = None, **free: Any) -> NeuralMMEnv:
    """One environment of a task: `gym.make("NeuralMM/brownian-v0")`."""
    return NeuralMMEnv(config=find_task(task).config(**free), render_mode=render_mode)


def make_vector_env(task: str, num_envs: int = 1, **settings: Any) -> NeuralMMVectorEnv:
    """Many: `gym.make_vec("NeuralMM/brownian-v0", num_envs=64)`."""
    how = {name: settings.pop(name) for name in RENDERED if name in settings}
    return NeuralMMVectorEnv(num_envs, config=find_task(task).config(**settings), **how)
