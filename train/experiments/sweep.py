"""`neuralmm sweep CONFIG.toml`: search settings and rewards; trials are processes, or tasks of a Ray cluster.

The file has settings of `neuralmm train` under `[base]`, and what is searched under `[search]`
(`train.experiments.space`). However the reward, market or horizon of a trial differ in training, every trial
is judged under those of `[base]`, with the same seeds, on the same market paths.

Optuna proposes (tree-structured Parzen estimator, Bergstra et al. 2011), in a journal on disk: a sweep that
was stopped or killed goes on where it was (`train.experiments.search`).
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console

from mmenv.checks import ConfigError
from mmenv.files import replacing
from mmenv.run.job import Job, Tell, Workers
from mmenv.run.jobs import run, workers
from mmenv.run.provenance import PLACES, columns, in_words, keep, provenance
from mmenv.sheet import Sheet, write_csv, write_markdown
from policies.network.trained import TrainedPolicy
from train.baselines import Best
from train.evaluate import decimals, load
from train.experiments.search import Search, evaluations
from train.experiments.space import Space, read_space
from train.experiments.study import in_a_sentence
from train.options.experiments import Sweep
from train.settings import APART, Settings, env_config, from_table, judge_config, plain
from train.simulate import Outcome, simulate


@dataclass(frozen=True)
class Final:
    """The job of judging a finished run on paths that no trial has seen."""

    folder: Path
    episodes: int

    def __call__(self, tell: Tell) -> Outcome:
        torch.set_num_threads(1)
        model, config = load(self.folder)
        return simulate(TrainedPolicy(model.policy), config, self.episodes)


@dataclass(frozen=True)
class Winner:
    """The finalists and the base on fresh paths, best first; the base is None."""

    order: list[int | None]
    outcomes: dict[int | None, Outcome]
    best: Best | None
    """What cannot be beaten on those paths, where it is known."""


def judge(search: Search, pool: Workers) -> Winner:
    """Play the finalists and the base on paths that no trial has seen."""
    folders: dict[int | None, Path] = {number: search.folder(number) for number in search.finalists()}
    folders[None] = search.sweep.folder / "base"
    jobs = {str(key): Job(str(key), Final(path, search.sweep.episodes)) for key, path in folders.items()}
    found = {done.name: done.value for done in run(list(jobs.values()), pool)}
    outcomes = {key: found[str(key)] for key in folders}
    order = sorted(outcomes, key=lambda key: -outcomes[key].value().mean)
    return Winner(order, outcomes, Best.of(judge_config(search.space.base), search.sweep.episodes))


def finals_sheet(search: Search, winner: Winner) -> Sheet:
    """A row for each finalist and the base: fresh paths, paired with the base."""
    names = list(search.space.search)
    base, best = winner.outcomes[None], winner.best
    form = f".{decimals([outcome.value() for outcome in winner.outcomes.values()])}f"
    less = {key: outcome.minus(base) for key, outcome in winner.outcomes.items() if key is not None}
    fine = f".{decimals([*less.values()])}f"
    rows = []
    for key in winner.order:
        outcome = winner.outcomes[key]
        chosen = {} if key is None else search.parameters(key)
        cells = ["base" if key is None else str(key), outcome.value().text(form)]
        cells += [best.percent(outcome).text(".1f")] if best else []
        cells.append("" if key is None else less[key].text(fine))
        rows.append([*cells, *(_show(chosen.get(name, "")) for name in names)])
    label = [f"{best.scale.label}\n[95% interval]"] if best else []
    headings = ["trial", "value\n[95% interval]", *label, "minus base\n[paired, 95%]", *names]
    title = f"Sweep {search.sweep.folder.name}: {search.sweep.episodes:,} episodes that no trial has seen"
    legend = ["Value: mean reward of an episode, price units x lots. The first row wins."]
    return Sheet.of_rows(title, headings, rows, legend=legend)


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
    skip = (*APART, "final_episodes", "threads")
    differ = {
        name: value
        for name, value in plain(settings).items()
        if name == "market" or (name not in skip and value != plain(known)[name])
    }
    lines = [f"# {line}" for line in title.splitlines()]
    lines += [f"{name} = {json.dumps(value)}" for name, value in differ.items()]  # JSON of these is TOML too
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def write_results(search: Search, winner: Winner, origin: dict[str, Any], console: Console) -> None:
    """Table, trials, plots, and the best settings."""
    folder, words = search.sweep.folder, in_words(origin)
    sheet = finals_sheet(search, winner)
    sheet.print(console, search.sweep.wide)
    write_markdown(folder / "table.md", sheet, words)
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
    for line in (
        f"{len(states)} trials: {counts}. In {folder}: table.md, trials.csv, sweep.png",
        f"Train the best: neuralmm train --config {shlex.quote(str(folder / 'best.toml'))}",
    ):
        console.print(line, soft_wrap=True, highlight=False)


def claim(sweep: Sweep, space: Space) -> dict[str, Any]:
    """Write sweep.json and sweep.toml, or refuse a folder of another sweep; where the results come from."""
    chosen = {k: v for k, v in dataclasses.asdict(sweep).items() if k not in (*PLACES, "config")}
    text = sweep.config.read_text()
    origin = provenance(
        [chosen, text], [sweep.seed, space.base.seed], data=env_config(space.base).market.data
    )
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


def main(sweep: Sweep) -> None:
    """Run `neuralmm sweep`."""
    torch.set_num_threads(1)
    space = read_space(sweep.config)
    origin = claim(sweep, space)
    search = Search(sweep, space)
    with in_a_sentence(), workers(sweep.jobs, sweep.ray) as pool:
        search.run(pool)
        winner = judge(search, pool)
    write_results(search, winner, origin, Console())
