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

import copy
import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from mmenv.config import ConfigError, EnvConfig
from mmenv.data.windows import Part, Recording, at_distance, open_recording, record, split
from mmenv.features import Feature
from mmenv.files import replacing
from mmenv.market import MARKETS
from mmenv.market.replay import Replay
from policies.signals import TrainedSignal, load, save
from policies.signals.network import Design, Head, Net
from train.evaluate import wide_console
from train.ppo import Settings as PolicySettings
from train.ppo import env_config
from train.signal_metrics import AUC, Bootstrap, Figure95, brier, calibration_figure, log_loss, r2
from train.signal_tasks import TASKS, Labels, Task, features_of, recording_config, signs

Array = np.ndarray

SUFFIX = "signal.mms"
REGRESSION = "regression, same features"
AVERAGES = (1, 5, 20, 100)
"""Windows, rows, of the averages that the stronger regression gets."""
CLUSTER_ROWS, FEWEST_CLUSTERS = 300, 30
EVALUATION_ROWS = 400_000
"""At most so many rows are in the figures: intervals are then as narrow as anybody needs."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a signal and print what it is worth beside simpler forecasts."""

    name: tyro.conf.Positional[
        Literal["order-flow", "adverse-selection", "multi-task", "cross-asset", "risk"]
    ]
    """Which one."""
    data: str = "hidden-regime"
    """A registered market, the folder of a store of recorded tapes, or the folder of a recording."""
    set: tuple[str, ...] = ()
    """Environment settings as name=value, such as market.preset=binance-usdm-eth or horizon=1000."""
    symbol: str = "*"
    """Which symbols of a store."""
    sequences: int = 1500
    """Episodes to record of a simulated market."""
    distance: float | None = None
    """Distance of the recorded quotes, price units; by default 1 without a book, else at the touch."""
    horizons: tuple[float, ...] = ()
    """Of the labels, seconds; by default those of the signal."""
    quantile: float = 2.33
    """Risk: the loss that counts, in standard deviations of the usual move over the horizon."""
    epochs: int = 8
    rows: int | None = None
    """Rows of a batch; by default 2,048, or 4,800 (16 sequences of 300) for a network with memory."""
    learning_rate: float = 3e-3
    """At the start; it falls linearly to 0."""
    dropout: float = 0.1
    lstm: tuple[int, ...] = ()
    """Units of the recurrent layers of multi-task and cross-asset, in place of their own."""
    shared: bool = False
    """Cross-asset: one set of recurrent weights for all assets."""
    seed: int = 0
    device: str = "auto"
    logs: Path = Path("logs/signals")
    recordings: Path = Path("logs/recordings")
    """Recorded data are kept here and used again."""
    run: str | None = None
    """Folder of the run under `logs`; by default name, data and number."""
    resume: Path | None = None
    """Folder of an interrupted run to continue; all other settings then come from there."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Print what a saved signal is worth on the test part of some data."""

    signal: tyro.conf.Positional[Path]
    """A .mms file."""
    data: str | None = None
    """As in training; by default the data it was trained on. On a simulated market all paths are new ones."""
    set: tuple[str, ...] = ()
    symbol: str = "*"
    sequences: int = 500
    seed: int = 1_000_000_000
    recordings: Path = Path("logs/recordings")


@dataclass(frozen=True, kw_only=True)
class List:
    """List the saved signals."""

    logs: tyro.conf.Positional[Path] = Path("logs/signals")


# --- Data ---------------------------------------------------------------------------------------------------


def data_config(data: str, settings: tuple[str, ...], symbol: str, inventory: bool) -> EnvConfig:
    """The configuration under which `data`, a market or a store, is recorded."""
    if data in MARKETS and data != Replay.name:
        config = env_config(PolicySettings(market=data, set=settings))
    elif Path(data).is_dir():
        # Without fees, which no label knows, tapes of venues with different ones go together.
        own = ('market.split="all"', "horizon=3000", "maker_fee_bp=0")
        given = (f"market.symbol={json.dumps(symbol)}", *own, *settings)
        config = env_config(PolicySettings(market=Replay.name, store=Path(data), set=given))
    else:
        known = ", ".join(name for name in MARKETS if name != Replay.name)
        raise ConfigError(f"--data {data!r} is neither a market ({known}) nor a folder.")
    return recording_config(config, inventory)


