"""Several seeds of several configurations, side by side: `neuralmm study options`.

A study is a TOML file: `[base]` holds settings of `neuralmm train` for all runs, each `[variants.NAME]` those
in which a variant differs; `randomise` is a table there, as for `gym.make`. Every run is an ordinary training
run in its own folder. A study that was stopped, or killed, goes on where it was: finished runs are kept,
interrupted ones resume.

It writes for each market `table-MARKET.md`, `results-MARKET.csv` and `curves-MARKET.png`: the interquartile
mean over seeds with its 95% bootstrap interval (Agarwal et al. 2021), a dot for each seed, learning curves
against steps and wall time, and lines for the optimum and the baselines. Differences from the first variant
are paired on the same paths, and so is the distance from what is known of a market `book`
(`train.experiments.pairs`).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mmenv.checks import ConfigError, check_keys
from mmenv.config import EnvConfig
from mmenv.files import replacing
from mmenv.market.book import Book
from mmenv.run.job import Job, Tell, Workers
from mmenv.run.jobs import run as run_jobs
from mmenv.run.jobs import workers
from mmenv.run.provenance import PLACES, columns, in_words, keep, provenance
from mmenv.sheet import Sheet, as_columns, write_markdown
from policies.network.trained import TrainedPolicy
from policies.optimal import solve
from train.baselines import CACHE, KINDS, Best, Scale, scale, solvable
from train.evaluate import load
from train.experiments.pairs import compared, in_ladder
from train.experiments.statistics import difference, interquartile, interquartile_mean
from train.experiments.training import Training
from train.options.experiments import Study
from train.settings import STUDY_STEPS, Settings, env_config, from_table, read_settings, write_settings
from train.simulate import simulate

EARNED = "earned.npy"
"""What a run's best model earned in each of the episodes that it was judged on, float64 (episodes,)."""


@dataclass(frozen=True)
class Run:
    """One seed of one variant."""

    variant: str
    seed: int
    folder: Path

    def steps(self) -> int:
        """Decisions made so far."""
        progress = read_progress(self.folder)
        return 0 if progress.empty else int(progress["steps"].iloc[-1])


def plan(study: Study) -> dict[Run, Settings]:
    """The runs of the study; raises `ConfigError` where the file is wrong."""
    content = tomllib.loads(study.file.read_text())
    check_keys(study.file.name, content, list(study.tables))
    runs = {}
    for variant, changes in content.get("variants", {"default": {}}).items():
        given = {**content.get("base", {}), **changes}
        for seed in range(study.seeds):
            run = Run(variant, seed, study.folder / f"{variant.replace(' ', '-')}_{seed}")
            runs[run] = _settings(study, given, run)
    return runs


def write_plan(study: Study, runs: list[Run]) -> dict[str, Any]:
    """Keep the study's file as KIND.toml and its options as KIND.json; where its results come from."""
    chosen = {name: value for name, value in dataclasses.asdict(study).items() if name not in PLACES}
    origins = [origin_of(run) for run in runs]
    data = sorted({path for origin in origins for path in origin["data"]})
    origin = provenance(
        [chosen, [made["configuration"] for made in origins]], [run.seed for run in runs], data=data
    )
    keep(study.folder, study.kind, study.file.read_text(), chosen, origin)
    return origin


def _settings(study: Study, given: dict[str, Any], run: Run) -> Settings:
    table = dict(given)
    if "randomise" in table:  # easier to read than as an item of `set`
        table["set"] = [*table.get("set", ()), f"randomise={json.dumps(table.pop('randomise'))}"]
    base = from_table(f"{study.file.name} [{run.variant}]", table)
    own: dict[str, Any] = {
        "seed": run.seed,
        "threads": study.threads,
        "final_episodes": 0,
        "logs": run.folder.parent,
    }
    own["steps"] = study.steps or base.steps or STUDY_STEPS
    return dataclasses.replace(base, **own)


def prepare(planned: dict[Run, Settings]) -> list[Run]:
    """Write the configurations of the runs; these in the order in which they are best trained.

    Raises `ConfigError` where a folder holds a run of other settings.
    """
    for run, settings in planned.items():
        _prepare(run, settings)
    return sorted(planned, key=lambda run: run.seed)  # what is finished first can be compared first


