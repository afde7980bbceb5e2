"""`neuralmm score`: what a policy is worth on a task, as an entry that cannot be edited unnoticed.

Every score of a task is over the same episodes, and freed of their luck by what a policy whose value is known
earns on the same paths. The scale is the task's: from what needs no skill to an
exact optimum, or, where none is known, from the best rule to a bound that no policy can pass.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tqdm import tqdm

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.files import replacing
from mmenv.market.book import Book
from mmenv.run.provenance import code, libraries
from mmenv.sheet import Sheet, write_markdown
from mmenv.tasks import Task, find_task
from policies.base import Policy
from policies.book.ladder import BEST_RULE, PROGRAMME, TOLD_NAME, ladder
from policies.make import make_policy
from train.baselines import make_baselines
from train.options.zoo import Leaderboard, Score
from train.simulate import Interval, interval, simulate
from train.sources import is_model, make_source, model_config

VERSION = 1
"""Of the format of entries."""
BASELINES = "baselines"


@dataclass(frozen=True)
class Candidate:
    """A policy that is to be scored, and how it acts and observes."""

    name: str
    identity: str
    """Hash of its file, or its name and parameters."""
    policy: Policy
    config: EnvConfig


def candidates(text: str, task: Task) -> list[Candidate]:
    """The policies that a word of the command line names.

    Raises `ConfigError` for a model or bundle that was made for another task.
    """
    config = task.config()
    if text == BASELINES:
        return _baselines(task, config)
    made = model_config(text)  # what a model or bundle was made under
    if made is not None:
        task.check(made, text)
        config = made
    name = Path(text).stem if is_model(text) else text
    source = make_source(text, name, config)[0]
    played: Any = source.make(config)
    return [Candidate(name, source.key, getattr(played, "policy", played), config)]


def _baselines(task: Task, config: EnvConfig) -> list[Candidate]:
    """All that play a task without being trained: exact or best solutions, rules tuned with the same care."""
    with tqdm(bar_format="{desc}", leave=False, disable=None) as bar:

        def note(name: str) -> None:
            bar.set_description_str(f"preparing {name}")

        made = make_baselines(config, note, left_out=lambda why: bar.write(why))
        if isinstance(config.market, Book):
            for name in dict.fromkeys(("touch", BEST_RULE, task.scale.bottom, PROGRAMME)):
                note(name)
                made.append(make_policy(name, config, **(task.rule if name == task.scale.bottom else {})))
    return [Candidate(one.name, one.name, one, config) for one in made]


@dataclass(frozen=True)
class Result:
    """What a policy scored."""

    value: Interval
    percent: Interval


def score(candidate: Candidate, task: Task, episodes: int | None = None) -> Result:
    """Play the episodes of the task, or its first `episodes`."""
    count = task.episodes if episodes is None else min(episodes, task.episodes)
    with tqdm(total=count, desc=candidate.name, unit=" episodes", leave=False, disable=None) as bar:
        outcome = simulate(candidate.policy, candidate.config, count, seed=task.seed, progress=bar.update)
    return _result(task, outcome.controlled)


def told(task: Task) -> Result | None:
    """What the policy of `policies.book.ladder` scores that is told the hidden state; None on other markets.

    It plays in the recorded paths of the task, not in the environment: nobody can play it.
    """
    config = task.config()
    if not isinstance(config.market, Book):
        return None
    with tqdm(bar_format="{desc}", leave=False, disable=None) as bar:
        rows = ladder(config, task.episodes, task.seed, bound_paths=0, note=bar.set_description_str)
    return _result(task, next(row.value for row in rows if row.name == TOLD_NAME))


def _result(task: Task, earned: np.ndarray) -> Result:
    """The score of what was earned in the first episodes of the task, (episodes,)."""
    scale = task.scale
    values = controlled(earned, task.reference[: len(earned)], scale.anchor)
    return Result(interval(values), interval(100 * (values - scale.zero) / (scale.one - scale.zero)))


def controlled(values: np.ndarray, reference: np.ndarray, mean: float) -> np.ndarray:
    """What was earned in each episode, freed of what luck `reference` shows, whose true mean is known.

    The share of its luck that is taken off is that of least squares: all where both do the same, none where
    they have nothing in common. So a policy that does what the reference does scores its true mean, exactly.
    Arrays (episodes,).
    """
    luck = reference - mean
    spread = luck - luck.mean()
    share = ((values - values.mean()) * spread).sum() / max((spread * spread).sum(), 1e-12)
    return values - share * luck


# Entries ----------------------------------------------------------------------------------------------------


def entry(name: str, identity: str, task: Task, result: Result) -> dict[str, Any]:
    """What a score says of itself, as JSON types, with the hash of all of it."""
    content: dict[str, Any] = {
        "version": VERSION,
        "task": task.name,
        "task_digest": task.digest,
        "policy": name,
        "identity": identity,
        "episodes": task.episodes,
        "seed": task.seed,
        "value": [round(x, 5) for x in result.value],
        "label": task.scale.label,
        "percent": [round(x, 3) for x in result.percent],
        "same_paths": task.same_paths(),
        "code": code(),
        "libraries": libraries(),
        "machine": platform.machine(),
    }
    return {**content, "sha256": _hash(content)}


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_entry(folder: Path, content: dict[str, Any]) -> Path:
    """Write an entry, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['task']}_{content['policy'].replace('/', '-').replace(':', '-')}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def read_entry(path: Path) -> dict[str, Any]:
    """An entry, checked.

    Raises `ConfigError` where it was edited, is of another format, or of a task that is not known here.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        given, version, name = content.pop("sha256"), content["version"], content["task"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} is no entry of a score; `neuralmm score --out` writes one.") from error
    if given != _hash(content):
        raise ConfigError(f"{path} was edited: its hash does not fit; score the policy again.")
    if version > VERSION:
        raise ConfigError(f"{path} was written by a newer version; update neuralmm.")
    if find_task(name).digest != content["task_digest"]:
        raise ConfigError(f"{path} is of another task of the name {name!r}; score the policy again.")
    return content


# Commands ---------------------------------------------------------------------------------------------------


def result_sheet(task: Task, rows: Sequence[tuple[str, Result]], episodes: int | None = None) -> Sheet:
    """A row for each policy, the best first; `episodes` were played of the task's, by default all."""
    ordered = sorted(rows, key=lambda row: -row[1].percent.mean)
    columns = {
        "policy": [name for name, _ in ordered],
        "value\n[95% interval]": [result.value.text(".2f") for _, result in ordered],
        task.scale.label: [result.percent.text(".1f") for _, result in ordered],
    }
    return Sheet(f"NeuralMM/{task.name}: {task.about}", columns, [describe(task, episodes)])