def get_recording(options: Train | Evaluate, data: str, task: Task, distance: float | None) -> Recording:
    """The recording in a folder, or one made of a market or store, which is kept for the next time."""
    if (Path(data) / "recording.json").exists():
        return open_recording(Path(data))
    config = data_config(data, options.set, options.symbol, task.inventory)
    away = distance if distance is not None else (1.0 if config.market.name in WITHOUT_BOOK else 0.0)
    made = (json.dumps(config.to_dict(), sort_keys=True), options.sequences, options.seed, away)
    key = hashlib.sha256(repr(made).encode()).hexdigest()[:12]
    folder = options.recordings / f"{config.market.name}-{key}"
    if folder.exists():
        return open_recording(folder)
    tape = isinstance(config.market, Replay)
    with tqdm(desc="recording", unit=" sequences", total=None if tape else options.sequences) as bar:
        return record(
            config,
            folder,
            sequences=None if tape else options.sequences,
            quote=at_distance(config, away),
            seed=options.seed,
            progress=bar.update,
        )


WITHOUT_BOOK = ("brownian", "hidden-regime", "correlated")


class Batches:
    """Batches of a part: sequences of inputs, (B, L, inputs), and targets, (B, L, heads), gathered lazily.

    A network with memory gets stretches of `length` rows from a fresh start; one without, single rows.
    """

    def __init__(
        self, recording: Recording, columns: Array, values: Labels, part: Part, length: int, rows: int
    ) -> None:
        self._columns, self._size = columns, max(rows // length, 1)
        target = np.full(values.values.shape, np.nan, np.float32)
        usable = part.rows(values.horizon)
        target[usable] = values.values[usable]
        self.target = target
        if length == 1:
            self._ends = np.flatnonzero(np.isfinite(target).any(axis=1))
        else:
            ends = []
            for begin, end in part.stretches:
                ends.append(np.arange(begin + length - 1, end, length))
                if end - begin > length and (end - begin) % length:
                    ends.append(np.array([end - 1]))
            self._ends = np.concatenate(ends) if ends else np.zeros(0, np.int64)
        if len(self._ends) == 0:
            raise ConfigError(
                f"a part of the data has no stretch of {length} rows with labels: record more of it."
            )
        self._length = length
        self._inputs = recording.windows(length)
        self._targets = sliding_window_view(target, length, axis=0).swapaxes(1, 2)

    def __len__(self) -> int:
        return -(-len(self._ends) // self._size)

    def __call__(self, generator: np.random.Generator | None) -> Any:
        order = self._ends if generator is None else generator.permutation(self._ends)
        for begin in range(0, len(order), self._size):
            first = order[begin : begin + self._size] - (self._length - 1)
            yield (
                torch.from_numpy(self._inputs[first][..., self._columns]),
                torch.from_numpy(np.ascontiguousarray(self._targets[first])),
            )


# --- Training -----------------------------------------------------------------------------------------------


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
    device = torch.device(
        "cuda" if options.device == "auto" and torch.cuda.is_available() else
        "cpu" if options.device == "auto" else options.device
    )  # fmt: skip
    known = np.nanvar(batches[0].target, axis=0)
    fit(net.to(device), task, names, batches, 1 / np.maximum(known, 1e-9), options, folder, device)
    signal = TrainedSignal(
        name=task.name,
        network=net.to("cpu").eval().compiled(),
        groups=recording.config.features,
        inputs=features_of(recording.config, names),
        outputs=tuple(output(head) for head in design.heads),
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
        "figures": figures,
        "limits": limits(task, recording),
    }
    signal = dataclasses.replace(signal, card=card)
    save(signal, folder / SUFFIX)
    write_plots(folder, plots)
    return signal


def output(head: Head) -> Feature:
    return Feature(head.name, head.low, head.high, head.meaning)


def trim(signal: TrainedSignal, config: EnvConfig) -> TrainedSignal:
    """The signal with only those feature groups that it reads."""
    from mmenv.features import GROUPS

    names = {feature.name for feature in signal.inputs}
    groups = tuple(
        group for group in config.features if names & {f.name for f in GROUPS[group].entries(config)}
    )
    return dataclasses.replace(signal, groups=groups)


def shown_market(config: EnvConfig) -> dict[str, Any]:
    """The market of a card: where a store lay does not matter to who reads it."""
    market = dict(config.to_dict()["market"])
    if "store" in market:
        market["store"] = Path(market["store"]).name
    return market


def limits(task: Task, recording: Recording) -> str:
    seconds = len(recording) * recording.config.market.step_seconds
    text = f"Fitted to {seconds:,.0f} s of {recording.config.market.name}; elsewhere its figures do not hold."
    if isinstance(recording.config.market, Replay):
        text += " Minutes of data say little: regimes, days and venues that were not recorded may differ."
    return f"{text} {task.limits}".strip()


def make_net(
    design: Design, recording: Recording, columns: Array, target: Array, part: Part, seed: int
) -> Net:
    """The network, its standardisation fitted on the training part."""
    torch.manual_seed(seed)
    inputs = np.concatenate([recording.features[begin:end][:, columns] for begin, end in part.stretches])
    mean, scale = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)
    linear = [head.kind == "value" for head in design.heads]
    return Net(
        design,
        mean,
        # An input that never moves says nothing: it is centred and left alone.
        np.where(scale > 1e-6, scale, 1.0),
        [float(m) if is_linear else 0.0 for m, is_linear in zip(np.nanmean(target, 0), linear, strict=True)],
        [float(s) if is_linear else 1.0 for s, is_linear in zip(np.nanstd(target, 0), linear, strict=True)],
    )


def fit(
    net: Net,
    task: Task,
    names: tuple[str, ...],
    batches: list[Batches],
    weights: Array,
    options: Train,
    folder: Path,
    device: torch.device,
) -> None:
    """Adam over `options.epochs`; the weights of the epoch with the least validation loss stay."""
    optimizer = torch.optim.Adam(net.parameters(), lr=options.learning_rate, eps=1e-6)
    total = options.epochs * len(batches[0])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(1 - step / total, 0.0))
    generator = np.random.default_rng(options.seed)
    best: dict[str, Any] = {"loss": np.inf, "weights": copy.deepcopy(net.state_dict())}
    epoch = 0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=False)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        generator.bit_generator.state = state["generator"]
        torch.set_rng_state(state["torch"])
        torch.cuda.set_rng_state_all(state["cuda"])
        best, epoch = state["best"], state["epoch"]
    flip = torch.from_numpy(signs(names)).to(device)
    weight = torch.as_tensor(weights, dtype=torch.float32, device=device)
    writer = SummaryWriter(str(folder), purge_step=epoch)
    heads = [head.name for head in net.design.heads]
    began = time.monotonic()
    with tqdm(total=options.epochs, initial=epoch, unit=" epochs", desc=task.name) as bar:
        while epoch < options.epochs:
            net.train()
            for x, y in batches[0](generator):
                x, y = x.to(device), y.to(device)
                # Who buys and who sells may change places: half of each batch is seen so.
                turned = torch.from_numpy(generator.random(len(x)) < 0.5).to(device)[:, None, None]
                mirrored = torch.from_numpy(task.mirror(y.cpu().numpy())).to(device)
                x, y = torch.where(turned, x * flip, x), torch.where(turned, mirrored, y)
                optimizer.zero_grad()
                loss = net.loss(net(x), y, weight).sum()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            losses = validation_loss(net.eval(), batches[1], weight, device)
            epoch += 1
            for head, value in zip(heads, losses.tolist(), strict=True):
                writer.add_scalar(f"validation loss/{head}", value, epoch)
            writer.add_scalar("training loss of the last batch", loss.item(), epoch)
            writer.add_scalar("learning rate", schedule.get_last_lr()[0], epoch)
            writer.add_scalar("seconds", time.monotonic() - began, epoch)
            if float(losses.sum()) < best["loss"]:
                best = {"loss": float(losses.sum()), "weights": copy.deepcopy(net.state_dict())}
            save_checkpoint(
                checkpoint,
                {
                    "net": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "generator": generator.bit_generator.state,
                    "torch": torch.get_rng_state(),
                    "cuda": torch.cuda.get_rng_state_all(),
                    "best": best,
                    "epoch": epoch,
                },
            )
            bar.update()
            bar.set_postfix(validation=f"{float(losses.sum()):.5f}")
    writer.close()
    net.load_state_dict(best["weights"])


