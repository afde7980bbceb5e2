"""Checkpoints from which a killed run resumes to the same bytes as one that was never interrupted.

    callback = Checkpoint("logs/run/checkpoints", every=10)
    model.learn(1_000_000, callback=callback)

    model = load_latest("logs/run/checkpoints", env)             # after a crash
    model.learn(remaining_timesteps(model), callback=callback, reset_num_timesteps=False)

A checkpoint is taken at the start of a rollout, just after an update: then there is no half-filled buffer to
keep. It holds weights, optimiser, schedules and counters (SB3's own zip), recurrent states, last
observation, episode statistics, scalars recorded but not yet written, all generators (Python, NumPy, torch,
action space) and the state of the environment. Not restored, because SB3 gives callbacks no state to save:
callbacks' own counters.

An environment takes part by two methods on its VecEnv (see `RestorableVecEnv`). Without them, or with another
number of environments than the interrupted run had, the run continues from fresh episodes, and says so. Under
another configuration it is refused.

A file is a magic number, the SHA-256 of what follows, and a pickle; it is written to a temporary name and
renamed. Like every pickle, load it only if you trust its origin.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pickle
import random
import warnings
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, Logger, TensorBoardOutputFormat, configure
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper
from torch.utils.tensorboard import SummaryWriter

from mmenv.checks import ConfigError, differences, require
from mmenv.config import EnvConfig
from mmenv.files import replacing
from train.learner.model_file import unpickle
from train.learner.recurrent_ppo import FastRecurrentPPO

MAGIC = b"NMMCKPT1"
DIGEST_BYTES = hashlib.sha256().digest_size


@runtime_checkable
class RestorableVecEnv(Protocol):
    """A VecEnv (or wrapper) whose future is a function of what `get_state` returns."""

    def get_state(self) -> Any:
        """All that the next steps depend on, generators included: bytes, numbers, arrays, or containers."""

    def set_state(self, state: Any) -> None:
        """Continue as the environment that `get_state` was called on, without a reset."""


class Checkpoint(BaseCallback):
    """Save a checkpoint at the start of every `every`-th rollout and keep the last `keep`."""

    def __init__(self, folder: str | Path, every: int = 1, keep: int = 2, verbose: int = 0):
        super().__init__(verbose)
        require(every >= 1, "Checkpoint", "every", every, "1 at least")
        require(keep >= 1, "Checkpoint", "keep", keep, "1 at least")
        self.folder, self.every, self.keep = Path(folder), every, keep

    def _on_training_start(self) -> None:
        for path in _newest_first(self.folder):
            if path.name > _name(self.num_timesteps) and _is_sound(path):
                raise ValueError(
                    f"{path} is from a run that got further than this one; resume it with load_latest, "
                    "or give this run another folder."
                )

    def _on_rollout_start(self) -> None:
        model: Any = self.model
        if model.iteration % self.every == 0:
            save_checkpoint(model, self.folder / _name(model.num_timesteps))
            for old in _newest_first(self.folder)[self.keep :]:
                old.unlink()

    def _on_step(self) -> bool:
        return True


def save_checkpoint(model: FastRecurrentPPO, path: str | Path) -> None:
    """Write the state of a model that is about to start a rollout."""
    zipped = io.BytesIO()
    model.save(zipped)
    env = model.get_env()
    assert env is not None, "a model without an environment has nothing to resume"
    logged = model.logger.name_to_value.items()
    state = {
        "model": zipped.getvalue(),
        "lstm_states": [[s.cpu().numpy() for s in states] for states in model._last_lstm_states],
        "log": {name: (value, model.logger.name_to_excluded[name]) for name, value in logged},
        "env": [_layer_state(layer) for layer in _layers(env)],
        "configuration": _configuration(env),
        "generators": _generator_states(env),
    }
    try:
        payload = pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ValueError(
            f"get_state of {type(env).__name__} returned what cannot be pickled: {error}."
        ) from error

    path = Path(path)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(MAGIC + hashlib.sha256(payload).digest() + payload)
        file.flush()
        os.fsync(file.fileno())


def newest_step(folder: str | Path) -> int | None:
    """Decisions made before the newest sound checkpoint; None where there is none."""
    for path in _newest_first(Path(folder)):
        if _is_sound(path):
            return int(path.stem.removeprefix("checkpoint_"))
    return None


def drop_after(folder: str | Path, step: int) -> None:
    """Delete the checkpoints of later steps."""
    for path in _newest_first(Path(folder)):
        if path.name > _name(max(step, 0)) or step < 0:
            path.unlink()


def load_latest(
    folder: str | Path, env: VecEnv, algorithm: type[FastRecurrentPPO] = FastRecurrentPPO, **kwargs: Any
) -> FastRecurrentPPO:
    """The model of the newest sound checkpoint in `folder`; `env` and all generators are put back too.

    Parameters
    ----------
    kwargs
        Passed on to `algorithm.load` (device, custom_objects, ...).

    Raises
    ------
    FileNotFoundError
        Where the folder holds no sound checkpoint.
    """
    for path in _newest_first(Path(folder)):
        try:
            payload = _payload(path)
        except ValueError as error:
            warnings.warn(f"{error} The checkpoint before it is used.", stacklevel=2)
            continue
        return _restore(unpickle(payload), env, algorithm, kwargs)
    raise FileNotFoundError(f"{folder} holds no sound checkpoint (*.ckpt); start the run anew.")


def remaining_timesteps(model: FastRecurrentPPO) -> int:
    """What is left of the `total_timesteps` that the interrupted `learn` was asked for."""
    return model._total_timesteps - model.num_timesteps


def resume_logger(folder: str | Path, formats: list[str], model: FastRecurrentPPO) -> Logger:
    """SB3's `configure` for a resumed run: go on in the same files, without what was logged after the
    checkpoint.

    (SB3 itself empties progress.csv, and a TensorBoard series would show the repeated steps twice.)
    """
    table = Path(folder) / "progress.csv"
    rows = []
    if "csv" in formats and table.exists():
        with open(table, newline="") as file:
            rows = [row for row in csv.DictReader(file) if _step(row) <= model.num_timesteps]
    logger = configure(str(folder), formats)
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            output.writer.close()
            output.writer = SummaryWriter(log_dir=str(folder), purge_step=model.num_timesteps + 1)
        elif isinstance(output, CSVOutputFormat):
            for row in rows:
                output.write({name: _number(text) for name, text in row.items() if text != ""}, {})
    return logger


def _number(text: str) -> float | int:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _step(row: dict[str, str]) -> float:
    return float(row.get("time/total_timesteps") or "inf")


# Reading and restoring --------------------------------------------------------------------------------------


def _name(timesteps: int) -> str:
    return f"checkpoint_{timesteps:012d}.ckpt"


def _is_sound(path: Path) -> bool:
    try:
        return bool(_payload(path))
    except ValueError:
        return False


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint_*.ckpt"), reverse=True)


def _payload(path: Path) -> bytes:
    data = path.read_bytes()
    digest, payload = data[len(MAGIC) : len(MAGIC) + DIGEST_BYTES], data[len(MAGIC) + DIGEST_BYTES :]
    if not data.startswith(MAGIC):
        raise ValueError(f"{path} does not start like a checkpoint.")
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError(f"{path} is damaged (its checksum does not fit).")
    return payload


def _restore(
    state: dict[str, Any], env: VecEnv, algorithm: type[FastRecurrentPPO], kwargs: dict[str, Any]
) -> FastRecurrentPPO:
    layers = _layers(env)
    _check_layers(layers, state["env"])
    made, ours = state.get("configuration"), _configuration(env)  # files of 0.1 have none
    if made and ours and (differ := differences(ours, made)):
        raise ConfigError(
            f"env is of another configuration than the checkpoint ({'; '.join(differ[:3])}): resume with the "
            "market and settings of the interrupted run."
        )
    memory = state["lstm_states"]
    fresh = _why_fresh(layers[-1], state["env"][-1], memory[0][0].shape[1])
    if fresh:
        warnings.warn(
            f"{fresh}: the run goes on from fresh episodes, not byte for byte.", UserWarning, stacklevel=3
        )
    model = algorithm.load(io.BytesIO(state["model"]), env=env, force_reset=bool(fresh), **kwargs)
    same_number = memory[0][0].shape[1] == env.num_envs
    model.go_on(memory if same_number else None, state["log"])
    for layer, layer_state in zip(layers[:-1], state["env"][:-1], strict=True):
        _set_wrapper_state(layer, layer_state, same_number)
    if not fresh:
        layers[-1].set_state(state["env"][-1])  # type: ignore[attr-defined]
    _set_generator_states(env, state["generators"])  # last: loading draws from them
    return model


def _configuration(env: VecEnv) -> dict[str, Any] | None:
    """That of our environments, native or one by one in SB3's VecEnvs; None of others."""
    native: dict[str, Any] | None = getattr(env.unwrapped, "configuration", None)
    if native is not None:
        return native
    config = env.get_attr("config", indices=0)[0] if env.has_attr("config") else None
    return config.to_dict() if isinstance(config, EnvConfig) else None