def _prepare(run: Run, settings: Settings) -> None:
    config = env_config(settings)
    if not (run.folder / "config.json").exists():
        write_settings(run.folder, settings, config)
        return
    there, made = read_settings(run.folder)
    ours = dataclasses.replace(settings, name=there.name, logs=there.logs)
    if (there, made.to_dict()) != (ours, config.to_dict()):
        raise ConfigError(f"{run.folder} holds a run of other settings; remove it or give another --logs.")


@dataclass(frozen=True)
class Work:
    """The job of a run: train it, then evaluate it."""

    run: Run
    episodes: int

    def __call__(self, tell: Tell) -> None:
        Training(self.run.folder)(tell)
        result(self.run, self.episodes)


def train_all(
    runs: list[Run], work: Callable[[Run], Callable[[Tell], Any]], pool: Workers, console: Console
) -> None:
    """Do the work of each run: train what is not trained yet, and evaluate it."""
    jobs = {
        str(run.folder): Job(str(run.folder), work(run), read_settings(run.folder)[0].steps or STUDY_STEPS)
        for run in runs
    }
    labels = {str(run.folder): f"{run.variant}, seed {run.seed}" for run in runs}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def show(told: dict[str, int]) -> None:
            for name, steps in told.items():
                if name not in tasks:
                    tasks[name] = progress.add_task(labels[name], total=jobs[name].total)
                progress.update(tasks[name], completed=steps, visible=steps < jobs[name].total)

        for done in run_jobs(list(jobs.values()), pool, show):
            console.print(f"{labels[done.name]}: done")


def read_progress(folder: Path) -> pd.DataFrame:
    """Columns `steps` and `seconds` of a run; a resumed run's clock goes on where it was."""
    path = folder / "progress.csv"
    rows = []
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get("time/total_timesteps") and row.get("time/time_elapsed"):
                    rows.append((float(row["time/total_timesteps"]), float(row["time/time_elapsed"])))
    table = pd.DataFrame(rows, columns=["steps", "seconds"])
    part = table["seconds"].diff().fillna(table["seconds"])
    table["seconds"] = part.where(part >= 0, table["seconds"]).cumsum()
    return table


def result(run: Run, episodes: int) -> dict[str, float]:
    """Value of the run's best model on fresh paths, evaluated once and kept in `result.json`.

    Where the optimum is known, it is the optimum's exact value plus the paired difference from it: most of
    the chance in the paths cancels.
    """
    path = run.folder / "result.json"
    if path.exists() and (run.folder / EARNED).exists():
        kept = json.loads(path.read_text())
        if kept["episodes"] == episodes:
            return {name: value for name, value in kept.items() if name != "provenance"}
    model, config = load(run.folder)
    earned, known = simulate(TrainedPolicy(model.policy), config, episodes).controlled, 0.0
    with replacing(run.folder / EARNED) as temporary, temporary.open("wb") as file:
        np.save(file, earned)
    best = Best.of(config, episodes)
    if best is not None:
        earned, known = earned - best.outcome.controlled, best.scale.one
    seconds = float(read_progress(run.folder)["seconds"].iloc[-1])
    found = {
        "value": known + float(earned.mean()),
        "error": float(earned.std() / np.sqrt(episodes)),
        "episodes": episodes,
        "seconds": seconds,
        "steps_per_second": run.steps() / max(seconds, 1.0),  # SB3 counts whole seconds
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**found, "provenance": origin_of(run)}, indent=2))
    return found


def origin_of(run: Run) -> dict[str, Any]:
    """The provenance of a run."""
    origin: dict[str, Any] = json.loads((run.folder / "config.json").read_text())["provenance"]
    return origin


