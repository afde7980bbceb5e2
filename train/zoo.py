"""`neuralmm zoo`: trained policies that come with the package, one for each task."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
from rich.console import Console

import policies
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.files import replacing
from mmenv.sheet import Sheet
from mmenv.tasks import Task, find_task, tasks
from mmenv.vector import NeuralMMVectorEnv
from policies.base import Policy
from policies.bundle import SUFFIX
from policies.make import make_policy
from train.baselines import CACHE, bound, closed_form_config
from train.options.zoo import ZooEvaluate, ZooExport, ZooList, ZooPlay
from train.score import BASELINES, Candidate, candidates, result_sheet, score, score_all
from train.simulate import simulate

FOLDER = Path(policies.__file__).with_name("zoo")
PICTURED_EPISODES = 256


def bundle_of(task: Task) -> Path:
    """The file of a task's trained policy; `ConfigError` where none comes with the package."""
    path = FOLDER / f"{task.name}{SUFFIX}"
    if not path.exists():
        have = ", ".join(name for name in tasks() if (FOLDER / f"{name}{SUFFIX}").exists())
        raise ConfigError(f"no trained policy comes with {task.name!r} yet; there is one for {have}.")
    return path


def trained(task: Task) -> Candidate:
    """A task's trained policy."""
    return candidates(str(bundle_of(task)), task)[0]


def main_list(options: ZooList) -> None:
    """Run `neuralmm zoo list`."""
    rows = list(tasks().values())
    have = [FOLDER / f"{task.name}{SUFFIX}" for task in rows]
    sheet = Sheet(
        "Tasks: frozen environments",
        {
            "task": [f"NeuralMM/{task.name}" for task in rows],
            "trained policy": [f"{f.stat().st_size / 1e3:.0f} kB" if f.exists() else "none" for f in have],
            "scores are": [task.scale.label for task in rows],
            "what it is": [task.about for task in rows],
        },
        ["Next: neuralmm zoo play brownian-v0"],
        left=frozenset({"scores are", "what it is"}),
    )
    sheet.print(Console())


def main_evaluate(options: ZooEvaluate) -> None:
    """Run `neuralmm zoo evaluate`."""
    chosen = [find_task(name) for name in options.tasks]
    chosen = chosen or [task for task in tasks().values() if (FOLDER / f"{task.name}{SUFFIX}").exists()]
    for task in chosen:
        others = candidates(BASELINES, task) if options.baselines else []
        score_all([trained(task), *others], task, options.out, Console(), with_told=options.baselines)


def main_export(options: ZooExport) -> None:
    """Run `neuralmm zoo export`."""
    if options.output.suffix != SUFFIX:
        raise ConfigError(f"--output = {options.output} is not possible: it must end in {SUFFIX}.")
    source = bundle_of(find_task(options.task))
    with replacing(options.output) as temporary:
        shutil.copyfile(source, temporary)
    word = shlex.quote(str(options.output))
    print(f"{options.output}: {options.output.stat().st_size:,} bytes. Next: neuralmm verify {word}")


def main_play(options: ZooPlay) -> None:
    """Run `neuralmm zoo play`."""
    task, console = find_task(options.task), Console()
    judged = trained(task) if options.policy is None else candidates(options.policy, task)[0]
    rival = Candidate(*best_known(task))
    results = [(one.name, score(one, task, options.episodes)) for one in (judged, rival)]
    count = min(options.episodes, task.episodes)
    sheet = result_sheet(task, results, count)
    part = f"`neuralmm score` plays all {task.episodes:,} episodes of the task."
    replace(sheet, legend=[*sheet.legend, *([part] if count < task.episodes else [])]).print(console)
    for kind, draw in (("episode", draw_episode), ("quotes", draw_quotes)):
        path = options.out / f"{task.name}_{kind}.png"
        with replacing(path) as temporary:
            draw(judged, rival, temporary)
        console.print(f"Picture: {path}", soft_wrap=True, highlight=False)


def best_known(task: Task) -> tuple[str, str, Policy, EnvConfig]:
    """The policy that no other beats, or a rule where none is known: what `Candidate` is made of."""
    config = closed_form_config(task.config())
    name = bound(config) or task.scale.bottom
    given = {"cache": CACHE} if bound(config) else task.rule
    return name, name, make_policy(name, config, **given), config


def draw_episode(judged: Candidate, rival: Candidate, path: Path) -> None:
    """What the judged policy does in one episode: prices and quotes, inventory, profit and its parts."""
    envs = NeuralMMVectorEnv(1, config=judged.config, render_mode="rgb_array", autoreset_mode="Disabled")
    observations, _ = envs.reset(seed=find_seed(judged))
    state, frame = judged.policy.reset(1), None
    for _ in range(judged.config.horizon):
        actions, state = judged.policy.act(observations, state)
        observations, _, terminated, truncated, _ = envs.step(actions)
        if (terminated | truncated).any():
            break
    frame = (envs.render() or (None,))[0]
    envs.close()
    assert frame is not None
    matplotlib.image.imsave(path, frame, format="png")


def find_seed(judged: Candidate) -> int:
    """The seed of the episode that is drawn: the middle one of some by what it earns."""
    first = 5_000_000_000
    outcome = simulate(judged.policy, judged.config, 31, seed=first)
    return first + int(np.argsort(outcome.controlled)[15])


def draw_quotes(judged: Candidate, rival: Candidate, path: Path) -> None:
    """Mean quotes by inventory, those of the best known policy beside them."""
    from train.pictures import Quotes  # here, for torch takes seconds to import

    drawn = []
    for one in (judged, rival):
        quotes = Quotes(one.config)
        simulate(one.policy, one.config, PICTURED_EPISODES, seed=6_000_000_000, watch=quotes)
        drawn.append(quotes)
    drawn[0].figure(drawn[1], rival.name).savefig(path, format="png", dpi=110)
