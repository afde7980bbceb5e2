"""Many policies over many stretches of market, in parallel processes; what is done is never done twice."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmenv.backtest.result import Result
from mmenv.backtest.tables import Scale
from mmenv.backtest.unit import TABLES, VERSION, Play, Source, Unit, write_json
from mmenv.checks import ConfigError, require, require_number
from mmenv.config import EnvConfig
from mmenv.data.currency import Rate, common_currency, currency_of, read_rate, split_pair
from mmenv.data.tape import TapeInfo
from mmenv.market.replay import Replay
from mmenv.market.stretch import Stretch, stretches
from mmenv.progress import progress_bar
from mmenv.run.job import Job
from mmenv.run.jobs import run, workers
from mmenv.run.provenance import file_hash, provenance

DAY_SECONDS = 86_400

SEED = 3_000_000_000
"""First seed of simulated days, far from the seeds that training, evaluation and tuning use."""


@dataclass(frozen=True)
class Entrant:
    """A policy with the configuration it plays under; all entrants of a backtest share the market."""

    source: Source
    config: EnvConfig


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a backtest is run. Times are UTC."""

    start: str | None = None
    """First moment of recorded data, such as 2024-08-08T23:55."""
    end: str | None = None
    """Last moment of recorded data."""
    days: float = 1.0
    """Days of a simulated market."""
    seed: int = SEED
    """Seed of its first session."""
    signal: str | None = None
    """Observation that the picture of the policy is drawn against; by default book or flow imbalance."""
    patience: float = 10.0
    """A decision that takes longer, seconds, ends the backtest."""
    jobs: int | None = None
    """Processes; by default one for each processor."""
    ray: str | None = None
    """Address of a Ray cluster to run on instead, see `mmenv.run.jobs.workers`."""
    capital: float | None = None
    """Money that profits are related to; by default the value of a position at its limit."""
    tries: int = 1
    """Configurations that were tried before these were chosen, these included."""
    sensitivity: bool = True
    """On tapes: play each policy again under other latencies and queue models."""
    latencies_ms: tuple[float, ...] = (1.0, 10.0, 50.0)
    """Those latencies, milliseconds."""
    queues: tuple[str, ...] = ("risk-adverse", "power-prob")
    """Those queue models."""
    fees_bp: tuple[float, ...] = (-0.5, 0.0, 2.0)
    """Maker fees that the sheet shows the sensitivity for, basis points."""
    rates: tuple[str, ...] = ()
    """Prices of currencies in one, such as BTC/USDT=61000, or BTC/USDT for that of the store's tapes: profits
    are then counted in that one. Without, results are those of each currency."""
    funding: str | None = None
    """File of funding rates that tapes of perpetual contracts pay, see `mmenv.data.funding`."""
    borrow: float = 0.0
    """What is paid in a year for what was sold short on tapes, part of its value."""
    command: str = ""
    """What is shown on the sheet as the command that made it."""

    def __post_init__(self) -> None:
        require_number(self, "days", 1e-6, 100_000.0)
        require_number(self, "seed", 0, 2**62, integer=True)
        require_number(self, "patience", 1e-3, 1e6)
        require_number(self, "tries", 1, 10**12, integer=True)
        require_number(self, "borrow", 0.0, 100.0)
        if self.jobs is not None:
            require_number(self, "jobs", 1, 1024, integer=True)
        if self.capital is not None:
            require_number(self, "capital", 1e-12, 1e18)
        first, last = moment(self.start, "start"), moment(self.end, "end")
        require(first is None or last is None or first < last, "Settings", "end", self.end, "after start")


def moment(text: str | None, name: str) -> int | None:
    """Read an ISO time, UTC where it names no zone, as nanoseconds since 1970.

    Raises `ConfigError` where it is none, with `name` for the setting.
    """
    if text is None:
        return None
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"Settings.{name} = {text!r} is not possible: it must be a time, such as 2024-08-08 or "
            "2024-08-08T23:55:00."
        ) from None
    when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
    return int(when.timestamp() * 1_000_000) * 1000


def units(entrants: Sequence[Entrant], settings: Settings) -> list[Unit]:
    """Plan every unit of a backtest: first those whose results are shown, then the scenarios.

    Raises `ConfigError` for policies of the same name, or on different markets.
    """
    if not entrants:
        raise ConfigError("no policy is given: name at least one.")
    names = [entrant.source.name for entrant in entrants]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"policies {sorted(twice)} are named twice: give each once, or under another name.")
    markets = {json.dumps(e.config.to_dict()["market"], sort_keys=True) for e in entrants}
    if len(markets) > 1:
        raise ConfigError("the policies' markets differ: compare policies on one market.")
    if isinstance(entrants[0].config.market, Replay):
        return _recorded(entrants, settings)
    return _simulated(entrants, settings)


