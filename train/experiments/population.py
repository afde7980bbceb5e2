"""`neuralmm population CONFIG`: policies trained on families of markets, the best kept by held-out members.

The file is that of a study (`train.experiments.study`): `[base]` and `[variants.NAME]` with settings, in
`randomise` the ranges of the family that a variant is trained on, if it is. And there is

    [members]
    criterion = "worst"                            # or "mean"
    selection = [{ volatility = 0.6 }, { fill_decay = 0.7, arrival_rate = 0.8 }]
    final = [{ volatility = 0.7, fill_decay = 1.3 }]

Members are markets that nothing is trained on (`train.experiments.members`). Every policy plays those of
`selection`, and the one with the best criterion is kept: its worst, or mean, percent of a member's exact
optimum (where none is known, its value). What is reported of it comes from `final`: other members, on other
paths. A difference to the optimum is taken on the same paths, so most of the chance in them cancels.

It writes `table.md`, `members.csv`, `members.png`, and `best/`, a run that `neuralmm evaluate` takes.
"""

from __future__ import annotations

import shlex
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.console import Console

from mmenv.checks import ConfigError, check_keys, differences
from mmenv.config import EnvConfig
from mmenv.desk.family import Family, base_values, member
from mmenv.files import replacing
from mmenv.run.job import Job, Tell
from mmenv.run.jobs import run as run_jobs
from mmenv.run.jobs import workers
from mmenv.run.provenance import columns, in_words
from mmenv.sheet import Sheet, write_markdown
from policies.network.trained import TrainedPolicy
from train.baselines import Best
from train.evaluate import load
from train.experiments.members import able, best_of, play
from train.experiments.statistics import interquartile_mean
from train.experiments.study import (
    Run,
    in_a_sentence,
    origin_of,
    plan,
    prepare,
    train_all,
    write_plan,
)
from train.experiments.training import Training
from train.options.experiments import Population
from train.settings import Settings, env_config, judge_config
from train.simulate import EVALUATION_SEED, Interval, interval

Array = np.ndarray

SELECTION_SEED = 1_250_000_000
"""Seed of the paths on which the best policy is selected; the report's begin at `EVALUATION_SEED`."""

CRITERIA: dict[str, Callable[[Array], Any]] = {"worst": np.min, "mean": np.mean}
"""What is made of the scores of a policy on several members."""


# Members ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """Markets that policies are judged by, and the paths there."""

    role: str
    """selection or final."""
    members: tuple[Mapping[str, float], ...]
    episodes: int
    seed: int

    def names(self) -> list[str]:
        return [", ".join(f"{name} {value:g}" for name, value in values.items()) for values in self.members]

    def identity(self) -> str:
        """What values on this panel depend on, besides the policy."""
        return f"{[dict(values) for values in self.members]} {self.episodes} {self.seed}"


def read_panels(population: Population, planned: Mapping[Run, Settings]) -> tuple[str, Panel, Panel]:
    """Criterion, selection and final members; raises `ConfigError` where one cannot be or is not held out."""
    where = f"{population.file.name} [members]"
    content = tomllib.loads(population.file.read_text()).get("members", {})
    check_keys(where, content, ["criterion", "selection", "final"])
    criterion = content.get("criterion", "worst")
    if criterion not in CRITERIA:
        raise ConfigError(f"{where} criterion = {criterion!r} is not possible: {' or '.join(CRITERIA)}.")
    panels = []
    for role, seed in (("selection", SELECTION_SEED), ("final", EVALUATION_SEED)):
        given = content.get(role, [])
        if not isinstance(given, list) or not given or not all(isinstance(each, dict) for each in given):
            raise ConfigError(f"{where} {role} = {given!r}: name one member at least, [{{ name = value }}].")
        panels.append(Panel(role, tuple(given), population.episodes, seed))
    selection, final = panels
    variants = {run.variant: settings for run, settings in planned.items()}
    _check_problem(variants)
    for variant, settings in variants.items():
        _check_members(where, variant, settings, (*selection.members, *final.members))
    return criterion, selection, final


