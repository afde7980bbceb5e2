"""`neuralmm calibrate SOURCE`: measure a market, print what was found, and write presets and plots."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from mmenv.checks import ConfigError
from mmenv.data.tape import Tape, tapes
from mmenv.files import replacing
from mmenv.measure import facts_page
from mmenv.measure.calibrate import Calibration, calibrate_market, calibrate_tapes, write
from mmenv.measure.fill_curve import FillCurve
from mmenv.measure.naming import is_recorded, named_market
from mmenv.measure.options import Calibrate
from mmenv.measure.record import MarketLike, Record, record_market, record_tape
from mmenv.sheet import Sheet
from mmenv.venue.settings import ReplayConfig


def main(options: Calibrate) -> None:
    """Run the command."""

    def simulated(market: MarketLike) -> Record:
        return record_market(market, options.environments, options.seconds, options.seed)

    if is_recorded(options.source):
        days = one_symbol(Path(options.source), options.venue, options.symbol)
        config = ReplayConfig(fractions=options.fractions, split=options.split, queue_model=options.queue)
        found = calibrate_tapes(days, options.step_seconds, options.evaluations, config)
        shown = [record_tape(days, options.step_seconds, split=options.split, config=config)]
    else:
        market = named_market(options.source, "the path of a store or tape")
        size = options.environments, options.seconds, options.seed
        found = calibrate_market(market, *size, options.evaluations)
        shown = [simulated(market)]
    write(found, options.output)
    sheet(found).print(Console())
    if "book" in found.presets:
        copy = simulated(found.presets["book"])
        shown.append(dataclasses.replace(copy, name="book, calibrated"))
    page = options.output.with_suffix(".png")
    facts_page.plot(shown, page)
    if found.fills is not None:
        plot_fills(found, found.fills, page.with_stem(f"{page.stem}-fills"))
    for name, reason in found.left_out.items():
        print(f"Not fitted: {name}, for {reason}")
    names = [f"{options.output}:{name}" for name in found.presets]
    if names:
        print(f'Presets: {" and ".join(names)}, as in gym.make("NeuralMM-v0", market="{names[0]}")')
    print(f"Plots: {page}")


def one_symbol(path: Path, venue: str, symbol: str) -> list[Tape]:
    """Open a tape, or those of the one symbol of a store that patterns name; raise `ConfigError` where they
    name several."""
    days = [Tape(path)] if path.is_file() else tapes(path, venue, symbol)
    symbols = {f"{tape.info.venue} {tape.info.symbol}" for tape in days}
    if len(symbols) != 1:
        raise ConfigError(
            f"--venue {venue!r} and --symbol {symbol!r} match {len(symbols)} symbols "
            f"({', '.join(sorted(symbols))}): name one."
        )
    return days


def sheet(found: Calibration) -> Sheet:
    """Show what was measured, with units."""
    rows: list[tuple[str, str, object]] = []
    if found.fills is not None:
        rows += [
            ("fill rate at the mid, A", "1/s", found.fills.rate),
            ("its decay, k", "1/half-tick", found.fills.decay),
            ("fills at the touch, multiple of the exponential", "", found.fills.touch),
            ("fit of the exponential beyond the touch, p-value", "", f"{found.fills.p_value:.3f}"),
        ]
    rows += [(f"volatility over {s} s", "half-ticks/sqrt(s)", e) for s, e in found.volatility.items()]
    if found.hawkes is not None:
        rows += [
            ("baseline intensity of market orders", "1/s", found.hawkes.rate),
            *(("branching ratio", "", branching) for branching in found.hawkes.branching),
            *(("decay of the excitation", "1/s", decay) for decay in found.hawkes.decay),
            ("BIC, one exponential and two", "", "{:.1f}, {:.1f}".format(*found.hawkes.bic)),
            ("likelihood ratio of the two, p-value", "", f"{found.hawkes.ratio_p_value:.3g}"),
            ("fit of the orders' times, p-value", "", f"{found.hawkes.p_value:.3g}"),
            (
                "correlation of neighbouring residuals, p-value",
                "",
                f"{found.hawkes.correlation:.3f}, {found.hawkes.correlation_p_value:.3g}",
            ),
        ]
    if found.size is not None:
        rows.append(("Pareto exponent of order sizes", "", found.size))
    rows += [(name, "", estimate) for name, estimate in found.facts.items()]
    headings = "estimate", "value [95% interval]"
    shown = [(f"{name}, {unit}" if unit else name, str(value)) for name, unit, value in rows]
    return Sheet.of_rows(f"{found.source}: {found.seconds:,.0f} s", headings, shown)


def plot_fills(found: Calibration, fills: FillCurve, path: Path) -> None:
    """Plot fills by distance, with the intervals of Poisson counts, and the exponential through them."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    distance = np.linspace(0, max(fills.distance), 100)
    seen = np.array(fills.per_second)
    error = 1.96 * np.sqrt(seen / (2 * found.seconds))
    down = np.minimum(error, 0.9 * seen)  # a logarithm has no room for none
    axes.errorbar(fills.distance, seen, [down, error], fmt="ko", capsize=2, label="measured, 95%")
    axes.plot(distance, fills.rate.value * np.exp(-fills.decay.value * distance), label="A exp(-k d)")
    axes.set(xlabel="distance from the mid, half-ticks", ylabel="fills per second and side", yscale="log")
    axes.set_title(f"{found.source}, {found.seconds / 60:,.0f} min")
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=110)
