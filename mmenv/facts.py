"""Stylised facts of markets, simulated and recorded, side by side: `python -m mmenv.facts MARKET_OR_TAPE`.

Each fact is a statistic with a block-bootstrap interval, an accepted range and a verdict. All is measured at
the desk's decisions, on the book and the trades that a policy sees; one lot rests at the touch on both sides
for the mark-out. Sources of the facts: Cont (2001), "Empirical properties of asset returns"; Lillo and Farmer
(2004) on signs; Cont, Kukanov and Stoikov (2014) on order-flow imbalance; Gould and Bonart (2016) on queue
imbalance. The ranges are those of liquid markets in that literature and of tapes of Binance, August 2024.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from mmenv.config import ConfigError, make_config
from mmenv.desk import Desk
from mmenv.files import replacing
from mmenv.market import MARKETS
from mmenv.quote import to_action

if TYPE_CHECKING:
    from mmenv.data.tape import Tape
    from mmenv.venue.replay import ReplayConfig

FIELDS = ("mid", "spread", "best_bid_lots", "best_ask_lots", "buy_lots", "sell_lots", "ask_fill", "ask_value",
          "bid_fill", "bid_value")  # fmt: skip
"""What is recorded at each decision: prices in half-ticks; our fills since the last one, lots, and their sums
of lots x price."""

BLOCKS = (600.0, 300.0, 120.0, 60.0, 30.0)
"""Lengths of a bootstrap block to choose from, seconds: the longest that gives at least `LEAST_BLOCKS`."""
LEAST_BLOCKS = 10


@dataclass(frozen=True)
class Record:
    """A market as its desk saw it.

    Attributes:
        name: what to call it.
        seconds: time between two decisions.
        blocks: FIELDS by name, each int64 (blocks, decisions in a block), one stretch of time after another.
        scale: half-ticks in the standard deviation of the mid's move between two decisions.
        path: int64 (blocks,), which path or day each is from; of one path they follow each other.
    """

    name: str
    seconds: float
    blocks: dict[str, NDArray[np.int64]]
    scale: float
    path: NDArray[np.int64]

    def lag(self, seconds: float) -> int:
        """Decisions in so many seconds, at least one."""
        return max(round(seconds / self.seconds), 1)

    def returns(self, seconds: float) -> NDArray[np.float64]:
        """Moves of the mid over consecutive intervals, (blocks, intervals), half-ticks."""
        mid = self.blocks["mid"][:, :: self.lag(seconds)]
        return np.diff(mid, axis=1).astype(float)

    def sums(self, values: NDArray[Any], seconds: float) -> NDArray[np.float64]:
        """Sums over the intervals of `returns` of what is recorded for the time up to each decision."""
        lag = self.lag(seconds)
        rest = values[:, 1:]
        count = rest.shape[1] // lag
        return rest[:, : count * lag].reshape(len(rest), count, lag).sum(axis=2).astype(float)

    @property
    def has_book(self) -> bool:
        return bool((self.blocks["spread"] > 0).any())


Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Fact:
    """A statistic: rows of a record, one for each block, and what they say together.

    `combine` gets the rows (possibly some of them repeated, some left out) and is nan where they are too few.
    """

    name: str
    low: float
    high: float
    rows: Callable[[Record], Rows]
    combine: Callable[[Rows], float]
    needs_book: bool = False


@dataclass(frozen=True)
class Finding:
    """A fact of one record: its value, the 95% interval, and whether the value lies in the accepted range."""

    fact: Fact
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """pass; fail: the whole interval is out of range; unclear: only the value is; -: not measurable."""
        if math.isnan(self.value):
            return "-"
        if self.fact.low <= self.value <= self.fact.high:
            return "pass"
        outside = self.low > self.fact.high or self.high < self.fact.low
        return "fail" if outside else "unclear"


def moments(x: NDArray[Any], y: NDArray[Any]) -> Rows:
    """Per block: count, sums of x, y, xx, yy and xy, for `correlation`."""
    x, y = x.astype(float), y.astype(float)
    n = np.full(len(x), float(x.shape[1]))
    return np.stack([n, x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], axis=1)


def correlation(rows: Rows) -> float:
    """Correlation from rows of `moments`."""
    n, x, y, xx, yy, xy = rows.sum(axis=0)
    if n < 10:
        return math.nan
    square = (xx - x * x / n) * (yy - y * y / n)
    return float((xy - x * y / n) / math.sqrt(square)) if square > 0 else math.nan


def lagged(x: NDArray[Any], lag: int) -> Rows:
    """Moments of x and its own value `lag` later; no rows where the blocks are too short."""
    return moments(x[:, :-lag], x[:, lag:]) if x.shape[1] > lag else np.zeros((len(x), 6))


def square(rows: Rows) -> float:
    """Squared correlation from rows of `moments`."""
    return correlation(rows) ** 2


def order_flow(record: Record) -> NDArray[np.float64]:
    """Order-flow imbalance between decisions from the best quotes (Cont, Kukanov and Stoikov 2014), lots.

    (blocks, decisions), zero at the first.
    """
    b = record.blocks
    bid, ask = b["mid"] - b["spread"] // 2, b["mid"] + b["spread"] // 2
    bids, asks = b["best_bid_lots"], b["best_ask_lots"]
    demand = np.where(np.diff(bid) >= 0, bids[:, 1:], 0) - np.where(np.diff(bid) <= 0, bids[:, :-1], 0)
    supply = np.where(np.diff(ask) <= 0, asks[:, 1:], 0) - np.where(np.diff(ask) >= 0, asks[:, :-1], 0)
    return np.pad((demand - supply).astype(float), ((0, 0), (1, 0)))


def imbalance(record: Record) -> NDArray[np.float64]:
    """(bid - ask) / (bid + ask) lots at the touch, (blocks, decisions)."""
    bid, ask = record.blocks["best_bid_lots"], record.blocks["best_ask_lots"]
    return (bid - ask) / np.maximum(bid + ask, 1)


BINS = 200


def ranks(record: Record, seconds: float) -> Rows:
    """Per block: how often the mid rose, and fell, over the horizon, by bin of the imbalance before it.

    Nothing where decisions are further apart than the horizon.
    """
    lag = record.lag(seconds)
    mid, bins = record.blocks["mid"], ((imbalance(record) + 1) / 2 * (BINS - 1)).round().astype(int)
    move = mid[:, lag:] - mid[:, :-lag]
    rows = np.zeros((len(mid), 2 * BINS))
    if seconds < 0.99 * record.seconds:
        return rows
    for row, b, m in zip(rows, bins, move, strict=True):
        before = b[: len(m)]
        row[:BINS] = np.bincount(before[m > 0], minlength=BINS)
        row[BINS:] = np.bincount(before[m < 0], minlength=BINS)
    return rows


def area(rows: Rows) -> float:
    """Area under the curve: the chance that the imbalance before a rise is above that before a fall."""
    total = rows.sum(axis=0)
    up, down = total[:BINS], total[BINS:]
    pairs = up.sum() * down.sum()
    below = np.cumsum(down) - down
    return float((up * (below + down / 2)).sum() / pairs) if pairs > 100 else math.nan


TAIL = 0.05


def hill(rows: Rows) -> float:
    """Hill's tail index of the largest 5% of the absolute values."""
    values = np.sort(np.abs(rows).ravel())[::-1]
    count = int(TAIL * len(values))
    if count < 20 or values[count] <= 0:
        return math.nan
    return float(1 / np.log(values[:count] / values[count]).mean())


