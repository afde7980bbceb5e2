"""What a signal is worth on the test part of its data, beside simpler forecasts and the best possible one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from mmenv.engine.products import product, solve_linear
from mmenv.recording.windows import Part, Recording
from mmenv.sheet import Sheet
from policies.signals import TrainedSignal
from train.signals.metrics import AUC, Bootstrap, Measure, brier, calibration_figure, log_loss, plain, r2
from train.signals.tasks import Labels, Task
from train.simulate import Interval

Array = np.ndarray

REGRESSION = "regression, same features"
AVERAGES = (1, 5, 20, 100)
"""Windows, rows, of the averages that the stronger regression gets."""
CLUSTER_ROWS, FEWEST_CLUSTERS = 300, 30
EVALUATION_ROWS = 400_000
"""At most this many rows are in the figures: intervals are then as narrow as anybody needs."""


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
    forecast, averages = run_over(signal, recording, columns, parts[2]), averaged(recording, columns)
    imbalance = recording.features[:, recording.columns(("book_imbalance",))]
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
        figure_sheet(feature.name, result).print(console)
        console.print(verdict(task.name, result))
        if chance:
            names = [name for name in (task.name, REGRESSION, "exact filter") if name in forecasts]
            shown = {name: forecasts[name] for name in names}
            plots[feature.name] = calibration_figure(shown, target[test_rows] > 0.5, feature.name)
    return figures, plots


def run_over(signal: TrainedSignal, recording: Recording, columns: Array, part: Part) -> Array:
    """Outputs of the signal at the rows of a part, each stretch from a fresh start, float (R, outputs).

    Rows of other parts are NaN.
    """
    stretches = part.stretches
    inputs = np.concatenate([recording.features[begin:end][:, columns] for begin, end in stretches])
    first = np.concatenate([[0], np.cumsum(stretches[:, 1] - stretches[:, 0])])
    forecast = np.full((len(recording), len(signal.outputs)), np.nan)
    forecast[np.concatenate([np.arange(begin, end) for begin, end in stretches])] = signal.run(inputs, first)
    return forecast


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
    inside, outside = (
        np.concatenate([(x[rows] - mean) / scale, np.ones((len(rows), 1))], 1)
        for rows in (train_rows, test_rows)
    )
    ridge = 1e-6 * len(inside) * np.eye(inside.shape[1])
    if not chance:
        return product(outside, solve_linear(product(inside.T, inside) + ridge, product(inside.T, y)))
    weights = np.zeros(inside.shape[1])
    for _ in range(12):  # Newton's method
        p = 1 / (1 + np.exp(-np.clip(product(inside, weights), -30, 30)))
        curvature = product((inside * (p * (1 - p))[:, None]).T, inside) + ridge
        weights += solve_linear(curvature, product(inside.T, y - p) - product(ridge, weights))
    return 1 / (1 + np.exp(-np.clip(product(outside, weights), -30, 30)))


def chance_measures(forecast: Array, target: Array, usual: float) -> dict[str, Measure]:
    """The figures of a chance, by name."""
    happened = target > 0.5
    return {
        "AUC": AUC(forecast, happened),
        "log loss": log_loss(forecast, happened),
        "Brier": brier(forecast, happened),
    }


def value_measures(forecast: Array, target: Array, usual: float) -> dict[str, Measure]:
    """The figure of a value, by name."""
    return {"R2": r2(forecast, target, usual)}


def compare(
    forecasts: dict[str, Array], target: Array, usual: float, clusters: Array, measures: Any
) -> dict[str, Any]:
    """Each figure of each forecast, with its interval and its paired difference to the first forecast."""
    draws = Bootstrap(clusters)
    result: dict[str, Any] = {"rows": len(target), "clusters": draws.clusters}
    ours: dict[str, Array] = {}
    for name, forecast in forecasts.items():
        entry = {}
        for figure, measure in measures(forecast, target, usual).items():
            drawn = draws.values(measure)
            entry[figure] = plain(draws.interval(drawn))
            if name == next(iter(forecasts)):
                ours[figure] = drawn
            else:
                entry[f"{figure}, ours less this"] = plain(draws.interval(ours[figure] - drawn))
        result[name] = entry
    return result


def cluster_of(rows: Array, recording: Recording, horizon: int) -> Array:
    """The cluster of each row, (R,): stretches of `CLUSTER_ROWS`, shorter where the data are, never shorter
    than two label horizons."""
    length = min(max((int(rows[-1]) - int(rows[0])) // FEWEST_CLUSTERS, 2 * horizon), CLUSTER_ROWS)
    sequence = np.searchsorted(recording.first, rows, side="right") - 1
    return sequence * 10**9 + (rows - recording.first[sequence]) // max(length, 1)


def figure_sheet(head: str, result: dict[str, Any]) -> Sheet:
    """Figures of each forecast, and the paired difference of the network's first figure to each."""
    names = [name for name in result if name not in ("rows", "clusters")]
    figures = list(result[names[0]])
    columns = {"forecast": names}
    for figure in figures:
        columns[figure] = [Interval(*result[name][figure]).text(".4f") for name in names]
    less = [result[name].get(f"{figures[0]}, ours less this") for name in names]
    columns[f"{figures[0]},\nours less this"] = [Interval(*one).text(".4f") if one else "" for one in less]
    title = f"{head}: test part, {result['rows']:,} rows in {result['clusters']} clusters"
    return Sheet(
        title, columns, ["[95% interval], bootstrap over clusters; more paired differences are on the card."]
    )


def verdict(ours: str, result: dict[str, Any]) -> str:
    """Whether the network beats its best simple rival, in a sentence, which is also noted on the card."""
    figure = next(iter(result[ours]))
    rivals = [name for name in result if name not in ("rows", "clusters", ours, "exact filter")]
    best = max(rivals, key=lambda name: result[name][figure][0])
    more = Interval(*result[best][f"{figure}, ours less this"])
    how = "beats" if more.low > 0 else "loses to" if more.high < 0 else "does not differ significantly from"
    text = f"{figure}: {how} its best rival, {best}: {more.text('+.4f')}"
    result["verdict"] = text
    return text


def write_plots(folder: Path, plots: dict[str, Figure]) -> None:
    """Keep the plots as files and for TensorBoard."""
    writer = SummaryWriter(str(folder))
    for name, figure in plots.items():
        figure.savefig(folder / f"calibration-{name}.png", dpi=120)
        writer.add_figure(f"calibration/{name}", figure)
    writer.close()