def _check_problem(variants: Mapping[str, Settings]) -> None:
    """Raise `ConfigError` where policies would be judged under different problems."""
    first, *others = ((variant, problem(judge_config(settings))) for variant, settings in variants.items())
    for variant, posed in others:
        if differ := differences(posed, first[1]):
            raise ConfigError(
                f"{variant!r} cannot be compared with {first[0]!r}: {'; '.join(differ)}. Where only training "
                "differs, say in `judged` what policies are judged under."
            )


def _check_members(
    where: str, variant: str, settings: Settings, members: Sequence[Mapping[str, float]]
) -> None:
    """Raise `ConfigError` where a member cannot be, is named twice, or is what the variant is trained on."""
    config, seen = env_config(settings), []
    if config.randomise:
        Family(config)
    for values in members:
        member(able(judge_config(settings), [values]), values)
        whole = base_values(config.market, config.maker_fee_bp) | dict(values)
        if _is_trained_on(config, whole):
            raise ConfigError(f"{where}: {variant!r} is trained on {dict(values)}; name another.")
        if whole in seen:
            raise ConfigError(f"{where}: {dict(values)} is there twice; what selects cannot judge as well.")
        seen.append(whole)


def problem(config: EnvConfig) -> dict[str, Any]:
    """What a policy has to do under `config`, families and what it observes left out."""
    names = ("market", "reward", "risk", "horizon", "maker_fee_bp")
    return {name: value for name, value in config.to_dict().items() if name in names}


def _is_trained_on(config: EnvConfig, values: Mapping[str, float]) -> bool:
    """Whether training under `config` meets the market of `values` (all parameters) other than by chance."""
    own = base_values(config.market, config.maker_fee_bp)
    family = {drawn.name: drawn for drawn in config.randomise}
    return all(
        value in family[name].values and family[name].kind == "choice"
        if name in family
        else value == own[name]
        for name, value in values.items()
    )


# Judging ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """The job of a run: train it, then play the members of a panel."""

    folder: Path
    panel: Panel

    def __call__(self, tell: Tell) -> Array:
        Training(self.folder)(tell)
        return values(self.folder, self.panel)


def values(folder: Path, panel: Panel) -> Array:
    """Value of the run's best model in each episode of each member, (members, episodes); kept in ROLE.npz."""
    path = folder / f"{panel.role}.npz"
    if path.exists():
        with np.load(path) as file:
            if str(file["panel"]) == panel.identity():
                return np.asarray(file["values"])
    torch.set_num_threads(1)
    model, config = load(folder)
    outcomes = play(TrainedPolicy(model.policy), config, panel.members, panel.episodes, seed=panel.seed)
    found = np.stack([outcome.controlled for outcome in outcomes])
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, values=found, panel=panel.identity())
    return found


@dataclass(frozen=True)
class Measure:
    """Turns values on the members of a panel into scores: percent of each optimum, where they are known."""

    label: str
    best: tuple[Best, ...] | None
    """What cannot be beaten on each member."""

    @classmethod
    def of(cls, config: EnvConfig, panel: Panel) -> Measure:
        found = []
        for each in panel.members:
            best = best_of(config, each, panel.episodes, panel.seed)
            if best is None:
                return cls("value", None)
            found.append(best)
        return cls(found[0].scale.label, tuple(found))

    def scores(self, values: Array) -> Array:
        """The scores of values, (members, episodes); their mean over episodes is what counts.

        Values are taken as the optimum's exact value plus the paired difference from it.
        """
        if self.best is None:
            return values
        pairs = zip(values, self.best, strict=True)
        return np.stack([b.scale.percent(b.scale.one + row - b.outcome.controlled) for row, b in pairs])