def _check_layers(layers: list[VecEnv], states: list[Any]) -> None:
    """Raise `ConfigError` unless the environment is wrapped as that of the checkpoint was."""
    fits = len(layers) == len(states) and all(
        _restorable(layer) or state is None or state.keys() == set(WRAPPER_FIELDS.get(type(layer), ()))
        for layer, state in zip(layers[:-1], states[:-1], strict=True)
    )
    if not fits:
        names = " of ".join(type(layer).__name__ for layer in layers)
        raise ConfigError(
            f"env = {names} is not wrapped as in the interrupted run, which had {len(states) - 1} wrappers: "
            "wrap it the same way."
        )


def _why_fresh(env: VecEnv, state: Any, number: int) -> str | None:
    """Why episodes that were under way cannot go on in `env`; None where they can."""
    if number != env.num_envs:
        return f"the checkpoint is of {number} environments, here are {env.num_envs}"
    if not _restorable(env):
        return f"{type(env).__name__} has no get_state/set_state"
    return "the checkpoint's environment had no get_state/set_state" if state is None else None


# Environment: from the outermost wrapper to the VecEnv that steps -------------------------------------------

WRAPPER_FIELDS: dict[type, tuple[str, ...]] = {
    VecNormalize: ("obs_rms", "ret_rms", "returns", "old_reward", "old_obs"),
    VecMonitor: ("episode_returns", "episode_lengths", "episode_count"),
}
OF_ALL = ("obs_rms", "ret_rms", "episode_count")
"""Those of them that do not depend on how many environments there are."""


