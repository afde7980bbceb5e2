"""The tear sheet as a page: words, figures and pictures in one file."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from mmenv.backtest.result import TITLES, Result, Run
from mmenv.files import replacing
from mmenv.measure.intervals import FEWEST_BLOCKS, FEWEST_EVENTS, RATIO_SECONDS, Estimate
from mmenv.report import comparison, portrait, words
from mmenv.report.caveats import Caveat, caveats
from mmenv.report.plot import Figure, colour
from mmenv.report.sensitivity import sensitivity
from mmenv.report.story import story
from mmenv.run.provenance import in_words

GROUPS: dict[str, tuple[str, ...]] = {
    "Profit and where it came from": (
        "profit", "total_return", "spread_capture", "adverse_selection", "carry", "fees", "funding",
        "profit_bp", "captured_bp",
    ),
    "Risk": (
        "sharpe", "sharpe_annual", "sortino", "deflated_sharpe", "max_drawdown", "max_drawdown_fraction",
        "value_at_risk", "expected_shortfall", "active", "reducing", "halted",
    ),
    "Trading": (
        "fills", "trips", "win_rate", "trip_seconds", "turnover", "fill_ratio", "quoted_both", "no_bid",
        "no_ask", "touch_bid", "touch_ask", "touch_both", "participation",
    ),
    "Inventory": ("mean_inventory", "half_life", "profit_to_inventory"),
}  # fmt: skip
"""Rows of the table of figures, by group."""

Picture = Callable[[Result, Run], Figure]

PORTRAIT: tuple[tuple[str, str, str, Picture], ...] = (
    (
        "waterfall",
        "From spread to profit",
        "Spread capture is what fills earned against the mid at the decision; adverse selection and carry "
        "are what the mid then did to lots just filled and to lots held before. Less fees, with funding "
        "where it is counted, they sum to the profit exactly.",
        portrait.waterfall,
    ),
    (
        "attribution",
        "The same over time",
        "A sound market maker captures the spread steadily (green) and gives less of it back to adverse "
        "selection (red). Where carry (grey) decides the profit, it came from holding positions.",
        portrait.attribution,
    ),
    (
        "inventory",
        "Inventory",
        "Positions should revert to zero. Much time at the limits means that the limit, not the policy, "
        "controlled the risk.",
        portrait.inventory,
    ),
    (
        "markouts",
        "Mark-out",
        "Where the mid stood some time after a fill, from the maker's side, per money traded, with 95% "
        "bands. It starts near half the spread; where it falls below zero the fill should not have been "
        "made. Second panel: thirds of the fills by the volatility of the minute before.",
        portrait.markouts,
    ),
    (
        "price",
        "Fills over the price",
        "The whole run, up to 3,000 fills. Drag to zoom, double-click to go back.",
        portrait.price,
    ),
    (
        "close_up",
        "Quotes and fills, decision by decision",
        "The stretch with the most fills. Where a side is not quoted, no line is drawn, and a bar above the "
        "asks or below the bids says so.",
        portrait.close_up,
    ),
    (
        "picture",
        "The policy as a picture",
        "Mean half-spread and skew where it quoted both sides, by position and signal, in price units (pu), "
        "and how often it quoted no ask or no bid. Grey is where it never was. A positive skew moves both "
        "quotes up.",
        portrait.picture,
    ),
    (
        "sensitivity",
        "Sensitivity",
        "Profit in basis points of turnover with its 95% interval and the number of fills, under other "
        "latencies and queue models; every cell is a run of its own, fees are applied to its fills. A result "
        "that changes sign here is a result of the simulator.",
        sensitivity,
    ),
)

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Content security policy: the browser may load nothing but what is in the file."""

SCRIPT = """
const NARROW = 520, TOOLBAR = 34;
function merged(base, over) {
  const found = {...base};
  for (const [name, value] of Object.entries(over || {})) {
    const inner = value && typeof value === 'object' && !Array.isArray(value);
    found[name] = inner ? merged(found[name], value) : value;
  }
  return found;
}
async function draw(source) {
  const figure = JSON.parse(source.textContent);
  const target = document.getElementById(source.dataset.figure);
  const other = target.clientWidth < NARROW && figure.narrow || {};
  const layout = merged(figure.layout, other.layout);
  const data = figure.data.map((trace, k) => merged(trace, other.data && other.data[k]));
  target.style.height = layout.height + 'px';
  await Plotly.newPlot(target, data, layout,
    {responsive: true, displaylogo: false, displayModeBar: 'hover',
     modeBarButtonsToRemove: ['lasso2d', 'select2d']});
  const legend = target.querySelector('.legend');
  if (!legend) return;
  // The legend stands above the picture, and the toolbar above the legend.
  const high = Math.ceil(legend.getBoundingClientRect().height);
  target.style.height = layout.height + high + 'px';
  await Plotly.relayout(target, {'margin.t': TOOLBAR + high, height: layout.height + high});
}
Promise.all([...document.querySelectorAll('script[data-figure]')].map(draw)).then(() => {
  for (const box of document.querySelectorAll('.scroll'))
    box.parentNode.classList.toggle('wider', box.scrollWidth > box.clientWidth + 1);
  document.body.dataset.drawn = document.querySelectorAll('.plot .main-svg').length;
});
"""