SIGN_LAGS = np.unique(np.geomspace(1, 100, 13).round().astype(int))


def signs(record: Record) -> Rows:
    """Moments of the sign of each decision's net market volume with later ones, at `SIGN_LAGS`."""
    sign = np.sign(record.blocks["buy_lots"] - record.blocks["sell_lots"])
    return np.stack([lagged(sign, lag) for lag in SIGN_LAGS], axis=1).reshape(len(sign), -1)


def decay(rows: Rows) -> float:
    """Exponent of a power law through the correlations of the signs, least squares of logarithms."""
    each = rows.reshape(len(rows), len(SIGN_LAGS), 6)
    values = np.array([correlation(each[:, k]) for k in range(len(SIGN_LAGS))])
    good = values > 0.002
    if good.sum() < 5:
        return math.nan
    return float(-np.polyfit(np.log(SIGN_LAGS[good]), np.log(values[good]), 1)[0])


def share(rows: Rows) -> float:
    """Sum of the first column over that of the second."""
    part, whole = rows.sum(axis=0)
    return float(part / whole) if whole >= 20 else math.nan


def narrow(record: Record) -> Rows:
    """Per block: decisions with a spread of one tick; decisions with a book."""
    spread = record.blocks["spread"]
    return np.stack([(spread == 2).sum(1), (spread > 0).sum(1)], axis=1).astype(float)


