"""The job of training one run, for `mmenv.run.jobs`: studies, sweeps and populations are made of these."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from stable_baselines3.common.callbacks import BaseCallback

from mmenv.files import alone
from mmenv.run.job import Tell
from train.run import train
from train.settings import read_settings


@dataclass(frozen=True)
class Training:
    """Train the run in `folder` (its config.json), or resume it, or see that it is done.

    What it prints goes to `output.txt` there. A job whose worker died continues from its last checkpoint, to
    the same bytes.
    """

    folder: Path

    def __call__(self, tell: Tell) -> None:
        if (self.folder / "last_model.zip").exists():
            return
        settings, config = read_settings(self.folder)
        torch.set_num_threads(1)
        with (
            alone(self.folder),
            (self.folder / "output.txt").open("a") as output,
            contextlib.redirect_stdout(output),
        ):
            try:
                train(settings, config, self.folder, self.watch(tell))
            except Exception as error:
                traceback.print_exc(file=output)
                raise RuntimeError(
                    f"{self.folder} ended with {error!r}; its last words are in output.txt. The same command "
                    "resumes it."
                ) from error

    def watch(self, tell: Tell) -> BaseCallback:
        """What is shown the training."""
        return ProgressCallback(tell)


class ProgressCallback(BaseCallback):
    """Tells how far the training is."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self.tell = tell

    def _on_step(self) -> bool:
        self.tell(self.model.num_timesteps)
        return True
