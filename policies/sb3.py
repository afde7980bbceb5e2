"""Models that Stable-Baselines3 or sb3-contrib saved, of any algorithm, as policies.

A model's zip holds its policy whatever the algorithm was: PPO, A2C, TRPO, SAC, TD3, TQC, RecurrentPPO, or one
of somebody's own. Statistics that `VecNormalize.save` wrote beside it are found and applied, so the policy
sees what it saw in training.

    model.save("model.zip")
    venv.save("vecnormalize.pkl")        # where there is one
    # neuralmm evaluate model.zip --market brownian

Reading a zip unpickles parts of it, which can run code: read only what you trust.
"""

from __future__ import annotations

import inspect
import json
import pickle
import shlex
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.observation import action_entries, observation_names
from policies.base import Policy

ENV_CONFIG = "env_config"
"""Attribute of a saved model: the configuration of its environment, as `EnvConfig.to_dict` gives it."""

BEST = "best_model.zip"
"""The model in a folder: what `neuralmm train` and SB3's EvalCallback call it."""

SHOWN = 8
"""Runs that a sentence names at most."""

OTHER_FRAMEWORK = (
    'A policy of another framework is named as "module:name" of a class or object with reset(n) and '
    "act(observation, state): docs/training.md."
)

UNUSED = (
    "learning_rate",
    "lr_schedule",
    "clip_range",
    "clip_range_vf",
    "replay_buffer_class",
    "action_noise",
)
"""Objects in a zip that training needs and playing does not: they are not unpickled."""


@dataclass(frozen=True)
class SavedModel:
    """What a zip holds that playing needs."""

    path: Path
    network: Any
    """The policy, an SB3 `BasePolicy` on the CPU."""
    env_config: EnvConfig | None
    """What it was trained under, where the model says so (attribute `env_config`)."""
    normalisation: Any = None
    """A `VecNormalize` without its environment."""

    def policy(self, config: EnvConfig, name: str | None = None) -> Policy:
        """The policy for environments of `config`. Raises `ConfigError` where its spaces are others."""
        from policies.network.recurrent import RecurrentPolicy
        from policies.network.trained import TrainedPolicy

        entries, numbers = len(observation_names(config)), len(action_entries(config))
        seen, acted = self.network.observation_space, self.network.action_space
        if not isinstance(acted, spaces.Box) or acted.shape != (numbers,):
            raise ConfigError(
                f"{self.path} acts by {acted}, and {config.market.name!r} takes {numbers} numbers from -1 to "
                f"1. It is a policy for an action of that shape; give the market it was trained on."
            )
        ours = isinstance(self.network, RecurrentPolicy)
        box = isinstance(seen, spaces.Box)
        # The actor of ours does not have the entries that were for its critic alone.
        width = (self.network.lstm_actor.input_size,) if ours and box else seen.shape
        if not box or width != (entries,):
            raise ConfigError(
                f"{self.path} observes {width}, and {config.market.name!r} shows {entries} entries. It "
                "is a policy for other features or another market; give the one it was trained on."
            )
        if ours and self.normalisation is None:
            return TrainedPolicy(self.network, name or self.path.stem)
        return SB3Policy(self.network, name or self.path.stem, self.normalisation)


class SB3Policy:
    """The deterministic actions of an SB3 policy; its memory, where it is recurrent, is handed along."""

    def __init__(self, network: Any, name: str, normalisation: Any = None) -> None:
        self.name, self._network, self._normalisation = name, network, normalisation

    def reset(self, n: int) -> Any:
        return None

    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        starts = np.full(len(observation), state is None)
        if self._normalisation is not None:
            observation = self._normalisation.normalize_obs(observation)
        action, after = self._network.predict(observation, state, starts, deterministic=True)
        return action.astype(np.float32, copy=False), () if after is None else after


def model_file(text: str | Path) -> Path | None:
    """The zip that a policy's name stands for, the folder of a run included; None for other names."""
    path = Path(text)
    if path.suffix == ".zip":
        return path
    return path / BEST if path.is_dir() else None


def there(path: Path) -> Path:
    """The zip itself, where it is there; raises `FileNotFoundError` with the runs that are near it."""
    if path.is_file():
        return path
    folder = path.parent
    runs = sorted(str(found.parent) for found in folder.glob(f"*/{BEST}")) if path.name == BEST else []
    if runs:
        shown = ", ".join(runs[:SHOWN]) + (f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else "")
        raise FileNotFoundError(f"{folder} is no run, but there are runs in it: {shown}. Name one of them.")
    if (folder / "config.json").exists():
        word = shlex.quote(str(folder))
        raise FileNotFoundError(
            f"{folder} has no model yet: neuralmm train --resume {word} goes on until it has."
        )
    raise FileNotFoundError(f"{path}: there is no model; `neuralmm train` makes one.")