def markout(record: Record, seconds: float) -> Rows:
    """Per block: what our fills had earned so long after the decision they followed; and the fills.

    In standard deviations of the mid's move between two decisions; at 0 it is the distance quoted.
    """
    b, lag = record.blocks, record.lag(seconds) if seconds > 0 else 0
    mid = b["mid"][:, lag:]
    fills = slice(1, mid.shape[1] + 1)
    mid = mid[:, : b["mid"].shape[1] - 1]
    sold, bought = b["ask_fill"][:, fills], b["bid_fill"][:, fills]
    earned = b["ask_value"][:, fills] - sold * mid + bought * mid - b["bid_value"][:, fills]
    return np.stack([earned.sum(1) / record.scale, (sold + bought).sum(1)], axis=1)


def fill_rate(record: Record) -> Rows:
    """Per block: fills of both sides, and seconds of both."""
    fills = record.blocks["ask_fill"] + record.blocks["bid_fill"]
    return np.stack([fills.sum(1), np.full(len(fills), 2 * fills.shape[1] * record.seconds)], axis=1)


def lasting(record: Record) -> Rows:
    """Moments of absolute 1 s returns with those 5 s and 60 s later."""
    absolute = np.abs(record.returns(1.0))
    return np.concatenate([lagged(absolute, 5), lagged(absolute, 60)], axis=1)


def persistence(rows: Rows) -> float:
    """Correlation at the far lag of `lasting` over that at the near one."""
    near, far = correlation(rows[:, :6]), correlation(rows[:, 6:])
    return far / near if near > 0 else math.nan


FACTS = (
    Fact("returns: correlation of a 10 s return with the next", -0.1, 0.1,
         lambda r: lagged(r.returns(10.0), 1), correlation),
    Fact("returns: correlation of a 1 s return with the one 2 s later", -0.05, 0.05,
         lambda r: lagged(r.returns(1.0), 2), correlation),
    Fact("volatility: correlation of absolute 1 s returns 10 s apart", 0.02, 0.6,
         lambda r: lagged(np.abs(r.returns(1.0)), 10), correlation),
    Fact("volatility: that correlation 60 s apart over 5 s apart", 0.25, 1.0, lasting, persistence),
    Fact("tails: Hill index of 10 s returns", 3.0, 5.0, lambda r: r.returns(10.0), hill),
    Fact("flow: exponent of the decay of the correlation of signs", 0.3, 0.8, signs, decay),
    Fact("flow: R2 of order-flow imbalance and the 10 s return", 0.3, 0.65,
         lambda r: moments(r.sums(order_flow(r), 10.0), r.returns(10.0)), square, needs_book=True),
    Fact("flow: R2 of order-flow imbalance and the next 10 s return", 0.0, 0.02,
         lambda r: moments(r.sums(order_flow(r), 10.0)[:, :-1], r.returns(10.0)[:, 1:]), square,
         needs_book=True),
    Fact("book: AUC of the imbalance for the move in 0.1 s", 0.75, 0.97, lambda r: ranks(r, 0.1), area,
         needs_book=True),
    Fact("book: AUC of the imbalance for the move in 1 s", 0.7, 0.9, lambda r: ranks(r, 1.0), area,
         needs_book=True),
    Fact("book: AUC of the imbalance for the move in 5 s", 0.5, 0.7, lambda r: ranks(r, 5.0), area,
         needs_book=True),
    Fact("book: share of time with a spread of one tick", 0.8, 1.0, narrow, share, needs_book=True),
    Fact("maker: fills of one lot at the touch, per second and side", 0.1, 2.0, fill_rate, share,
         needs_book=True),
    Fact("maker: mark-out at the touch, at once (std of a move)", 0.0, math.inf,
         lambda r: markout(r, 0.0), share, needs_book=True),
    Fact("maker: mark-out at the touch after 1 s (std of a move)", -math.inf, 0.05,
         lambda r: markout(r, 1.0), share, needs_book=True),
    Fact("maker: mark-out at the touch after 5 s (std of a move)", -math.inf, 0.05,
         lambda r: markout(r, 5.0), share, needs_book=True),
)  # fmt: skip