def describe(task: Task, episodes: int | None) -> str:
    """What 0% and 100% of a task are, and how many of its episodes were played."""
    scale = task.scale
    loose = f" ± {scale.one_half_width:.2f}" if scale.one_half_width else ""
    return (
        f"0%: {scale.bottom}, {scale.zero:.3f}. 100%: {scale.top}, {scale.one:.3f}{loose}. "
        f"{episodes or task.episodes:,} episodes, seeds from {task.seed:,}; price units x lots an episode."
    )


def main(options: Score) -> None:
    """Run `neuralmm score`."""
    task = find_task(options.task)
    if not options.policies:
        raise ConfigError("score needs a policy: a model, a bundle, a registered name, or `baselines`.")
    chosen = [found for text in options.policies for found in candidates(text, task)]
    score_all(chosen, task, options.out, Console())


def score_all(
    chosen: Sequence[Candidate], task: Task, out: Path | None, console: Console, with_told: bool = False
) -> None:
    """Score, print, and write an entry for each where a folder is given; `with_told`: `told` too."""
    rows = []

    def scores() -> Iterator[tuple[str, str, Result]]:
        for one in chosen:
            yield one.name, one.identity, score(one, task)
        if with_told and (found := told(task)) is not None:
            yield TOLD_NAME, TOLD_NAME, found

    for name, identity, result in scores():
        rows.append((name, result))
        if out is not None:
            path = write_entry(out, entry(name, identity, task, result))
            console.print(f"Entry: {path}", soft_wrap=True, highlight=False)
    result_sheet(task, rows).print(console)
    if not task.same_paths():
        console.print(
            "This machine draws other paths than the task was frozen with: scores may differ a little."
        )


def leaderboard(options: Leaderboard) -> None:
    """Run `neuralmm zoo leaderboard`."""
    files = [
        file
        for path in options.entries
        for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])
    ]
    if not files:
        raise ConfigError(f"entries = {[str(p) for p in options.entries]} hold none: give a folder or files.")
    found: dict[str, list[tuple[str, Result]]] = {}
    for file in files:
        content = read_entry(file)
        result = Result(Interval(*content["value"]), Interval(*content["percent"]))
        found.setdefault(content["task"], []).append((content["policy"], result))
    sheets = [result_sheet(find_task(name), rows) for name, rows in found.items()]
    write_markdown(
        options.output,
        "# Leaderboard\n\nMade by `neuralmm zoo leaderboard` from entries. "
        "`neuralmm zoo evaluate --baselines --out FOLDER` writes those here, "
        "`neuralmm score POLICY --task TASK --out FOLDER` yours.",
        *sheets,
    )
    print(f"{options.output}: {len(files)} entries, {len(found)} tasks")
