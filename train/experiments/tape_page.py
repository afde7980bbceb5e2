"""The report of `train.experiments.tape` as one HTML page: facts, training, and the test cell by cell."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mmenv.backtest import Result
from mmenv.files import replacing
from mmenv.measure.intervals import Estimate
from mmenv.report.page import static_page
from mmenv.report.words import duration, show


@dataclass(frozen=True)
class Gate:
    """A fact of the tape's training part beside the calibrated market's."""

    name: str
    tape: Estimate
    simulated: Estimate

    @property
    def agrees(self) -> bool:
        """Whether the two 95% intervals overlap."""
        return self.simulated.low <= self.tape.high and self.tape.low <= self.simulated.high


@dataclass(frozen=True)
class Cell:
    """The test part played under one latency and queue model."""

    latency_ms: float
    queue: str
    result: Result


def write_page(folder: Path, facts: Sequence[Gate], rule: str, cells: Sequence[Cell]) -> None:
    """Write report.html, whole or not at all."""
    first = cells[0].result
    unit = first.first.units[0]
    title = f"From simulation to the tape: {unit['labels']['venue']} {unit['labels']['symbol']}"
    differ = [each for each in facts if not each.agrees]
    body = [
        f"<header><h1>{html.escape(title)}</h1><p>a decision every {duration(unit['step_seconds'])} · "
        f"{duration(first.first.seconds)} of test</p></header>",
        '<section class="card story">',
        f"<p>{html.escape(in_short(cells))}</p>",
        "<p>Market, policy and rule were chosen on the training part alone and on markets calibrated to it. "
        f"Configurations tried: {first.tries}. So little data prove no profit and no loss.</p></section>",
    ]
    if differ:
        names = "; ".join(each.name for each in differ)
        body.append(
            f'<div class="warning"><b>The simulated market differs from the tape in {len(differ)} of '
            f"{len(facts)} facts</b>{html.escape(names)}</div>"
        )
    body += ["<h2>The test part</h2>", cells_table(cells)]
    body += [
        f'<p class="note">{html.escape(rule or "No imbalance rule")} is the best in the calibrated market. '
        '<a href="tear-sheet.html">The tear sheet</a> shows the first row in full.</p>',
        "<h2>Facts: tape and calibrated market</h2>",
        facts_table(facts),
        "<h2>Training, in the calibrated market</h2>",
        f'<div class="card"><img alt="learning curve" src="data:image/png;base64,{curve(folder)}"></div>',
    ]
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(static_page(title, "".join(body)), encoding="utf-8")


def in_short(cells: Sequence[Cell]) -> str:
    """In how many cells the trained policy is better or worse than each rival, clear of chance."""
    parts = []
    for name in list(cells[0].result.runs)[1:]:
        found = [cell.result.difference(name)["profit"] for cell in cells]  # the rival less the trained one
        better, worse = (sum(x) for x in zip(*[(e.high < 0, e.low > 0) for e in found], strict=True))
        parts.append(f"better than {name} in {better} and worse in {worse}")
    return (
        f"Of {len(cells)} pairs of latency and queue model, with a 95% interval clear of 0, the trained "
        f"policy is {'; '.join(parts)}."
    )


HEADINGS = ("latency, queue", "policy", "fills", "profit", "trained less it")


def rows(cell: Cell) -> list[tuple[str, ...]]:
    """What `HEADINGS` name, of every policy in a cell; the trained one comes first."""
    found: list[tuple[str, ...]] = []
    where = f"{cell.latency_ms:g} ms, {cell.queue}"
    for name, figures in cell.result.figures.items():
        less = ""
        if name != cell.result.first.name:
            value, low, high = cell.result.difference(name)["profit"]
            less = show(Estimate(-value, -high, -low), "money")
        found.append((where, name, f"{figures['fills'].value:.0f}", show(figures["profit"], "money"), less))
        where = ""
    return found


def cells_table(cells: Sequence[Cell]) -> str:
    """A row for each policy under each latency and queue model."""
    currency = html.escape(cells[0].result.currency)
    heads = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>"
        for cell in cells
        for row in rows(cell)
    )
    return (
        f'<div class="card"><p>Profit in {currency}; 95% intervals by blocks of tape time, paired.</p>'
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></div>'
    )


def facts_table(facts: Sequence[Gate]) -> str:
    """The gate, fact by fact."""
    rows = "".join(
        f"<tr><td>{html.escape(f.name)}</td><td>{show(f.tape, '')}</td><td>{show(f.simulated, '')}</td>"
        f"<td>{'agrees' if f.agrees else '<b>differs</b>'}</td></tr>"
        for f in facts
    )
    return (
        '<div class="card"><p>Agrees: the two 95% intervals overlap.</p><div class="scroll"><table>'
        "<thead><tr><th>fact</th><th>tape, training part</th><th>calibrated market</th><th></th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></div>"
    )


def curve(folder: Path) -> str:
    """Value against steps of training, as a PNG in base64."""
    with np.load(folder / "trained" / "evaluations.npz") as file:
        steps, results = file["timesteps"], file["results"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    mean, error = results.mean(axis=1), 1.96 * results.std(axis=1) / results.shape[1] ** 0.5
    axes.plot(steps / 1e6, mean, color="tab:blue")
    axes.fill_between(steps / 1e6, mean - error, mean + error, alpha=0.2, color="tab:blue")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="million decisions", ylabel="value, price units x lots")
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=110)
        return base64.b64encode(file.getvalue()).decode()