def findings(record: Record, resamples: int = 300, seed: int = 0) -> list[Finding]:
    """Every fact of the record, with a percentile interval from `resamples` resamples of its blocks."""
    found = []
    for fact in FACTS:
        value = low = high = math.nan
        if record.has_book or not fact.needs_book:
            rows = fact.rows(record)
            value = fact.combine(rows)
        if not math.isnan(value) and len(rows) > 1:
            low, high = interval(rows, fact.combine, resamples, seed)
        found.append(Finding(fact, value, low, high))
    return found


def interval(rows: Rows, combine: Callable[[Rows], float], resamples: int, seed: int) -> tuple[float, float]:
    """The 95% interval of `combine` over resampled rows."""
    drawn = np.random.default_rng(seed).integers(len(rows), size=(resamples, len(rows)))
    values = np.array([combine(rows[index]) for index in drawn])
    if np.isnan(values).all():
        return math.nan, math.nan
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def values(record: Record) -> list[float]:
    """Every fact's value in the record, nan where it cannot be measured."""
    return [
        fact.combine(fact.rows(record)) if record.has_book or not fact.needs_book else math.nan
        for fact in FACTS
    ]


# Recording.


def simulate(
    market: str | dict[str, Any], environments: int, seconds: float, seed: int, away: int = 0
) -> Record:
    """`environments` paths of a simulated market, `seconds` long each, one lot on both sides.

    It rests `away` half-ticks from the mid, or at the touch where that is further out.
    """
    rows = simulate_paths(market, seconds, seed, np.full(environments, away))
    name = market if isinstance(market, str) else ":".join(filter(None, map(market.get, ("name", "preset"))))
    return make_record(name, make_config(market).market.step_seconds, list(rows))


def simulate_paths(
    market: str | dict[str, Any], seconds: float, seed: int, away: NDArray[np.int64]
) -> NDArray[np.int64]:
    """FIELDS of each decision of paths of a simulated market, quoted as in `simulate`.

    (paths, FIELDS, decisions); path i has seed `seed` + i and quotes `away`[i].
    """
    environments = len(away)
    steps = round(seconds / make_config(market).market.step_seconds)
    config = make_config(
        market, horizon=steps + 1, risk={"position_limit": 1_000_000, "daily_loss_limit": 1e12}
    )
    desk = Desk(config, environments, autoreset=False)
    desk.seed(range(seed, seed + environments))
    desk.reset()
    distance = away / config.market.price_scale
    action = np.ascontiguousarray(to_action(config.quote, distance, distance))
    rows = np.zeros((len(FIELDS), steps + 1, environments), np.int64)
    name = config.market.name
    for t in tqdm(range(steps + 1), desc=name, unit="decision", leave=False, disable=None):
        before = desk.get("mid")
        if t > 0:
            desk.step(action)
        state = {field: desk.get(field) for field in FIELDS if not field.endswith("value")}
        state["ask_value"] = state["ask_fill"] * before + desk.get("ask_edge")
        state["bid_value"] = state["bid_fill"] * before - desk.get("bid_edge")
        for row, field in zip(rows, FIELDS, strict=True):
            row[t] = state[field]
    return np.moveaxis(rows, 2, 0)


