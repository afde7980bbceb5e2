"""`neuralmm sweep CONFIG.toml`: search settings and rewards; trials are processes, or tasks of a Ray cluster.

The file has settings of `train.ppo` under `[base]`, and what is searched under `[search]`:

    [search]
    learning_rate = { log-uniform = [3e-4, 1e-2] }
    n_epochs = { choice = [1, 2, 4] }
    "reward.inventory_penalty" = { uniform = [0.0, 0.05] }

Bounds that are whole numbers give whole numbers. A name that is no setting of training is one of the
environment. However the reward, market or horizon of a trial differ in training, every trial is judged under
those of `[base]`, with the same seeds, on the same market paths.

Optuna proposes (tree-structured Parzen estimator, Bergstra et al. 2011), in a journal on disk: a sweep that
was stopped or killed goes on where it was. Trial n knows of trials up to n - `window` and of no others, so
the sweep has the same bytes however many run at a time, and wherever.

Pruning is by paired evaluation: a trial stops when, on the same episodes, it is below the median of the
trials it knows of at the same time of training, and a 95% interval of the difference is as well.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import tyro
from matplotlib.figure import Figure
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from mmenv.config import ConfigError, check_keys
from mmenv.files import replacing
from mmenv.jobs import TELL_SECONDS, Done, Job, Tell, Workers, run, workers
from mmenv.provenance import PLACES, columns, data_of, in_words, keep, provenance
from policies.trained import TrainedPolicy
from train import ppo
from train.baselines import scale
from train.evaluate import load, save_table, wide_console
from train.ppo import Settings, env_config, from_table, judge_config, plain, write_settings
from train.simulate import Outcome, simulate
from train.study import in_a_sentence
from train.training import Telling, Training

PROBLEM = ("market", "reward", "horizon", "maker_fee_bp", "randomise", "curriculum_episodes")
"""Environment settings that pose the problem. Trials may train under others and are judged under the base's;
quote, risk and features belong to the policy."""
FEWEST_RIVALS = 4
"""A trial is not pruned before it knows of so many others."""


@dataclass(frozen=True)
class Sweep:
    """Search settings and rewards: Optuna, pruning by paired evaluation, one process or Ray task a trial."""

    config: tyro.conf.Positional[Path]
    """A TOML file with [base] and [search], see docs/scale.md."""
    trials: int = 40
    window: int = 8
    """Trials in flight; how many of them run at a time (--jobs, --ray) changes no result."""
    prune: bool = True
    warm: float = 0.2
    """Share of the steps before which no trial is pruned."""
    finalists: int = 3
    """The best so many are judged again, on paths that no trial has seen; the best of those wins."""
    episodes: int = 4096
    """Episodes of that last judgement."""
    seed: int = 0
    """Of the search; that of training is in the file."""
    jobs: int | None = None
    """Trials at the same time; by default one for each processor."""
    ray: str | None = None
    """Run on a Ray cluster: its address, "auto" for the one running here, "local" to start one for this."""
    logs: Path = Path("logs/sweeps")

    @cached_property
    def folder(self) -> Path:
        return self.logs / self.config.stem


# Space ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Space:
    """What is searched around which settings."""

    base: Settings
    search: dict[str, BaseDistribution]

    def settings(self, chosen: Mapping[str, Any]) -> Settings:
        """The settings of a trial: the base with what was chosen."""
        own = {name: value for name, value in chosen.items() if name in FIELDS}
        environment = {name: value for name, value in chosen.items() if name not in FIELDS}
        posed = [name for name in environment if name.partition(".")[0] in PROBLEM]
        problem = env_config(self.base).to_dict()
        return dataclasses.replace(
            self.base,
            **own,
            set=(*self.base.set, *(f"{name}={json.dumps(value)}" for name, value in environment.items())),
            judged=(*self.base.judged, *(f"{name}={json.dumps(_at(problem, name))}" for name in posed)),
        )


FIELDS = tuple(field.name for field in dataclasses.fields(Settings))


def _at(content: Any, name: str) -> Any:
    for key in name.split("."):
        if not isinstance(content, dict) or key not in content:
            raise ConfigError(f"[search] {name}: there is no such setting of training or environment.")
        content = content[key]
    return content


def read_space(path: Path) -> Space:
    """The space a TOML file describes; raises `ConfigError` where it is wrong."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    content = tomllib.loads(path.read_text())
    check_keys(path.name, content, ["base", "search"])
    base = dataclasses.replace(from_table(f"{path.name} [base]", content.get("base", {})), final_episodes=0)
    base = dataclasses.replace(base, threads=base.threads or 1)
    search = {name: distribution(name, spec) for name, spec in content.get("search", {}).items()}
    if not search:
        raise ConfigError(f"{path.name}: [search] is empty; name at least one setting to search.")
    for name in search:
        if name not in FIELDS:
            _at(env_config(base).to_dict(), name)
    return Space(base, search)