def _layers(env: VecEnv) -> list[VecEnv]:
    layers = [env]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    return layers


def _restorable(layer: VecEnv) -> bool:
    # On the class: a wrapper passes attribute look-ups on to what it wraps.
    return issubclass(type(layer), RestorableVecEnv)


def _layer_state(layer: VecEnv) -> Any:
    if _restorable(layer):
        return layer.get_state()  # type: ignore[attr-defined]
    fields = WRAPPER_FIELDS.get(type(layer))
    return None if fields is None else {name: getattr(layer, name, None) for name in fields}


def _set_wrapper_state(layer: VecEnv, state: Any, same_number: bool) -> None:
    if _restorable(layer):
        layer.set_state(state)  # type: ignore[attr-defined]
    elif state is not None:
        for name, value in state.items():
            if same_number or name in OF_ALL:
                setattr(layer, name, value)


# Generators -------------------------------------------------------------------------------------------------


def _generator_states(env: VecEnv) -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 (the one SB3 seeds)
        "torch": torch.get_rng_state().numpy(),
        "cuda": [s.numpy() for s in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "action_space": env.action_space.np_random.bit_generator.state,
    }


def _set_generator_states(env: VecEnv, states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([torch.from_numpy(s) for s in states["cuda"]])
    env.action_space.np_random.bit_generator.state = states["action_space"]
