"""Train the recurrent policy on NeuralMM-v0, then judge it: `neuralmm train`.

The learner is `train.learner.recurrent_ppo.FastRecurrentPPO`. A run lives in its own folder under `logs/`:
configuration, TensorBoard events, checkpoints from which `--resume` continues to the same bytes,
`best_model.zip` by paired evaluation, `last_model.zip`, `evaluations.npz`.
"""

from __future__ import annotations

import dataclasses
import sys
import time

import torch
import tyro
from rich.console import Console

from mmenv.checks import ConfigError
from train.evaluate import Evaluate, report
from train.launch import launch
from train.run import measured_steps, train
from train.settings import Settings, defaults, env_config, new_folder, read_settings, write_settings


def main() -> None:
    """Command line: see `train.settings.Settings`."""
    settings = tyro.cli(Settings, default=defaults(sys.argv[1:]))
    console = Console()
    torch.set_num_threads(1)  # the update brings its own
    ray = settings.ray
    if ray is not None and settings.workers == 1 and settings.resume is None:
        raise ConfigError(f"--ray = {ray!r} is not possible with one worker: give --workers too.")
    if settings.resume is not None:
        folder = settings.resume
        settings, config = read_settings(folder)
    else:
        config = env_config(settings)
        folder = new_folder(settings)
        if settings.steps is None:
            console.print(f"Finding out how far {settings.minutes:g} minutes go here ...")
            settings = dataclasses.replace(settings, steps=measured_steps(settings, config))
        write_settings(folder, settings, config)
    console.print(
        f"Training on {settings.market} for {settings.steps:,} steps. Watch: tensorboard --logdir {folder}"
    )
    start = time.monotonic()
    if settings.workers > 1:
        launch(folder, settings.workers, ray)
    else:
        train(settings, config, folder)
    console.print(f"Trained in {time.monotonic() - start:.0f} s.")
    if settings.final_episodes > 0:
        report(Evaluate(model=folder, episodes=settings.final_episodes, store=settings.store), console)
    console.print(f"Model: {folder / 'best_model.zip'}\nPlots: tensorboard --logdir {folder}", soft_wrap=True)
    console.print(f"Again: neuralmm evaluate {folder}", soft_wrap=True)