def distribution(name: str, spec: Any) -> BaseDistribution:
    """`{uniform = [low, high]}`, `{log-uniform = [low, high]}` or `{choice = [...]}`."""
    kind, values = next(iter(spec.items())) if isinstance(spec, dict) and len(spec) == 1 else ("", spec)
    if kind == "choice" and isinstance(values, list) and values:
        return CategoricalDistribution(values)
    numbers = isinstance(values, list) and len(values) == 2 and all(type(v) in (int, float) for v in values)
    if kind not in ("uniform", "log-uniform") or not numbers or not values[0] < values[1]:
        raise ConfigError(
            f"[search] {name} = {spec} is not possible: write {{ uniform = [low, high] }}, "
            "{ log-uniform = [low, high] } or { choice = [...] }."
        )
    log = kind == "log-uniform"
    if log and values[0] <= 0:
        raise ConfigError(f"[search] {name}: a log-uniform range starts above 0, not at {values[0]}.")
    low, high = values
    whole = isinstance(low, int) and isinstance(high, int)
    return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)


# Trials -----------------------------------------------------------------------------------------------------


class Pruned(BaseException):
    """Ends the training of a trial that will not win; no error, so nothing that catches errors stops it."""


class Pruning(Telling):
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


@dataclass(frozen=True)
class Final:
    """The job of judging a finished run on paths that no trial has seen."""

    folder: Path
    episodes: int

    def __call__(self, tell: Tell) -> Outcome:
        torch.set_num_threads(1)
        model, config = load(self.folder)
        return simulate(TrainedPolicy(model.policy), config, self.episodes)


# Search -----------------------------------------------------------------------------------------------------


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
        total = self.space.base.steps
        base, based = sweep.folder / "base", False
        if not (base / "config.json").exists():
            write_settings(base, self.space.base, env_config(self.space.base))
        pool.submit(Job("base", Training(base), total))
        asked = len(self.study.trials)
        for number in range(self.told, asked):
            pool.submit(self.job(number))
        with tqdm(total=(sweep.trials + 1) * total, unit=" steps", unit_scale=True, leave=False) as bar:
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
        first = int(self.sweep.warm * settings.steps)
        rivals = tuple(self.folder(other) for other in known)
        return Job(str(number), Trial(folder, rivals, settings.eval_every, first), settings.steps)

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


# Results ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Winner:
    """The finalists and the base on fresh paths, best first; the base is None."""

    order: list[int | None]
    outcomes: dict[int | None, Outcome]


def judge(search: Search, pool: Workers) -> Winner:
    """Play the finalists and the base on paths that no trial has seen."""
    folders: dict[int | None, Path] = {number: search.folder(number) for number in search.finalists()}
    folders[None] = search.sweep.folder / "base"
    jobs = {str(key): Job(str(key), Final(path, search.sweep.episodes)) for key, path in folders.items()}
    found = {done.name: done.value for done in run(list(jobs.values()), pool)}
    outcomes = {key: found[str(key)] for key in folders}
    order = sorted(outcomes, key=lambda key: -outcomes[key].value().mean)
    return Winner(order, outcomes)


def finals_table(search: Search, winner: Winner) -> Table:
    """A row for each finalist and the base: fresh paths, paired with the base."""
    config = judge_config(search.space.base)
    measure = scale(config)
    table = Table(
        title=f"{search.sweep.folder.name}: {search.sweep.episodes} fresh episodes",
        caption="price units x lots per episode; intervals 95%, bootstrap over episodes",
    )
    headings = ["trial", *search.space.search, "value", *([measure.label] if measure else []), "minus base"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "trial" else "right")
    for key in winner.order:
        outcome = winner.outcomes[key]
        chosen = {} if key is None else search.parameters(key)
        value, more = outcome.value(), outcome.minus(winner.outcomes[None])
        cells = ["base" if key is None else str(key)]
        cells += [_show(chosen.get(name, "")) for name in search.space.search]
        cells.append(f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]")
        if measure:
            cells.append(f"{measure.percent(value.mean):.1f}")
        cells.append("" if key is None else f"{more.mean:.2f} [{more.low:.2f}, {more.high:.2f}]")
        table.add_row(*cells)
    return table


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def trial_rows(search: Search) -> list[dict[str, Any]]:
    """A row for each trial: state, what was chosen, value, and how far it was trained."""
    rows = []
    for trial in search.study.trials:
        history = evaluations(search.folder(trial.number))
        best = max((float(values.mean()) for _, values in history), default=float("nan"))
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                **trial.params,
                "value": best,
                "steps": history[-1][0] if history else 0,
            }
        )
    return rows