def validation_loss(net: Net, batches: Batches, weight: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Mean loss of each head over the validation part."""
    total, count = torch.zeros(len(weight)), torch.zeros(len(weight))
    with torch.inference_mode():
        for x, y in batches(None):
            known = torch.isfinite(y).sum(dim=(0, 1))
            total = total + net.loss(net(x.to(device)), y.to(device), weight).cpu() * known
            count = count + known
    return total / count.clamp(min=1)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        torch.save(state, temporary)


# --- Figures ------------------------------------------------------------------------------------------------


def evaluate(
    signal: TrainedSignal,
    task: Task,
    recording: Recording,
    values: Labels,
    parts: tuple[Part, ...],
    console: Console,
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Figures of each head on the test part, as on the card, and calibration plots; printed as tables."""
    columns = recording.columns(tuple(feature.name for feature in signal.inputs))
    stretches = parts[2].stretches
    inputs = np.concatenate([recording.features[begin:end][:, columns] for begin, end in stretches])
    rows = np.concatenate([np.arange(begin, end) for begin, end in stretches])
    first = np.concatenate([[0], np.cumsum(stretches[:, 1] - stretches[:, 0])])
    forecast = np.full((len(recording), len(signal.outputs)), np.nan)
    forecast[rows] = signal.run(inputs, first)
    averages = averaged(recording, columns)
    figures: dict[str, Any] = {}
    plots: dict[str, Figure] = {}
    for k, feature in enumerate(signal.outputs):
        target = values.values[:, k].astype(np.float64)
        train_rows, test_rows = (
            part_rows[np.isfinite(target[part_rows])]
            for part_rows in (parts[0].rows(values.horizon), parts[2].rows(values.horizon))
        )
        if len(test_rows) < 50 or np.ptp(target[train_rows]) == 0 or np.ptp(target[test_rows]) == 0:
            console.print(f"{feature.name}: too few different labels to judge.")
            continue
        test_rows = test_rows[:EVALUATION_ROWS]
        chance = set(np.unique(target[train_rows])) <= {0.0, 1.0}
        imbalance = recording.features[:, recording.columns(("book_imbalance",))]
        forecasts = {
            task.name: forecast[test_rows, k],
            REGRESSION: regress(recording.features[:, columns], target, train_rows, test_rows, chance),
            "regression, their averages too": regress(averages, target, train_rows, test_rows, chance),
            "book imbalance": regress(imbalance, target, train_rows, test_rows, chance),
            "base rate": np.full(len(test_rows), target[train_rows].mean()),
        }
        if feature.name in values.alone:
            forecasts["exact filter, this asset alone"] = values.alone[feature.name][test_rows]
        if feature.name in values.exact:
            forecasts["exact filter"] = values.exact[feature.name][test_rows]
        measures = chance_measures if chance else value_measures
        usual = float(target[train_rows].mean())
        clusters = cluster_of(test_rows, recording, values.horizon)
        result = compare(forecasts, target[test_rows], usual, clusters, measures)
        figures[feature.name] = result
        console.print(figure_table(feature.name, result))
        console.print(verdict(task.name, result))
        if chance:
            shown = {
                name: forecasts[name] for name in (task.name, REGRESSION, "exact filter") if name in forecasts
            }
            plots[feature.name] = calibration_figure(shown, target[test_rows] > 0.5, feature.name)
    return figures, plots


def averaged(recording: Recording, columns: Array) -> Array:
    """Inputs averaged over the last rows, as many as `AVERAGES` says or as there are, float32 (R, ...)."""
    x = recording.features[:, columns].astype(np.float64)
    total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0)])
    begins = np.repeat(recording.first[:-1], np.diff(recording.first))
    rows = np.arange(len(x))
    parts = []
    for window in AVERAGES:
        low = np.maximum(rows - window + 1, begins)
        parts.append(((total[rows + 1] - total[low]) / (rows + 1 - low)[:, None]).astype(np.float32))
    return np.concatenate(parts, axis=1)


