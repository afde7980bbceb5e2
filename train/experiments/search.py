"""The search of a sweep: Optuna proposes, trials are jobs, and what clearly loses is pruned.

Trial n knows of trials up to n - `window` and of no others, so the sweep has the same bytes however many run
at a time, and wherever. Pruning is by paired evaluation: a trial stops when, on the same episodes, it is
below the median of the trials it knows of at the same time of training, and a 95% interval of the difference
is as well.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from stable_baselines3.common.callbacks import BaseCallback

from mmenv.progress import progress_bar
from mmenv.run.job import TELL_SECONDS, Done, Job, Tell, Workers
from train.experiments.space import Space
from train.experiments.training import ProgressCallback, Training
from train.options.experiments import Sweep
from train.settings import STUDY_STEPS, env_config, write_settings

FEWEST_RIVALS = 4
"""A trial is not pruned before it knows of this many others."""


class Pruned(BaseException):
    """Ends the training of a trial that will not win; no error, so nothing that catches errors stops it."""


class Pruning(ProgressCallback):
    """Raises `Pruned` where the run in `folder` is clearly below the median of its rivals (folders)."""

    def __init__(self, tell: Tell, folder: Path, rivals: Sequence[Path], every: int, first: int) -> None:
        super().__init__(tell)
        self.folder, self.rivals, self.every, self.first = folder, rivals, every, first
        self._seen = 0

    def _on_rollout_start(self) -> None:
        ours = evaluations(self.folder)
        if not ours or ours[-1][0] == self._seen:
            return
        self._seen, values = ours[-1]
        if self._seen < self.first:
            return
        theirs = [
            found[-1]
            for rival in self.rivals
            if (found := [v for at, v in evaluations(rival) if at // self.every == self._seen // self.every])
        ]
        if len(theirs) >= FEWEST_RIVALS and clearly_below_median(values, theirs):
            raise Pruned


def clearly_below_median(ours: np.ndarray, theirs: Sequence[np.ndarray]) -> bool:
    """Whether the mean of `ours`, (episodes,), is below that of the median rival, with its 95% interval.

    The episodes are the same, so the difference is paired.
    """
    median = sorted(theirs, key=np.mean)[len(theirs) // 2]
    difference = ours - median
    return bool(difference.mean() + 1.96 * difference.std(ddof=1) / np.sqrt(len(difference)) < 0)


def evaluations(folder: Path) -> list[tuple[int, np.ndarray]]:
    """Steps and values, (episodes,), of the evaluations of a run."""
    path = folder / "evaluations.npz"
    if not path.exists():
        return []
    with np.load(path) as file:
        return list(zip(file["timesteps"].tolist(), file["results"], strict=True))


@dataclass(frozen=True)
class Trial(Training):
    """The job of a trial: its run, which may be pruned; True if it was not."""

    rivals: tuple[Path, ...] = ()
    every: int = 1
    first: int = 0

    def __call__(self, tell: Tell) -> bool:  # type: ignore[override]
        pruned = self.folder / "pruned"
        if pruned.exists():
            return False
        try:
            super().__call__(tell)
        except Pruned:
            pruned.touch()
            return False
        return True

    def watch(self, tell: Tell) -> BaseCallback:
        return Pruning(tell, self.folder, self.rivals, self.every, self.first)


class Search:
    """A sweep at work: Optuna's journal holds what was asked and told, folders what came of it."""

    def __init__(self, sweep: Sweep, space: Space) -> None:
        self.sweep, self.space = sweep, space
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sweep.folder.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(sweep.folder / "optuna.log")))
        self.study = optuna.create_study(
            study_name=sweep.folder.name, storage=storage, direction="maximize", load_if_exists=True
        )
        self.results: dict[int, bool | BaseException] = {}
        """Whether a trial was finished (or pruned), or how it failed."""
        self.told = sum(trial.state.is_finished() for trial in self.study.trials)

    def folder(self, number: int) -> Path:
        return self.sweep.folder / f"trial_{number}"

    def parameters(self, number: int) -> dict[str, Any]:
        return self.study.trials[number].params

    def run(self, pool: Workers) -> None:
        """Ask, train and tell until all trials are done."""
        sweep = self.sweep
        total = self.space.base.steps or STUDY_STEPS
        base, based = sweep.folder / "base", False
        if not (base / "config.json").exists():
            write_settings(base, self.space.base, env_config(self.space.base))
        pool.submit(Job("base", Training(base), total))
        asked = len(self.study.trials)
        for number in range(self.told, asked):
            pool.submit(self.job(number))
        with progress_bar(
            total=(sweep.trials + 1) * total, unit=" steps", unit_scale=True, leave=False
        ) as bar:
            while self.told < sweep.trials or not based:
                while asked < sweep.trials and self.advance(asked - sweep.window + 1):
                    # A generator of its own for each trial: a sweep that goes on draws what it would have.
                    seeds = np.random.SeedSequence([sweep.seed, asked]).generate_state(1)
                    self.study.sampler = TPESampler(seed=int(seeds[0]))
                    self.study.ask(self.space.search)
                    pool.submit(self.job(asked))
                    asked += 1
                if asked >= sweep.trials:
                    self.advance(asked)
                for done in pool.collect(TELL_SECONDS):
                    if done.name != "base":
                        self.note(done)
                    elif done.error is not None:
                        raise done.error
                    else:
                        based = True
                ended = (based + self.told + len(self.results)) * total
                bar.update(ended + sum(pool.progress().values()) - bar.n)
                bar.set_description(
                    f"{self.told + len(self.results)} of {sweep.trials} trials", refresh=False
                )

    def job(self, number: int) -> Job:
        """The job of a trial that was asked for."""
        settings = self.space.settings(self.parameters(number))
        folder = self.folder(number)
        if not (folder / "config.json").exists():
            write_settings(folder, settings, env_config(settings))
        known = range(max(number - self.sweep.window + 1, 0)) if self.sweep.prune else ()
        first = int(self.sweep.warm * (settings.steps or STUDY_STEPS))
        rivals = tuple(self.folder(other) for other in known)
        return Job(
            str(number), Trial(folder, rivals, settings.eval_every, first), (settings.steps or STUDY_STEPS)
        )

    def note(self, done: Done) -> None:
        """Keep what came of a trial until it is told."""
        number = int(done.name)
        self.results[number] = done.value if done.error is None else done.error
        if done.error is not None:
            print(f"trial {number} failed: {done.error}", file=sys.stderr)

    def advance(self, count: int) -> bool:
        """Tell Optuna of the first `count` trials, in their order; False while one of them still runs."""
        while self.told < count:
            if self.told not in self.results:
                return False
            number, result = self.told, self.results.pop(self.told)
            if isinstance(result, BaseException):
                self.study.tell(number, state=TrialState.FAIL)
            else:
                self._tell(number, TrialState.COMPLETE if result else TrialState.PRUNED)
            self.told += 1
        return True

    def _tell(self, number: int, state: TrialState) -> None:
        trial = optuna.trial.Trial(self.study, self.study.trials[number]._trial_id)
        history = evaluations(self.folder(number))
        for at, values in history:
            trial.report(float(values.mean()), at)
        best = max(float(values.mean()) for _, values in history)
        self.study.tell(trial, best if state == TrialState.COMPLETE else None, state)

    def finalists(self) -> list[int]:
        """The best trials, best first."""
        complete = [t for t in self.study.trials if t.state == TrialState.COMPLETE]
        ranked = sorted(complete, key=lambda t: (-(t.value or 0.0), t.number))
        return [trial.number for trial in ranked[: self.sweep.finalists]]