@dataclass(frozen=True)
class Judged:
    """What the policies are worth on a panel."""

    panel: Panel
    label: str
    """What a score is."""
    values: Mapping[Run, Array]
    """(members, episodes) each, price units x lots."""
    scores: Mapping[Run, Array]

    @classmethod
    def of(cls, panel: Panel, config: EnvConfig, values: Mapping[Run, Array]) -> Judged:
        measure = Measure.of(config, panel)
        return cls(panel, measure.label, values, {run: measure.scores(v) for run, v in values.items()})

    def overall(self, run: Run, criterion: str) -> float:
        """The criterion of a policy's scores."""
        return float(CRITERIA[criterion](self.scores[run].mean(axis=1)))

    def interval(self, run: Run, criterion: str) -> Interval:
        """The same with its interval; that of the worst is the interval of the worst member."""
        scores = self.scores[run]
        return interval(scores[scores.mean(axis=1).argmin()] if criterion == "worst" else scores.mean(axis=0))


def best_run(judged: Judged, criterion: str) -> Run:
    """The run with the best criterion, the first of equal ones."""
    return max(judged.scores, key=lambda run: judged.overall(run, criterion))


@dataclass(frozen=True)
class Result:
    """Everything that a report says."""

    criterion: str
    selection: Judged
    final: Judged
    kept: Run

    @property
    def variants(self) -> dict[str, list[Run]]:
        runs = list(self.final.scores)
        names = dict.fromkeys(run.variant for run in runs)
        return {name: [run for run in runs if run.variant == name] for name in names}


def judge(population: Population, console: Console) -> tuple[Result, dict[str, Any]]:
    """Train, select, and judge what was selected; where the results come from."""
    planned = plan(population)
    criterion, selection, final = read_panels(population, planned)
    runs = prepare(planned)
    origin = write_plan(population, runs)
    config = judge_config(planned[runs[0]])
    with workers(population.jobs, population.ray) as pool:
        train_all(runs, lambda run: Work(run.folder, selection), pool, console)
        with console.status("selecting"):
            chosen = Judged.of(selection, config, {run: values(run.folder, selection) for run in runs})
            kept = best_run(chosen, criterion)
        # Only now does anything play the final members.
        with console.status("playing the final members"):
            jobs = [Job(str(run.folder), Work(run.folder, final)) for run in runs]
            played = {done.name: done.value for done in run_jobs(jobs, pool)}
            last = Judged.of(final, config, {run: played[str(run.folder)] for run in runs})
    return Result(criterion, chosen, last, kept), origin


# Report -----------------------------------------------------------------------------------------------------


def _cell(found: Interval) -> str:
    """A single seed has no interval."""
    return f"{found.mean:.2f}" if found.low == found.high else found.text(".2f")


def selection_sheet(result: Result, title: str) -> Sheet:
    """A row for each policy: by what it is ranked, and what it is worth elsewhere."""
    order = sorted(result.final.scores, key=lambda run: -result.selection.overall(run, result.criterion))
    columns = {"policy": [f"{run.variant}, seed {run.seed}" for run in order]}
    for judged in (result.selection, result.final):
        heading = f"{result.criterion} of {len(judged.panel.members)}\n{judged.panel.role} members"
        columns[heading] = [_cell(judged.interval(run, result.criterion)) for run in order]
    legend = ["The first policy is kept. 95% intervals, bootstrap over episodes.", *_scales(result)]
    return Sheet(title, columns, legend)


def _scales(result: Result) -> list[str]:
    """What a score is."""
    if result.final.label == "value":
        return ["A score is the mean reward of an episode, price units x lots."]
    return [f"A score is {result.final.label}, of each member its own."]


def final_sheet(result: Result) -> Sheet:
    """A row for each final member, and for their worst and mean: the kept policy, each variant's seeds."""
    final, kept = result.final, result.kept
    rows: list[list[str]] = []

    def add(name: str, of_kept: Interval, each: Mapping[Run, float]) -> None:
        seeds = [np.array([each[run] for run in runs]) for runs in result.variants.values()]
        rows.append([name, *map(_cell, (of_kept, *map(interquartile_mean, seeds)))])

    for row, name in enumerate(final.panel.names()):
        means = {run: float(scores[row].mean()) for run, scores in final.scores.items()}
        add(name.replace(", ", ",\n"), interval(final.scores[kept][row]), means)
    for criterion in CRITERIA:
        of_all = {run: final.overall(run, criterion) for run in final.scores}
        add(f"{criterion} of them", final.interval(kept, criterion), of_all)
    headings = ["member", f"kept: {kept.variant},\nseed {kept.seed}"]
    headings += [f"{variant},\nall seeds" for variant in result.variants]
    legend = [
        "Kept: 95% intervals over episodes.",
        "Variants: interquartile mean over seeds, 95% bootstrap intervals over seeds.",
    ]
    return Sheet.of_rows(
        f"Held-out members, trained on by no policy: {final.label}", headings, rows, legend=legend
    )


