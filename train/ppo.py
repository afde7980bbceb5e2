"""Train the recurrent policy on NeuralMM-v0, then judge it: `neuralmm train`.

The learner is `train.learner.recurrent_ppo.FastRecurrentPPO`. A run lives in its own folder under `logs/`:
configuration, TensorBoard events, checkpoints from which `--resume` continues to the same bytes,
`best_model.zip` by paired evaluation, `last_model.zip`, `evaluations.npz`.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.files import alone
from mmenv.progress import ticking
from train.options.evaluate import Evaluate
from train.settings import (
    LAST_MODEL,
    Settings,
    env_config,
    judge_config,
    new_folder,
    read_settings,
    refuse_changes,
    require_shares,
    write_settings,
)
from train.short import shorten
from train.warm import compile_ahead


def main(settings: Settings) -> None:
    """Run `neuralmm train`."""
    ray = settings.ray
    if settings.resume is not None:
        folder, asked = settings.resume, settings
        settings, config = read_settings(folder)
        refuse_changes(asked, settings)
        if (folder / LAST_MODEL).exists():
            print(f"{folder} is finished: {settings.steps:,} steps. Nothing was changed.")
            print(f"Its table again: neuralmm evaluate {shlex.quote(str(folder))}")
            return
        print(f"{folder} goes on to {settings.steps:,} steps, as many as when it began.", flush=True)
    else:
        if ray is not None and settings.workers == 1:
            raise ConfigError(f"--ray = {ray!r} is not possible with one worker: give --workers too.")
        require_shares(settings, settings.workers)
        config = env_config(settings)
        folder = new_folder(settings)
        print(f"Training on {settings.market}.", flush=True)
        if settings.store is not None and settings.final_episodes > 0:
            with ticking("Loading torch"):
                from train.evaluate import on_tapes

            on_tapes(judge_config(settings), table_of(settings, folder))  # what the end would refuse
        if settings.device not in ("auto", "cpu"):
            check_device(settings.device)
        compile_ahead(settings, config)
        settings = with_steps(settings, config)
        write_settings(folder, settings, config)
    word = shlex.quote(str(folder))
    print(f"{settings.steps:,} steps. Watch: tensorboard --logdir {word}", flush=True)
    start = time.monotonic()
    with (
        interrupted(f"Nothing is lost but the last minutes; to go on: neuralmm train --resume {word}"),
        alone(folder),
    ):
        work(settings, config, folder, ray)
    print(f"Trained in {time.monotonic() - start:.0f} s, preparation included.")
    with interrupted(f"It is trained; the table: neuralmm evaluate {word}"):
        if settings.final_episodes > 0:
            tell(settings, folder)
    print(f"Model: {folder / 'best_model.zip'}\nPlots: tensorboard --logdir {word}")
    print(f"Again: neuralmm evaluate {word}")


def check_device(name: str) -> None:
    """Raise `ConfigError` for a device that is not here, in whose place the learner would take the CPU."""
    with ticking("Loading torch"):
        import torch
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"--device = {name!r} is not possible here: {why}.") from None


def with_steps(settings: Settings, config: EnvConfig) -> Settings:
    """The settings with `steps`, which a speed measured here makes of `minutes` where they are not given."""
    if settings.steps is not None:
        return settings
    # Here and below, for torch takes seconds to import.
    with ticking("Loading torch"):
        from train.run import measured_steps

    print(f"Finding out how far {settings.minutes:g} minutes go here ...", flush=True)
    return dataclasses.replace(settings, steps=measured_steps(settings, config))


def work(settings: Settings, config: EnvConfig, folder: Path, ray: str | None) -> None:
    """Train, here or by several workers."""
    with ticking("Loading torch"):
        import torch

        from train.launch import launch
        from train.run import train

    print("Preparing environments and learner; what is not in the cache is compiled first ...", flush=True)
    torch.set_num_threads(1)  # the update brings its own
    if settings.final_episodes > 0:
        look_ahead(settings)
    if settings.workers > 1:
        launch(folder, settings.workers, ray)
    else:
        train(settings, config, folder)


def look_ahead(settings: Settings) -> None:
    """Compute what the table at the end asks for anyway, so that it is known while the policy is trained."""
    from train.callbacks import SEED
    from train.ladder import PATHS, compute_ahead
    from train.simulate import EVALUATION_SEED

    paths = min(PATHS, settings.final_episodes)
    compute_ahead(judge_config(settings), {EVALUATION_SEED: paths, SEED: settings.eval_episodes})


def table_of(settings: Settings, folder: Path) -> Evaluate:
    """What the final table shows."""
    return Evaluate(model=folder, episodes=settings.final_episodes, store=settings.store)


def tell(settings: Settings, folder: Path) -> None:
    """Print the final table, and show it in TensorBoard too."""
    from mmenv.sheet import as_markdown
    from train.callbacks import log_final
    from train.evaluate import report

    found = report(shorten(table_of(settings, folder)), Console())
    assert found.judged is not None
    log_final(folder, as_markdown(*found.parts), found.judged.value(), found.percent, found.frontier)


@contextmanager
def interrupted(sentence: str) -> Iterator[None]:
    """Where Ctrl-C ends the block, have it said how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(sentence) from None