def is_ours(path: Path) -> bool:
    """Whether a zip is of `neuralmm train`: a policy of ours that says what it was trained under.

    What cannot be read counts as ours, for then it was damaged, and what reads it says so.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            stored = json.loads(archive.read("data"))
        kind = stored["policy_class"]["__module__"]
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return path.with_name("config.json").exists()
    return ENV_CONFIG in stored and str(kind).startswith("policies.")


def load_model(path: Path) -> SavedModel:
    """Read the zip of a model, and the statistics of a `VecNormalize` beside it.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ConfigError
        It is no model of Stable-Baselines3, or names what is not installed.
    """
    # Here, for torch takes seconds to import.
    from stable_baselines3.common.save_util import load_from_zip_file

    there(path)
    try:
        data, weights, _ = load_from_zip_file(path, custom_objects=dict.fromkeys(UNUSED), device="cpu")
        network = _network(data or {}, weights)
    except Exception as error:
        raise ConfigError(
            f"{path} is not a model of Stable-Baselines3 that can be read here ({type(error).__name__}: "
            f"{error}). {OTHER_FRAMEWORK}"
        ) from error
    stored = (data or {}).get(ENV_CONFIG)
    config = make_config(**stored) if stored else None
    return SavedModel(path, network, config, _normalisation(path, _was_normalised(data or {})))


def _network(data: dict[str, Any], weights: dict[str, Any]) -> Any:
    """The policy of a zip, with its weights."""
    kind, kwargs = data["policy_class"], dict(data.get("policy_kwargs") or {})
    if "use_sde" in inspect.signature(kind).parameters:
        kwargs.setdefault("use_sde", data.get("use_sde", False))
    network = kind(data["observation_space"], data["action_space"], lambda _: 0.0, **kwargs)
    network.load_state_dict(weights["policy"])
    network.set_training_mode(False)
    return network


def _was_normalised(data: dict[str, Any]) -> bool | None:
    """Whether a model was trained through a `VecNormalize`; None where its zip does not tell.

    Algorithms on policy keep observations as they were before it; those off policy always do.
    """
    if "buffer_size" in data or "_last_original_obs" not in data or not data.get("num_timesteps"):
        return None
    return data["_last_original_obs"] is not None


def _normalisation(path: Path, was_normalised: bool | None) -> Any:
    """The `VecNormalize` saved beside a model; None where there is none, or it leaves observations alone.

    Raises `ConfigError` where the model was trained through one that is not there.
    """
    if was_normalised is False:
        return None  # what lies there is another model's
    for file in statistics_of(path):
        if file.is_file():
            try:
                found = pickle.loads(file.read_bytes())
            except Exception as error:
                raise ConfigError(
                    f"{file} is not what VecNormalize.save writes ({type(error).__name__}: {error}): remove "
                    "it, or save it anew."
                ) from error
            if not hasattr(found, "normalize_obs"):
                raise ConfigError(f"{file} holds a {type(found).__name__}, not a VecNormalize: remove it.")
            found.training = False
            return found if found.norm_obs else None
    if was_normalised:
        raise ConfigError(
            f"{path} was trained through a VecNormalize, and its statistics are not beside it: write them "
            f"with model.get_vec_normalize_env().save({str(path.with_suffix('.pkl'))!r})."
        )
    return None


def statistics_of(path: Path) -> list[Path]:
    """Where the statistics of a model's observations may lie, the likeliest first.

    SB3's CheckpointCallback writes `P_vecnormalize_N_steps.pkl` beside `P_N_steps.zip`; the RL Zoo
    `vecnormalize.pkl` in a folder beside the model.
    """
    prefix, _, steps = path.stem.removesuffix("_steps").rpartition("_")
    names = [f"{path.stem}_vecnormalize.pkl", f"{path.stem}.pkl", "vecnormalize.pkl", "vec_normalize.pkl"]
    if path.stem.endswith("_steps") and steps.isdigit():
        names.insert(0, f"{prefix}_vecnormalize_{steps}_steps.pkl")
    return [*(path.with_name(name) for name in names), *sorted(path.parent.glob("*/vecnormalize.pkl"))]