def _simulated(entrants: Sequence[Entrant], settings: Settings) -> list[Unit]:
    """Days of a simulated market, each of as many sessions as fit into it."""
    found = []
    for entrant in entrants:
        config = entrant.config
        market = config.market
        scale = Scale(price=1 / market.price_scale, lot=1.0, currency="pu", tick=0.0)
        session = config.horizon * market.step_seconds
        total = max(math.ceil(settings.days * DAY_SECONDS / session - 1e-9), 1)
        a_day = max(round(DAY_SECONDS / session), 1)
        for day, first in enumerate(range(0, total, a_day)):
            labels = {"policy": entrant.source.name, "venue": "simulated", "symbol": market.name}
            found.append(
                Unit(
                    source=entrant.source,
                    config=config,
                    scale=scale,
                    labels=labels | {"day": f"day {day + 1}"},
                    first_seed=settings.seed + first,
                    sessions=min(a_day, total - first),
                    signal=settings.signal,
                    patience=settings.patience,
                )
            )
    return found


def _recorded(entrants: Sequence[Entrant], settings: Settings) -> list[Unit]:
    """Tapes, each with its scenarios where sensitivity is asked for."""
    begin, end = moment(settings.start, "start"), moment(settings.end, "end")
    shown, scenarios = [], []
    for entrant in entrants:
        config = entrant.config
        market = config.market
        assert isinstance(market, Replay)
        for info, piece in stretches(market, begin, end):
            piece, played = _own_fee(config, piece, info)
            unit = Unit(
                source=entrant.source,
                config=played,
                scale=tape_scale(info),
                labels={
                    "policy": entrant.source.name,
                    "venue": info.venue,
                    "symbol": info.symbol,
                    "day": info.day,
                },
                signal=settings.signal,
                patience=settings.patience,
                data=file_hash(Path(piece.tape)),
                funding=settings.funding or "",
                borrow=settings.borrow,
            )
            # What is wrong with the file is said before any work is done.
            _ = unit.holding
            shown.append(unit)
            if settings.sensitivity:
                scenarios += _scenarios(unit, piece, settings)
    return [*shown, *scenarios]


def _own_fee(config: EnvConfig, piece: Stretch, info: TapeInfo) -> tuple[Stretch, EnvConfig]:
    """A tape and the configuration on it, with the tape's own fee where the market has those."""
    if piece.own_fees:
        piece = dataclasses.replace(piece, own_fees=False)
        config = dataclasses.replace(config, maker_fee_bp=info.maker_fee_bp)
    return piece, dataclasses.replace(config, market=piece)


def _scenarios(unit: Unit, piece: Stretch, settings: Settings) -> list[Unit]:
    """The same unit under other latencies and queue models."""
    found = []
    for latency in settings.latencies_ms:
        for queue in settings.queues:
            if (latency, queue) == (piece.order_latency_ms, piece.queue_model):
                continue  # the run itself
            market = dataclasses.replace(piece, order_latency_ms=latency, queue_model=queue)
            found.append(
                dataclasses.replace(
                    unit,
                    config=dataclasses.replace(unit.config, market=market),
                    labels=unit.labels | {"latency_ms": latency, "queue": queue},
                    scenario=True,
                )
            )
    return found


def tape_scale(info: TapeInfo) -> Scale:
    """What the integers of a desk on this tape are worth; the currency is read from venue and symbol."""
    tick, lot = float(info.tick_size), float(info.lot_size) * float(info.contract_size)
    currency = currency_of(info.symbol, info.contract, info.venue)
    return Scale(price=tick / 2, lot=lot, currency=currency, tick=tick, inverse=info.contract == "inverse")


def exchange_rates(texts: Sequence[str], planned: Sequence[Unit]) -> list[Rate]:
    """Read the rates that the money of the units is brought into one currency by; before any work is done.

    A pair without a price is worth the mean price of all trades of its tapes in the store that is played.

    Raises `ConfigError` where one cannot be read, is missing, or they lead to several currencies.
    """
    found = []
    for text in texts:
        base, quote, price = read_rate(text)
        source = "given"
        if price is None:
            price, source = _traded_price(base, quote, planned)
        found.append(Rate(base, quote, price, source))
    common_currency([unit.scale.currency for unit in planned], found)
    return found