def regress(x: Array, target: Array, train_rows: Array, test_rows: Array, chance: bool) -> Array:
    """Forecasts, (test rows,), of a logistic (for a chance) or linear regression on the training rows."""
    inside, y = x[train_rows].astype(np.float64), target[train_rows]
    mean, scale = inside.mean(0), np.maximum(inside.std(0), 1e-9)
    with_one = lambda rows: np.concatenate([(x[rows] - mean) / scale, np.ones((len(rows), 1))], 1)  # noqa: E731
    inside, outside = with_one(train_rows), with_one(test_rows)
    ridge = 1e-6 * len(inside) * np.eye(inside.shape[1])
    if not chance:
        return outside @ np.linalg.solve(inside.T @ inside + ridge, inside.T @ y)
    weights = np.zeros(inside.shape[1])
    for _ in range(12):  # Newton's method
        p = 1 / (1 + np.exp(-np.clip(inside @ weights, -30, 30)))
        curvature = (inside * (p * (1 - p))[:, None]).T @ inside + ridge
        weights += np.linalg.solve(curvature, inside.T @ (y - p) - ridge @ weights)
    return 1 / (1 + np.exp(-np.clip(outside @ weights, -30, 30)))


def chance_measures(forecast: Array, target: Array, usual: float) -> dict[str, Any]:
    happened = target > 0.5
    return {
        "AUC": AUC(forecast, happened),
        "log loss": log_loss(forecast, happened),
        "Brier": brier(forecast, happened),
    }