def write_report(result: Result, path: Path) -> None:
    """Write the tear sheet of `result` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(page(result), encoding="utf-8")


def page(result: Result) -> str:
    """Lay out the tear sheet as HTML; nothing in it is loaded from elsewhere."""
    pictures: dict[str, Figure] = {}
    body = "".join(
        [
            _header(result),
            '<section class="card story">',
            *(f"<p>{html.escape(text)}</p>" for text in story(result)),
            "</section>",
            _doubts(list(caveats(result))),
            "<h2>Equity and drawdown</h2>",
            _card(pictures, "equity", "", "", comparison.equity(result)),
            "<h2>Figures</h2>",
            _table(result),
            "<h2>Days and intervals</h2>",
            '<div class="row">',
            _card(
                pictures,
                "calendar",
                "Calendar",
                f"Profit of each day, {html.escape(result.currency)}.",
                comparison.calendar(result),
            ),
            _card(
                pictures,
                "distribution",
                "Distribution of profits",
                f"Intervals of {words.duration(result.interval)}; dotted: the value at risk, 95%.",
                comparison.distribution(result),
            ),
            "</div>",
            *_policies(result, pictures),
            _configuration(result),
        ]
    )
    scripts = "".join(
        f'<script type="application/json" data-figure="{name}">{embedded(figure)}</script>'
        for name, figure in pictures.items()
    )
    return static_page(
        f"Backtest of {', '.join(result.runs)}",
        body,
        f"{scripts}<script>{plotly()}</script><script>{SCRIPT}</script>",
    )


def static_page(title: str, body: str, scripts: str = "") -> str:
    """A page in one file, in the style of the tear sheet; `body` and `scripts` are HTML."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{style}</style></head>'
        f"<body><main>{body}</main>{scripts}</body></html>\n"
    )


def plotly() -> str:
    """Source of plotly.js."""
    from plotly.offline import get_plotlyjs  # here, because its import takes a second

    return str(get_plotlyjs())


def embedded(content: Any) -> str:
    """Write JSON that cannot end the script element it stands in."""
    return orjson.dumps(content).decode().replace("</", "<\\/")


def _header(result: Result) -> str:
    """Say what was played by whom, and when."""
    run = result.first
    symbols = sorted({unit["labels"]["symbol"] for unit in run.units})
    if result.recorded:
        first, last = min(u["first_ns"] for u in run.units), max(u["last_ns"] for u in run.units)
        span = f"recorded, {words.stamp(first)} to {words.stamp(last)} UTC"
    else:
        span = f"simulated, {words.duration(run.counts['decisions'] * run.units[0]['step_seconds'])}"
    step = run.units[0]["step_seconds"]
    names = " · ".join(
        f'{_swatch(result, r)}<span class="name">{html.escape(r.name)}</span>' for r in result.runs.values()
    )
    return (
        f"<header><h1>Backtest on {html.escape(', '.join(symbols))}</h1><p>{names}</p>"
        f"<p>{html.escape(span)} · a decision every {words.duration(step)} · {run.counts['decisions']:,} "
        f"decisions · money in {html.escape(result.currency)}</p></header><h2>In short</h2>"
    )


def _doubts(found: list[Caveat]) -> str:
    """Name the reasons not to believe the figures in one line; what each of them is unfolds."""
    if not found:
        return ""
    count = f"{len(found)} reason{'s' if len(found) > 1 else ''} not to believe this too soon"
    titles = html.escape("; ".join(one.title for one in found))
    told = "".join(f"<p><b>{html.escape(one.title)}.</b> {html.escape(one.text)}</p>" for one in found)
    return f'<details class="warning"><summary><b>{count}</b> <span>{titles}</span></summary>{told}</details>'


def _swatch(result: Result, run: Run) -> str:
    """Show the colour of a policy."""
    return f'<span class="swatch" style="background:{colour(result, run)}"></span>'