def _traded_price(base: str, quote: str, planned: Sequence[Unit]) -> tuple[float, str]:
    """The mean price of all trades of a linear pair's tapes, and its name."""
    from mmenv.data.rows import TRADE
    from mmenv.data.tape import tapes

    market = planned[0].config.market
    days = tapes(Path(market.store), "*", "*", "*") if isinstance(market, Replay) else []
    of_pair = [
        tape
        for tape in days
        if split_pair(tape.info.symbol) == (base, quote) and tape.info.contract == "linear"
    ]
    traded = lots = 0.0
    for tape in of_pair:
        for rows in tape.rows():
            some = rows[rows["kind"] == TRADE]
            traded += float((some["price"] * some["size"].astype(float)).sum()) * float(tape.info.tick_size)
            lots += float(some["size"].sum())
    if not lots:
        raise ConfigError(
            f"--rates {base}/{quote} is not possible: the store has no trades of that pair; give its price, "
            f"--rates {base}/{quote}=PRICE."
        )
    return traded / lots, f"mean trade price of {of_pair[0].info.symbol}, {of_pair[0].info.venue}"


def backtest(
    entrants: Sequence[Entrant], folder: Path, settings: Settings | None = None, *, progress: bool = True
) -> Result:
    """Run what is not yet done of a backtest under `folder`, and read its result.

    Interrupted, it continues where it stopped when called again.

    Raises
    ------
    BacktestError
        For a policy that cannot be played.
    ConfigError
        For impossible settings, or a folder that holds another backtest.
    """
    settings = settings or Settings()
    planned = units(entrants, settings)
    rates = exchange_rates(settings.rates, planned)
    money = sorted({unit.scale.currency for unit in planned})
    require(
        settings.capital is None or bool(rates) or len(money) == 1, "Settings", "capital", settings.capital,
        f"left out where profits are in {', '.join(money)}, or --rates given"
    )  # fmt: skip
    _claim(folder, planned)
    _play(planned, folder, settings, progress)
    plan = {
        "version": VERSION,
        "settings": _told(settings),
        "policies": [
            {"name": e.source.name, "key": e.source.key, "config": e.config.to_dict()} for e in entrants
        ],
        "units": [unit.name for unit in planned],
        "rates": [dataclasses.asdict(rate) for rate in rates],
        "provenance": provenance(
            [unit.key for unit in planned],
            settings.seed,
            data=sorted({tape for unit in planned for tape in unit.tapes}),
            command=shlex.split(settings.command)[1:],
        ),
    }
    write_json(folder / "plan.json", plan)
    return Result(folder)


def _told(settings: Settings) -> dict[str, Any]:
    """The settings that a plan keeps; those of funding and borrowing where there is any."""
    left = {"jobs", "ray"} | {name for name in ("funding", "borrow") if not getattr(settings, name)}
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in left}


def _claim(folder: Path, planned: Sequence[Unit]) -> None:
    """Make the folders, or refuse a folder in which something else lies."""
    there = {path.stem for path in (folder / "units").glob("*.json")} - {unit.name for unit in planned}
    if there:
        raise ConfigError(
            f"folder = {str(folder)!r} is not possible: it holds another backtest (such as "
            f"{sorted(there)[0]}); choose another folder, or delete it."
        )
    for name in (*TABLES, "units"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def _play(planned: Sequence[Unit], folder: Path, settings: Settings, progress: bool) -> None:
    """Play the units whose summary is missing, here or in other processes."""
    missing = [unit for unit in planned if not unit.summary_file(folder).exists()]
    jobs = min(settings.jobs or os.cpu_count() or 1, max(len(missing), 1))
    total = sum(unit.decisions for unit in planned)
    done = total - sum(unit.decisions for unit in missing)
    hidden = None if progress else True
    with progress_bar(
        total=total, initial=done, unit=" decisions", unit_scale=True, disable=hidden, leave=False
    ) as bar:
        bar.set_description("backtest")
        if jobs == 1 and settings.ray is None:
            for unit in missing:
                unit.run(folder, bar.update)
            return
        waiting = [Job(unit.name, Play(unit, folder), unit.decisions) for unit in missing]
        with workers(jobs if settings.ray is None else settings.jobs, settings.ray) as pool:
            for _ in run(waiting, pool, lambda told: bar.update(done + sum(told.values()) - bar.n)):
                pass