def value_measures(forecast: Array, target: Array, usual: float) -> dict[str, Any]:
    return {"R2": r2(forecast, target, usual)}


def compare(
    forecasts: dict[str, Array], target: Array, usual: float, clusters: Array, measures: Any
) -> dict[str, Any]:
    """For each forecast each figure with its interval, and its paired difference to the first forecast."""
    draws = Bootstrap(clusters)
    result: dict[str, Any] = {"rows": len(target), "clusters": draws.clusters}
    ours: dict[str, Array] = {}
    for name, forecast in forecasts.items():
        entry = {}
        for figure, measure in measures(forecast, target, usual).items():
            drawn = draws.values(measure)
            entry[figure] = draws.interval(drawn).plain()
            if name == next(iter(forecasts)):
                ours[figure] = drawn
            else:
                entry[f"{figure}, ours less this"] = draws.interval(ours[figure] - drawn).plain()
        result[name] = entry
    return result


def cluster_of(rows: Array, recording: Recording, horizon: int) -> Array:
    """The cluster of each row, (R,): stretches of `CLUSTER_ROWS`, shorter where the data are, never shorter
    than two label horizons."""
    length = min(max((int(rows[-1]) - int(rows[0])) // FEWEST_CLUSTERS, 2 * horizon), CLUSTER_ROWS)
    sequence = np.searchsorted(recording.first, rows, side="right") - 1
    return sequence * 10**9 + (rows - recording.first[sequence]) // max(length, 1)


def figure_table(head: str, result: dict[str, Any]) -> Table:
    """Figures of each forecast, and the paired difference of the network's first figure to each."""
    names = [name for name in result if name not in ("rows", "clusters")]
    figures = list(result[names[0]])
    table = Table(
        title=f"{head}: test part, {result['rows']:,} rows in {result['clusters']} clusters",
        caption="95% intervals, bootstrap over clusters; all paired differences are on the card",
    )
    table.add_column("forecast")
    for figure in figures:
        table.add_column(figure, justify="right")
    table.add_column(f"{figures[0]}, ours less this", justify="right")
    for name in names:
        cells = [str(Figure95(*result[name][figure])) for figure in figures]
        difference = result[name].get(f"{figures[0]}, ours less this")
        table.add_row(name, *cells, "" if difference is None else str(Figure95(*difference)))
    return table


def verdict(ours: str, result: dict[str, Any]) -> str:
    """Whether the network beats its best simple rival, in a sentence, which is also noted on the card."""
    figure = next(iter(result[ours]))
    rivals = [name for name in result if name not in ("rows", "clusters", ours, "exact filter")]
    best = max(rivals, key=lambda name: result[name][figure][0])
    value, low, high = result[best][f"{figure}, ours less this"]
    how = "beats" if low > 0 else "loses to" if high < 0 else "does not differ significantly from"
    text = f"{figure}: {how} its best rival, {best}: {value:+.4f} [{low:+.4f}, {high:+.4f}]"
    result["verdict"] = text
    return text


def write_plots(folder: Path, plots: dict[str, Figure]) -> None:
    writer = SummaryWriter(str(folder))
    for name, figure in plots.items():
        figure.savefig(folder / f"calibration-{name}.png", dpi=120)
        writer.add_figure(f"calibration/{name}", figure)
    writer.close()


# --- The command --------------------------------------------------------------------------------------------


def plain_settings(options: Train) -> dict[str, Any]:
    """Settings as JSON; folders by their names alone."""
    plain = dataclasses.asdict(options)
    plain["data"] = Path(options.data).name if Path(options.data).is_dir() else options.data
    return {
        name: value for name, value in plain.items() if name not in ("logs", "recordings", "resume", "run")
    }


def new_folder(options: Train) -> Path:
    if options.run is not None:
        folder = options.logs / options.run
        if folder.exists():
            raise ConfigError(f"--run {options.run!r}: {folder} exists; choose another, or --resume it.")
        return folder
    number, stem = 1, f"{options.name}-{Path(options.data).name}"
    while (folder := options.logs / f"{stem}_{number}").exists():
        number += 1
    return folder


def write_settings(folder: Path, options: Train) -> None:
    folder.mkdir(parents=True)
    with replacing(folder / "settings.json") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(options), default=str, indent=1))


