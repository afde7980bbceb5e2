"""`neuralmm signals`: record data, train the networks beside the policy, and say what they are worth.

    neuralmm signals train order-flow --data hidden-regime
    neuralmm signals train adverse-selection --data store          # a folder of recorded tapes
    neuralmm signals evaluate logs/signals/order-flow_1/signal.mms --data book
    neuralmm signals list

A run is a folder under `logs/signals/`: settings, TensorBoard events, a checkpoint after each epoch from
which `--resume` continues, calibration plots, and `signal.mms`: weights with their scaling, and the card.
Figures are of the test part, by the very code that runs in the environment, with 95% intervals, beside what
is simpler (the same features in a regression, the book imbalance, the base rate) and, on solvable markets,
beside what no network can beat.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mmenv.config import EnvConfig, group_features
from mmenv.features.base import Feature
from mmenv.market.replay import Replay
from mmenv.recording.windows import Part, Recording, split
from mmenv.sheet import Sheet
from policies.signals import TrainedSignal, load, save
from policies.signals.network import Design
from train.signals.data import Batches, get_recording
from train.signals.fitting import Fit, Material, make_net
from train.signals.judging import evaluate, write_plots
from train.signals.settings import (
    Evaluate,
    List,
    Train,
    new_folder,
    plain_settings,
    read_settings,
    write_settings,
)
from train.signals.tasks import TASKS, Labels, Task, features_of

SUFFIX = "signal.mms"


def train(options: Train, folder: Path, console: Console) -> TrainedSignal:
    """One run, from its beginning or from its checkpoint."""
    task = TASKS[options.name]
    options = dataclasses.replace(options, horizons=options.horizons or task.horizons)
    recording = get_recording(options, options.data, task, options.distance)
    values = task.label(recording, options)
    parts = split(recording, embargo=values.horizon)
    names = task.inputs(recording.config)
    columns = recording.columns(names)
    design = task.design(recording.config, options)
    shortest = min(int(end - begin) for begin, end in parts[0].stretches)
    length = min(max(300, task.lookback), shortest) if design.streams else 1
    rows = options.rows or (4800 if design.streams else 2048)
    batches = [Batches(recording, columns, values, part, length, rows) for part in parts[:2]]
    net = make_net(design, recording, columns, batches[0].target, parts[0], options.seed)
    net = Fit(net, Material(task, names, *batches), options, folder).run()
    signal = TrainedSignal(
        name=task.name,
        network=net.to("cpu").eval().compiled(),
        groups=recording.config.features,
        inputs=features_of(recording.config, names),
        outputs=tuple(Feature(head.name, head.low, head.high, head.meaning) for head in design.heads),
        step_seconds=recording.config.market.step_seconds,
    )
    signal = trim(signal, recording.config)
    figures, plots = evaluate(signal, task, recording, values, parts, console)
    card = {
        "what": task.what,
        "data": {
            "source": Path(options.data).name if Path(options.data).is_dir() else options.data,
            "market": shown_market(recording.config),
            "rows": len(recording),
            "seconds": round(len(recording) * recording.config.market.step_seconds),
            "parts": [len(part.rows(values.horizon)) for part in parts],
            "purge and embargo, rows": values.horizon,
        },
        "horizons, seconds": options.horizons,
        "look-back, rows": "all since the start of the episode" if design.streams else 1,
        "settings": plain_settings(options),
        "label means": label_means(design, values, parts[0]),
        "figures": figures,
        "limits": limits(task, recording),
    }
    signal = dataclasses.replace(signal, card=card)
    save(signal, folder / SUFFIX)
    write_plots(folder, plots)
    return signal


def label_means(design: Design, values: Labels, part: Part) -> dict[str, float]:
    """Mean of each head's label over the rows of a part that have one."""
    means = np.nanmean(values.values[part.rows(values.horizon)], axis=0)
    return {head.name: float(mean) for head, mean in zip(design.heads, means, strict=True)}


def trim(signal: TrainedSignal, config: EnvConfig) -> TrainedSignal:
    """The signal with only those feature groups that it reads."""
    names = {feature.name for feature in signal.inputs}
    groups = tuple(
        group for group in config.features if names & {f.name for f in group_features(group, config)}
    )
    return dataclasses.replace(signal, groups=groups)


def shown_market(config: EnvConfig) -> dict[str, Any]:
    """The market of a card: where a store lay does not matter to who reads it."""
    market = dict(config.to_dict()["market"])
    if "store" in market:
        market["store"] = Path(market["store"]).name
    return market


def limits(task: Task, recording: Recording) -> str:
    """What the card says of the limits of its figures and of its use."""
    seconds = len(recording) * recording.config.market.step_seconds
    text = f"Fitted to {seconds:,.0f} s of {recording.config.market.name}; elsewhere its figures do not hold."
    if isinstance(recording.config.market, Replay):
        text += " Minutes of data say little: regimes, days and venues that were not recorded may differ."
    return f"{text} {task.limits}".strip()


def run_train(options: Train, console: Console) -> None:
    """`neuralmm signals train`."""
    if options.resume is not None:
        folder = options.resume
        options = read_settings(folder)
    else:
        folder = new_folder(options)
        write_settings(folder, options)
    began = time.monotonic()
    train(options, folder, console)
    console.print(f"{time.monotonic() - began:.0f} s. Signal: {folder / SUFFIX}")
    console.print(f"Plots: tensorboard --logdir {folder}; calibration-*.png beside it.")
    console.print(f'Use: NeuralMM-v0 with signals=["policies.signals:{folder / SUFFIX}"]')


def run_evaluate(options: Evaluate, console: Console) -> None:
    """`neuralmm signals evaluate`."""
    signal = load(options.signal)
    task = TASKS[signal.name]
    settings = signal.card["settings"]
    chosen = Train(**{
        **{f.name: settings[f.name] for f in dataclasses.fields(Train) if f.name in settings},
        "horizons": tuple(settings["horizons"]),
    })  # fmt: skip
    data = options.data or settings["data"]
    options = dataclasses.replace(options, set=options.set or tuple(settings["set"]))
    recording = get_recording(options, data, task, chosen.distance)
    values = task.label(recording, chosen)
    evaluate(signal, task, recording, values, split(recording, embargo=values.horizon), console)


def run_list(options: List, console: Console) -> None:
    """`neuralmm signals list`."""
    rows = []
    for path in sorted(options.logs.rglob("*.mms")):
        card = load(path).card
        figures = "\n".join(f"{head}: {entry['verdict']}" for head, entry in card["figures"].items())
        horizons = ", ".join(f"{x:g}" for x in card["horizons, seconds"])
        rows.append((str(path), card["what"], card["data"]["source"], horizons, figures))
    if not rows:
        console.print(f"No signals under {options.logs}: `neuralmm signals train NAME` makes one.")
        return
    headings = "signal", "what", "data", "horizon, s", "figures, against the best simple rival"
    left = frozenset((headings[1], headings[2], headings[4]))
    Sheet.of_rows("", headings, rows, left=left).print(console)


def main(chosen: Train | Evaluate | List) -> None:
    """Run `neuralmm signals`."""
    # One thread: at this size a second one costs more than it brings.
    torch.set_num_threads(1)
    console = Console()
    run: Any = {Train: run_train, Evaluate: run_evaluate, List: run_list}[type(chosen)]
    run(chosen, console)