def rows(result: Result) -> list[dict[str, Any]]:
    """A row for each policy and member."""
    return [
        {
            "variant": run.variant,
            "seed": run.seed,
            "kept": run == result.kept,
            "role": judged.panel.role,
            "member": name,
            "value": value.mean(),
            **interval(score)._asdict(),  # of the score
            **columns(origin_of(run)),
        }
        for judged in (result.selection, result.final)
        for run in judged.scores
        for name, value, score in zip(
            judged.panel.names(), judged.values[run], judged.scores[run], strict=True
        )
    ]


def draw(result: Result) -> Figure:
    """Scores on the final members, a dot for each seed; beside them, final against selection."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    both, criterion, kept = (result.selection, result.final), result.criterion, result.kept
    names = [name.replace(", ", "\n") for name in result.final.panel.names()]
    for number, (variant, runs) in enumerate(result.variants.items()):
        scores = np.stack([result.final.scores[run].mean(axis=1) for run in runs], axis=1)
        place = np.arange(len(names)) + 0.12 * (number - (len(result.variants) - 1) / 2)
        dots: dict[str, Any] = {"color": f"C{number}", "alpha": 0.6}
        left.plot(place, scores, "o", label=[variant] + [None] * (len(runs) - 1), **dots)
        places = [[judged.overall(run, criterion) for run in runs] for judged in both]
        right.plot(*places, "o", label=variant, **dots)
    left.plot(result.final.scores[kept].mean(axis=1), "_k", markersize=24, label="kept")
    right.plot(*([judged.overall(kept, criterion)] for judged in both), "_k", markersize=24, label="kept")
    left.set_xticks(range(len(names)), names)
    left.set(ylabel=result.final.label, title="held-out members")
    selected, final = (f"{criterion} of the {judged.panel.role} members" for judged in both)
    right.set(xlabel=selected, ylabel=final, title="what was selected by, and what came of it")
    for axes in (left, right):
        axes.legend(fontsize=8)
    return figure


def keep_best(run: Run, best: Path) -> None:
    """Copy what commands need of a run to the folder `best`; TensorBoard would show its events twice."""
    temporary = best.with_name(f".{best.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(
        run.folder, temporary, ignore=shutil.ignore_patterns("checkpoints", "events.*", "output.txt")
    )
    shutil.rmtree(best, ignore_errors=True)
    temporary.rename(best)


def report(population: Population, result: Result, origin: dict[str, Any], console: Console) -> None:
    """Tables, plot, and the kept policy."""
    folder, words = population.folder, in_words(origin)
    title = f"{folder.name}: {result.selection.label}"
    sheets = selection_sheet(result, title), final_sheet(result)
    for sheet in sheets:
        sheet.print(console, population.wide)
    write_markdown(folder / "table.md", *sheets, words)
    pd.DataFrame(rows(result)).to_csv(folder / "members.csv", index=False)
    draw(result).savefig(folder / "members.png", dpi=110, metadata={"Description": words})
    keep_best(result.kept, folder / "best")
    console.print(f"Kept: {result.kept.variant}, seed {result.kept.seed}.", highlight=False)
    for line in (
        f"In {folder}: table.md, members.csv, members.png",
        f"The kept policy beside baselines: neuralmm evaluate {shlex.quote(str(folder / 'best'))}",
    ):
        console.print(line, soft_wrap=True, highlight=False)


def main(population: Population) -> None:
    """Run `neuralmm population`."""
    console = Console()
    torch.set_num_threads(1)
    with in_a_sentence():
        result, origin = judge(population, console)
    report(population, result, origin, console)