def read_settings(folder: Path) -> Train:
    path = folder / "settings.json"
    if not path.exists():
        raise FileNotFoundError(f"--resume {folder}: there is no {path.name}; name the folder of a run.")
    plain = json.loads(path.read_text())
    for name in ("set", "horizons", "lstm"):
        plain[name] = tuple(plain[name])
    for name in ("logs", "recordings"):
        plain[name] = Path(plain[name])
    return Train(**{**plain, "resume": None})


def run_train(options: Train, console: Console) -> None:
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
    table = Table()
    table.add_column("signal", overflow="fold")  # to be copied whole
    for heading in ("what", "data", "horizon, s", "figures, against the best simple rival"):
        table.add_column(heading)
    for path in sorted(options.logs.rglob("*.mms")):
        card = load(path).card
        figures = "\n".join(f"{head}: {entry['verdict']}" for head, entry in card["figures"].items())
        horizons = ", ".join(f"{x:g}" for x in card["horizons, seconds"])
        table.add_row(str(path), card["what"], card["data"]["source"], horizons, figures)
    if not table.row_count:
        console.print(f"No signals under {options.logs}: `neuralmm signals train NAME` makes one.")
        return
    console.print(table)


def main() -> None:
    # One thread: at this size a second one costs more than it brings.
    torch.set_num_threads(1)
    chosen = tyro.cli(
        Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[List, tyro.conf.subcommand("list")],
        description=__doc__,
    )
    console = wide_console()
    if isinstance(chosen, Train):
        run_train(chosen, console)
    elif isinstance(chosen, Evaluate):
        run_evaluate(chosen, console)
    else:
        run_list(chosen, console)


if __name__ == "__main__":
    main()