def draw(search: Search) -> Figure:
    """Values in order, learning curves, and the value against each searched setting."""
    rows = trial_rows(search)
    names = list(search.space.search)
    count = 2 + len(names)
    across = min(count, 4)
    down = -(-count // across)
    figure = Figure(figsize=(4.2 * across, 3.6 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.set_axis_off()
    state_colours = {"complete": "tab:blue", "pruned": "tab:orange"}
    shown = [row for row in rows if row["state"] in state_colours]
    complete = [row for row in shown if row["state"] == "complete"]
    for state, colour in state_colours.items():
        some = [row for row in shown if row["state"] == state]
        for axis, name in zip(axes, ("trial", None, *names), strict=False):
            if name is not None:
                x = [str(r[name]) if isinstance(r[name], str | bool) else r[name] for r in some]
                axis.plot(x, [row["value"] for row in some], "o", color=colour, label=state, alpha=0.7)
    best = np.fmax.accumulate(np.array([row["value"] for row in complete]))
    axes[0].step([row["trial"] for row in complete], best, where="post", color="grey", label="best so far")
    axes[0].set(xlabel="trial", ylabel="value", title="search")
    axes[0].legend(fontsize=8)
    for row in shown:
        history = evaluations(search.folder(row["trial"]))
        curve = [float(values.mean()) for _, values in history]
        axes[1].plot([at for at, _ in history], curve, color=state_colours[row["state"]], alpha=0.5)
    axes[1].set(xlabel="steps", title="learning curves")
    # Failures at the start are far below; what matters is near the best.
    values = np.array([row["value"] for row in complete])
    for axis, name in zip(axes, (None, None, *names), strict=False):
        if len(values):
            low, high = np.percentile(values, 10), values.max()
            axis.set_ylim(low - 1.5 * (high - low) - 1e-9, high + 0.2 * (high - low) + 1e-9)
        if name is not None:
            axis.set(xlabel=name)
            if getattr(search.space.search[name], "log", False):
                axis.set_xscale("log")
    return figure


def write_best(path: Path, settings: Settings, title: str) -> None:
    """A TOML file of settings that `neuralmm train --config` takes; only what differs from the defaults."""
    known = from_table(path.name, {"market": settings.market})
    skip = (*ppo.APART, "final_episodes", "threads")
    differ = {
        name: value
        for name, value in plain(settings).items()
        if name == "market" or (name not in skip and value != plain(known)[name])
    }
    lines = [f"# {line}" for line in title.splitlines()]
    lines += [f"{name} = {json.dumps(value)}" for name, value in differ.items()]  # JSON of these is TOML too
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the same keys, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_results(search: Search, winner: Winner, origin: dict[str, Any], console: Console) -> None:
    """Table, trials, plots, and the best settings."""
    folder, words = search.sweep.folder, in_words(origin)
    table = finals_table(search, winner)
    console.print(table)
    save_table(folder / "table.txt", table, words)
    write_csv(folder / "trials.csv", [row | columns(origin) for row in trial_rows(search)])
    draw(search).savefig(folder / "sweep.png", dpi=110, metadata={"Description": words})
    best = winner.order[0]
    chosen = {} if best is None else search.parameters(best)
    found = (
        "the base: no finalist was better" if best is None else f"trial {best} of {len(search.study.trials)}"
    )
    title = f"Best settings of sweep {folder.name}: {found}.\n{words}"
    write_best(folder / "best.toml", search.space.settings(chosen), title)
    states = [row["state"] for row in trial_rows(search)]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    console.print(f"{len(states)} trials: {counts}. Plots and trials: {folder}")
    console.print(f"Train the best: neuralmm train --config {folder / 'best.toml'}")


def claim(sweep: Sweep, space: Space) -> dict[str, Any]:
    """Write sweep.json and sweep.toml, or refuse a folder of another sweep; where the results come from."""
    chosen = {k: v for k, v in dataclasses.asdict(sweep).items() if k not in (*PLACES, "config")}
    text = sweep.config.read_text()
    origin = provenance([chosen, text], [sweep.seed, space.base.seed], data=data_of(env_config(space.base)))
    path = sweep.folder / "sweep.json"
    if path.exists():
        there = json.loads(path.read_text())
        asked = {k: v for k, v in chosen.items() if k not in ("trials", "finalists", "episodes")}
        kept = {k: v for k, v in there["options"].items() if k in asked}
        if asked != kept or tomllib.loads((sweep.folder / "sweep.toml").read_text()) != tomllib.loads(text):
            raise ConfigError(f"{sweep.folder} holds a sweep of other settings; remove it, or give --logs.")
    sweep.folder.mkdir(parents=True, exist_ok=True)
    keep(sweep.folder, "sweep", text, chosen, origin)
    return origin


def main() -> None:
    sweep = tyro.cli(Sweep)
    torch.set_num_threads(1)
    space = read_space(sweep.config)
    origin = claim(sweep, space)
    search = Search(sweep, space)
    with in_a_sentence(), workers(sweep.jobs, sweep.ray) as pool:
        search.run(pool)
        winner = judge(search, pool)
    write_results(search, winner, origin, wide_console())


if __name__ == "__main__":
    main()