def replay(
    tape: Tape | Sequence[Tape],
    step_seconds: float,
    away: int = 0,
    split: str = "all",
    config: ReplayConfig | None = None,
) -> Record:
    """A recorded tape, or the days of one symbol, or one part of it, decision by decision.

    Quotes as in `simulate`; latency, queue and shares of the split as in `config`.
    """
    from mmenv.venue.replay import EVENT_FIELDS, SECOND, ReplayConfig, ReplayVenue

    interval_ns = round(step_seconds * SECOND)
    found = list(tape) if isinstance(tape, Sequence) else [tape]
    name = tape_name(found[0])
    settings = dataclasses.replace(
        config or ReplayConfig(),
        decision_interval_ns=interval_ns,
        episode_ns=interval_ns,
        split=split,
        position_limit_lots=None,
    )
    paths = []
    with ReplayVenue(found, 1, settings) as venue:
        for span in venue.spans:
            event = dict(zip(EVENT_FIELDS, venue.start(0, span, span.first_ns).tolist(), strict=True))
            rows = []
            total = (span.end_ns - span.first_ns) // interval_ns
            for _ in tqdm(range(total), desc=name, unit="decision", leave=False, disable=None):
                bid, ask = event["best_bid_ticks"], event["best_ask_ticks"]
                rows.append(row_of(event))
                quotes = [max(ask, -((-ask - bid - away) // 2)), 1, min(bid, (ask + bid - away) // 2), 1]
                event = dict(zip(EVENT_FIELDS, venue.advance(np.array([quotes]))[0].tolist(), strict=True))
            paths.append(np.array(rows, np.int64).T)
    return make_record(name, step_seconds, paths)


def row_of(event: dict[str, int]) -> list[int]:
    """FIELDS of an event of a `ReplayVenue`."""
    return [
        event["best_bid_ticks"] + event["best_ask_ticks"],
        2 * (event["best_ask_ticks"] - event["best_bid_ticks"]),
        event["best_bid_lots"],
        event["best_ask_lots"],
        event["buy_lots"],
        event["sell_lots"],
        event["ask_fill_lots"],
        2 * event["ask_fill_notional"],
        event["bid_fill_lots"],
        2 * event["bid_fill_notional"],
    ]


def make_record(name: str, seconds: float, paths: Sequence[NDArray[np.int64]]) -> Record:
    """A record from paths (FIELDS, decisions), cut into blocks of one length; what is left is dropped."""
    counts = {length: [p.shape[1] // round(length / seconds) for p in paths] for length in BLOCKS}
    length = next((length for length, count in counts.items() if sum(count) >= LEAST_BLOCKS), BLOCKS[-1])
    size = round(length / seconds)
    cut = [
        path[:, k * size : (k + 1) * size]
        for path, count in zip(paths, counts[length], strict=True)
        for k in range(count)
    ]
    if not cut:
        raise ConfigError(f"{name} is shorter than {length:g} s; give a longer tape or more --seconds.")
    table = np.stack(cut, axis=1)
    blocks = dict(zip(FIELDS, table, strict=True))
    scale = max(float(np.diff(blocks["mid"], axis=1).std()), 1e-9)
    return Record(name, seconds, blocks, scale, np.repeat(np.arange(len(paths)), counts[length]))


def tape_name(tape: Tape) -> str:
    return f"{tape.info.venue} {tape.info.symbol} {tape.info.day}"


def records(sources: Sequence[str], options: Options) -> Iterator[Record]:
    """The record of each market or tape that `sources` names."""
    for source in sources:
        market, _, preset = source.partition(":")
        if source.startswith("{"):
            yield simulate(json.loads(source), options.environments, options.seconds, options.seed)
        elif market in MARKETS:
            chosen = {"name": market, "preset": preset} if preset else market
            yield simulate(chosen, options.environments, options.seconds, options.seed)
        elif Path(source).exists():
            from mmenv.data.tape import Tape, tapes

            path = Path(source)
            for tape in [Tape(path)] if path.is_file() else tapes(path, symbol=options.symbol):
                yield replay(tape, options.step_seconds)
        else:
            raise SystemExit(
                f"{source!r} is neither a market ({', '.join(MARKETS)}) nor the path of a store or tape."
            )


# Reporting.


def table(all_records: Sequence[Record], all_findings: Sequence[Sequence[Finding]]) -> Table:
    """Facts by row, records by column."""
    result = Table(title="Stylised facts: value, 95% interval, verdict")
    result.add_column("Fact")
    result.add_column("Accepted", justify="right")
    for record in all_records:
        result.add_column(record.name, justify="right")
    colours = {"pass": "green", "fail": "red", "unclear": "yellow", "-": "dim"}
    for row in zip(*all_findings, strict=True):
        fact = row[0].fact
        cells = []
        for finding in row:
            colour = colours[finding.verdict]
            value = "" if math.isnan(finding.value) else f"{finding.value:.3f} "
            span = "" if math.isnan(finding.low) else f"[{finding.low:.3f}, {finding.high:.3f}] "
            cells.append(
                f"{value}[dim]{span.replace('[', chr(92) + '[')}[/dim][{colour}]{finding.verdict}[/]"
            )
        result.add_row(fact.name, accepted(fact), *cells)
    return result


def repeated(options: Options) -> Table:
    """How often each fact holds when each source is simulated `repeats` times, every time with new seeds."""
    result = Table(title=f"Stylised facts: passes of {options.repeats} repeats, mean and range of the values")
    result.add_column("Fact")
    result.add_column("Accepted", justify="right")
    low, high = np.array([(fact.low, fact.high) for fact in FACTS]).T
    cells: list[list[str]] = []
    for source in options.sources:
        result.add_column(source, justify="right")
        found = np.zeros((options.repeats, len(FACTS)))
        for k in range(options.repeats):
            again = dataclasses.replace(
                options, sources=(source,), seed=options.seed + k * options.environments
            )
            found[k] = values(next(records(again.sources, again)))
        passed = (found >= low) & (found <= high) | np.isnan(found)
        cells.append(
            [
                "-" if np.isnan(v).all() else f"{p.sum()}  {v.mean():.3f} ({v.min():.3f} to {v.max():.3f})"
                for p, v in zip(passed.T, found.T, strict=True)
            ]
        )
        cells[-1].append(str(passed.all(axis=1).sum()))
    names = [(fact.name, accepted(fact)) for fact in FACTS]
    for (name, span), row in zip([*names, ("all of them", "")], zip(*cells, strict=True), strict=True):
        result.add_row(name, span, *row)
    return result


def accepted(fact: Fact) -> str:
    """The accepted range in words."""
    if math.isinf(fact.high):
        return f"at least {fact.low:g}"
    return f"at most {fact.high:g}" if math.isinf(fact.low) else f"{fact.low:g} to {fact.high:g}"


def correlations(x: NDArray[Any], lags: NDArray[np.int64]) -> NDArray[np.float64]:
    """Correlation of x (blocks, times) with itself at each lag, nan where the blocks are too short."""
    return np.array([correlation(lagged(x, lag)) for lag in lags])


def plot(all_records: Sequence[Record], path: Path) -> None:
    """A page of plots to `path`; the format is that of its suffix (png, pdf, svg)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 12), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 3)
    (returns, volatility, tails), (sign, flow, touch), (spread, queue, maker) = axes
    lags = np.unique(np.geomspace(1, 120, 25).round().astype(int))
    for number, record in enumerate(all_records):
        style: dict[str, Any] = {"color": f"C{number}", "label": record.name, "linewidth": 1.2}
        b = record.blocks
        steps = np.diff(b["mid"], axis=1)
        returns.plot(lags * record.seconds, correlations(steps, lags), **style)
        volatility.plot(lags, correlations(np.abs(record.returns(1.0)), lags), **style)
        moves = record.returns(10.0)
        size = np.sort(np.abs(moves).ravel() / max(moves.std(), 1e-9))[::-1]
        tails.plot(size, np.arange(1, len(size) + 1) / len(size), **style)
        direction = np.sign(b["buy_lots"] - b["sell_lots"])
        decaying = correlations(direction, lags)
        # Below zero, as on short tapes, there is no logarithm: a gap instead of a plunge.
        sign.plot(lags, np.where(decaying > 0, decaying, np.nan), marker=".", **style)
        if not record.has_book:
            continue
        imbalances = record.sums(order_flow(record), 10.0).ravel()
        order = np.array_split(np.argsort(imbalances), min(20, len(imbalances)))
        flow.plot(
            [imbalances[k].mean() / max(imbalances.std(), 1e-9) for k in order],
            [moves.ravel()[k].mean() / max(moves.std(), 1e-9) for k in order],
            marker=".",
            **style,
        )
        horizons = np.array([0.1, 0.2, 0.5, 1, 2, 5, 10])
        horizons = horizons[horizons >= record.seconds]
        touch.plot(horizons, [area(ranks(record, h)) for h in horizons], marker=".", **style)
        ticks = b["spread"].ravel() // 2
        width, count = np.unique(np.minimum(ticks, 10), return_counts=True)
        spread.plot(width, count / count.sum(), marker=".", **style)
        both = np.concatenate([b["best_bid_lots"].ravel(), b["best_ask_lots"].ravel()])
        queue.hist(both / both.mean(), bins=np.linspace(0, 5, 60), density=True, histtype="step", **style)
        times = np.array([0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
        maker.plot(times, [share(markout(record, t)) for t in times], marker=".", **style)
    z = np.linspace(0.1, 5, 50)
    tails.plot(z, [math.erfc(v / math.sqrt(2)) for v in z], "k:", linewidth=1, label="Gaussian")
    (guide,) = sign.plot(lags, 0.15 * lags**-0.5, "k:", linewidth=1, label="lag^-0.5")
    for axis, title, x, scales in (
        (returns, "Returns of one decision", "lag, s", ("log", "linear")),
        (volatility, "Absolute 1 s returns", "lag, s", ("log", "linear")),
        (tails, "Share of absolute 10 s returns above", "standard deviations", ("log", "log")),
        (sign, "Sign of net market volume", "lag, decisions", ("log", "log")),
        (flow, "10 s return by order-flow imbalance", "standard deviations", ("linear", "linear")),
        (touch, "AUC of book imbalance", "horizon, s", ("log", "linear")),
        (spread, "Share of time by spread", "ticks (10: or more)", ("linear", "log")),
        (queue, "Queue at the touch", "multiple of its mean", ("linear", "linear")),
        (maker, "Mark-out at the touch, std of the mid's move", "after the fill, s", ("symlog", "linear")),
    ):
        axis.set(title=title, xlabel=x, xscale=scales[0], yscale=scales[1])
        axis.grid(alpha=0.3)
    returns.axhline(0, color="k", linewidth=0.5)
    maker.axhline(0, color="k", linewidth=0.5)
    tails.set_ylim(1e-5, 1)
    tails.legend(fontsize=8)
    sign.legend(handles=[guide], fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or None, dpi=110)


@dataclass(frozen=True)
class Options:
    """Measure the stylised facts of markets, simulated and recorded, side by side."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Each a market (`book`, `book:PRESET`, JSON with `name` and parameters), a store or a tape.parquet."""
    seconds: float = 1800.0
    """Length of each simulated path."""
    environments: int = 32
    """Number of simulated paths."""
    seed: int = 0
    """Path i has seed `seed` + i."""
    step_seconds: float = 0.1
    """Time between two decisions on a tape."""
    symbol: str = "*"
    """Which symbols of a store, as a glob pattern."""
    resamples: int = 300
    """Resamples of the bootstrap."""
    repeats: int = 1
    """Above 1: simulate every market so often, with other seeds, and count how often each fact holds."""
    output: Path | None = None
    """Where to draw the plots (.png, .pdf or .svg); none without it."""


def run(options: Options) -> list[tuple[Record, list[Finding]]]:
    """Record every source and find its facts."""
    if not options.sources:
        raise SystemExit(f"Name at least one market ({', '.join(MARKETS)}) or the path of a store or tape.")
    return [(record, findings(record, options.resamples)) for record in records(options.sources, options)]


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    options = tyro.cli(Options, args=args, prog="python -m mmenv.facts")
    if options.repeats > 1:
        if options.output is not None or any(Path(source).exists() for source in options.sources):
            raise SystemExit("--repeats counts simulated markets: give no tape with it, and no --output.")
        Console().print(repeated(options))
        return
    results = run(options)
    Console().print(table([record for record, _ in results], [found for _, found in results]))
    if options.output is not None:
        plot([record for record, _ in results], options.output)
        print(f"Plots: {options.output}")


if __name__ == "__main__":
    main()