def tabulate(name: str, results: pd.DataFrame, label: str) -> Sheet:
    """A row for each variant, with its difference from the first."""
    seeds = results.groupby("variant")["seed"].nunique().max()
    score = label.replace("% of ", "% of\n")
    table: list[dict[str, str]] = []
    first: np.ndarray | None = None
    for variant, rows in results.groupby("variant", sort=False):
        scores = rows["score"].to_numpy()
        more = None if first is None else difference(scores, first)
        first = scores if first is None else first
        table.append({
            "variant": str(variant),
            "value": f"{interquartile_mean(rows['value'].to_numpy()).mean:.2f}",
            score: interquartile_mean(scores).text(".1f"),  # in its place where the value is the score
            "minus the\nfirst": "" if more is None else more.text("+.1f"),
            "steps/s": f"{rows['steps_per_second'].median():,.0f}",
            "minutes": f"{rows['seconds'].median() / 60:.1f}",
            "each seed": " ".join(f"{value:.1f}" for value in rows["score"]),
        })  # fmt: skip
    title = f"{name}: interquartile mean over {seeds} seeds [95% bootstrap interval]"
    return Sheet(title, as_columns(table), left=frozenset({"each seed"}))


def draw(scales: dict[Run, Scale], results: pd.DataFrame, lines: dict[str, float]) -> Figure:
    """Learning curves against steps and minutes, each run's on its scale; beside them the seeds and their
    interquartile mean, and `lines` on the scale that all have."""
    measure = next(iter(scales.values()))
    figure = Figure(figsize=(15, 5), layout="constrained")
    curves, clock, final = figure.subplots(1, 3, sharey=True, width_ratios=(3, 3, 2))
    shown = [results["score"].to_numpy(float)]
    for number, (variant, rows) in enumerate(results.groupby("variant", sort=False)):
        colour = f"C{number}"
        ours = [run for run in scales if run.variant == variant]
        histories = [_history(run) for run in ours]
        length = min(len(steps) for steps, _, _ in histories)
        steps, minutes = (np.mean([h[i][:length] for h in histories], axis=0) for i in (0, 1))
        scores = np.stack(
            [
                scales[run].percent(values[:length])
                for run, (_, _, values) in zip(ours, histories, strict=True)
            ]
        )
        middle = interquartile(scores, axis=0)
        shown.append(scores[:, min(1, length - 1) :].ravel())
        for axes, x in ((curves, steps / 1e6), (clock, minutes)):
            axes.plot(x, middle, color=colour, label=str(variant))
            if len(histories) > 1:
                axes.fill_between(x, scores.min(axis=0), scores.max(axis=0), color=colour, alpha=0.15, lw=0)
        score = interquartile_mean(rows["score"].to_numpy())
        final.plot(np.full(len(rows), number), rows["score"], "o", color=colour, alpha=0.5)
        if len(rows) > 1:
            error = [[score.mean - score.low], [score.high - score.mean]]
            final.errorbar(number, score.mean, error, fmt="_", color=colour, capsize=6, markersize=18)
    names = [str(variant) for variant in results["variant"].unique()]
    final.set_xticks(range(len(names)), names, rotation=30, ha="right")
    final.set_xlim(-0.6, len(names) - 0.4)
    known = {name: float(measure.percent(value)) for name, value in lines.items()}
    bottom, top = span([*shown, np.array(list(known.values()))])
    curves.set_ylim(bottom, top)
    for axes in (curves, clock, final):
        for value in known.values():
            axes.axhline(value, color="grey", linestyle="--", linewidth=0.8)
    for (name, value), height in zip(
        known.items(), apart(list(known.values()), (top - bottom) / 24), strict=True
    ):
        final.annotate(
            name,
            xy=(1, value),
            xytext=(1.03, height),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            fontsize=8,
            color="grey",
            va="center",
            annotation_clip=False,
        )
    seeds = int(results.groupby("variant")["seed"].nunique().max())
    several = f"interquartile mean of {seeds} seeds, band: all of them" if seeds > 1 else "one seed, no band"
    curves.set(xlabel="million steps", ylabel=measure.label, title=f"Learning curves: {several}")
    clock.set(xlabel="minutes", title="The same against wall time")
    final.set_title("Seeds; interquartile mean, 95%" if seeds > 1 else "The seed")
    curves.legend(loc="lower right", fontsize=8)
    return figure