def _card(pictures: dict[str, Figure], name: str, title: str, text: str, figure: Figure) -> str:
    """Make place for a figure, and add it to `pictures`."""
    pictures[name] = figure
    head = f"<h3>{title}</h3>" if title else ""
    note = f"<p>{text}</p>" if text else ""
    height = figure["layout"]["height"]
    return (
        f'<div class="card">{head}{note}<div class="plot" id="{name}" style="height:{height}px"></div></div>'
    )


def _policies(result: Result, pictures: dict[str, Figure]) -> list[str]:
    """Show each picture of every policy, side by side."""
    parts = []
    for name, title, text, picture in PORTRAIT:
        if name == "sensitivity" and not result.scenarios:
            continue
        parts.append(f'<h2>{title}</h2><p class="note">{text}</p><div class="row">')
        for number, run in enumerate(result.runs.values()):
            if not len(run.fills) and name in ("markouts", "waterfall"):
                parts.append(
                    f'<div class="card"><h3>{html.escape(run.name)}</h3><p>No fill, so nothing to '
                    "show.</p></div>"
                )
                continue
            label = f"{_swatch(result, run)}{html.escape(run.name)}"
            parts.append(_card(pictures, f"{name}-{number}", label, "", picture(result, run)))
        parts.append("</div>")
    return parts


def _table(result: Result) -> str:
    """Tabulate all figures of all policies, and the differences to the first."""
    names = list(result.runs)
    differences = {name: result.difference(name) for name in names[1:]}
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    heads += "".join(
        f"<th>{html.escape(name)} {chr(8722)} {html.escape(names[0])}</th>" for name in names[1:]
    )
    rows = []
    for group, figures in GROUPS.items():
        rows.append(f'<tr class="group"><td colspan="{2 + 2 * len(names)}">{group}</td></tr>')
        for figure in figures:
            if figure not in result.figures[result.first.name]:
                continue
            title, unit, meaning = TITLES[figure]
            cells = [_cell(result.figures[name][figure], unit) for name in names]
            cells += [_cell(differences[name].get(figure), unit) for name in names[1:]]
            shown = unit.replace("money", result.currency)
            label = html.escape(title) + (f" <small>{html.escape(shown)}</small>" if shown else "")
            rows.append(
                f'<tr><td>{label}</td>{"".join(cells)}<td class="meaning">{html.escape(meaning)}</td></tr>'
            )
    rates = "".join(f"Rates: {html.escape(str(rate))}. " for rate in result.rates)
    note = (
        f"Intervals: 95%, 1,000 resamples in blocks of {words.duration(result.interval)} or more (of round "
        "trips for the win rate), by the rule of Politis and White; too short: fewer than "
        f"{FEWEST_BLOCKS} blocks or {FEWEST_EVENTS} intervals in which anything happened, or for Sharpe and "
        f"Sortino ratios less than {words.duration(RATIO_SECONDS)}. Sampled figures use intervals of "
        f"{words.duration(result.interval)}; annualised ones assume trading around the clock. Returns relate "
        "to a capital of "
        f"{words.number(result.capital)} {html.escape(result.currency)}. Trials (configurations tried): "
        f"{result.tries}. {rates}Differences are paired: the same resampled intervals for both."
    )
    return (
        f'<div class="card"><p>{note}</p><p class="hint">The table is wider than this window: scroll it '
        'sideways.</p><div class="scroll" tabindex="0"><table '
        f'id="figures"><thead><tr><th></th>{heads}<th></th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _cell(estimate: Estimate | None, unit: str) -> str:
    """Write a cell of the table, its interval small."""
    if estimate is None:
        return "<td></td>"
    if math.isnan(estimate.low):
        return f"<td>{words.show(estimate, unit)}</td>"
    value, interval = words.show(estimate, unit).split(" ", 1)
    return f"<td>{value} <small>{interval}</small></td>"


def _configuration(result: Result) -> str:
    """Say how the result was made, with everything that was chosen."""
    settings = result.settings
    command = settings["command"] or "mmenv.backtest.backtest(...)"
    shown = {"settings": settings, "policies": result.plan["policies"]}
    text = orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode()
    return (
        '<h2>How it was made</h2><div class="card"><p>The command, without where it ran and wrote; the same '
        "one continues an interrupted run and writes the same figures again.</p>"
        f'<pre id="command">{html.escape(command)}</pre>'
        f"<p>{html.escape(in_words(result.plan['provenance']))}</p></div>"
        "<div "
        f'class="card"><details><summary>Configuration</summary><pre>{html.escape(text)}</pre></details></div>'
    )