def span(shown: list[np.ndarray]) -> tuple[float, float]:
    """Limits of an axis that holds every curve from its second evaluation on: the first is of the untrained
    policy, which may be anywhere."""
    values = np.concatenate(shown)
    low, high = float(values.min()), float(values.max())
    room = 0.06 * max(high - low, 1e-9)
    return low - room, high + room


def apart(heights: list[float], least: float) -> list[float]:
    """The same heights, raised where they would be nearer than `least` to the next one below."""
    placed: dict[int, float] = {}
    last = -np.inf
    for k in sorted(range(len(heights)), key=heights.__getitem__):
        last = placed[k] = max(heights[k], last + least)
    return [placed[k] for k in range(len(heights))]


def _history(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, minutes and value, (k,) each, of the evaluations during training."""
    progress = read_progress(run.folder)
    with np.load(run.folder / "evaluations.npz") as file:
        steps, values = file["timesteps"], file["results"].mean(axis=1)
    return steps, np.interp(steps, progress["steps"], progress["seconds"], left=0.0) / 60, values


def report(study: Study, runs: list[Run], origin: dict[str, Any], console: Console) -> None:
    """Evaluate, tabulate and draw; variants of several markets each get a table of their own."""
    configs = {run.folder: read_settings(run.folder)[1] for run in runs}
    for market in dict.fromkeys(config.market.name for config in configs.values()):
        chosen = [run for run in runs if configs[run.folder].market.name == market]
        config = configs[chosen[0].folder]
        scales = {run: scale(configs[run.folder]) or Scale("value", 0.0, 100.0) for run in chosen}
        measure = scales[chosen[0]]
        rows = []
        for run in chosen:
            with console.status(f"evaluating {run.variant}, seed {run.seed}"):
                found = result(run, study.episodes)
            score = scales[run].percent(found["value"])
            row = {"variant": run.variant, "seed": run.seed, "score": score, **found}
            rows.append(row | columns(origin_of(run)))
        results = pd.DataFrame(rows)
        alike = all(other == measure for other in scales.values())
        kinds = KINDS[type(config.market)] if alike and solvable(config) else []
        lines = {kind: solve(config, kind, cache=CACHE).value for kind in kinds}
        folder = chosen[0].folder.parent
        title = f"{folder.name}, {market}"
        sheets = [
            tabulate(title, results, measure.label),
            *paired(title, {run: configs[run.folder] for run in chosen}),
        ]
        for sheet in sheets:
            sheet.print(console, study.wide)
        write_markdown(folder / f"table-{market}.md", *sheets, in_words(origin))
        results.to_csv(folder / f"results-{market}.csv", index=False)
        figure = draw(scales, results, lines)
        figure.savefig(folder / f"curves-{market}.png", dpi=110, metadata={"Description": in_words(origin)})
        kept = f"In {folder}: table-{market}.md, results-{market}.csv, curves-{market}.png"
        console.print(kept, soft_wrap=True, highlight=False)


def paired(title: str, configs: dict[Run, EnvConfig]) -> list[Sheet]:
    """The variants on the same paths, as far as all of their seeds are judged."""
    earned = {
        variant: np.stack([np.load(run.folder / EARNED) for run in configs if run.variant == variant])
        for variant in dict.fromkeys(run.variant for run in configs)
    }
    sheets, config = [compared(title, earned)], next(iter(configs.values()))
    if isinstance(config.market, Book):
        # What is known is of orders of so many lots, with market orders or without.
        alike = {
            run.variant
            for run, own in configs.items()
            if (own.quote.taking, own.risk) == (config.quote.taking, config.risk)
        }
        with suppress(ConfigError):  # larger orders or latency: nothing is known
            sheets.append(in_ladder(title, config, {name: earned[name] for name in earned if name in alike}))
    return sheets


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """End the command with a sentence where a job fails."""
    try:
        yield
    except RuntimeError as error:
        sys.exit(str(error))


def main(study: Study) -> None:
    """Run `neuralmm study`."""
    console = Console()
    torch.set_num_threads(1)
    runs = prepare(plan(study))
    origin = write_plan(study, runs)
    with in_a_sentence(), workers(study.jobs, study.ray) as pool:
        train_all(runs, lambda run: Work(run, study.episodes), pool, console)
    report(study, runs, origin, console)
