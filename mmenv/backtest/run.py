"""Many policies over many stretches of market, in parallel processes; what is done is never done twice.

A *unit* is one policy on one stretch (a tape, or a day of a simulated market) under one scenario. Its tables
are written first, its summary last and under the name of the hash of all it depends on: where the summary
is, the unit is complete.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mmenv.backtest import tables
from mmenv.backtest.play import Played, Player, Tabulated, play, signal_column
from mmenv.backtest.stretch import Stretch, stretches
from mmenv.backtest.tables import Scale
from mmenv.config import ConfigError, EnvConfig, require, require_number
from mmenv.features import observation_names
from mmenv.files import replacing
from mmenv.jobs import Job, Tell, run, workers
from mmenv.market.replay import Replay
from mmenv.provenance import digest, file_hash, provenance

VERSION = 2
"""Of what is kept; results of another one are not continued."""

DAY_SECONDS = 86_400
SEED = 3_000_000_000
"""Far from the seeds that training, evaluation and tuning use."""

TABLES = ("states", "fills", "orders", "equity")


class Source(Protocol):
    """Where a policy comes from. It is sent to other processes, so it must pickle."""

    @property
    def name(self) -> str:
        """What the policy is called in the results."""

    @property
    def key(self) -> str:
        """Changes whenever the policy would act differently."""

    def make(self, config: EnvConfig) -> Player | Tabulated:
        """The policy for the environments of `config`."""


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
    days: float = 1.0
    """Days of a simulated market."""
    seed: int = SEED
    signal: str | None = None
    """Observation that the picture of the policy is drawn against; by default book or flow imbalance."""
    patience: float = 10.0
    """A decision that takes longer, seconds, ends the backtest."""
    jobs: int | None = None
    """Processes; by default one for each processor."""
    ray: str | None = None
    """Address of a Ray cluster to run on instead, see `mmenv.jobs.workers`."""
    capital: float | None = None
    """What profits are related to, money; by default the value of a position at its limit."""
    tries: int = 1
    """Configurations that were tried before these were chosen, these included."""
    sensitivity: bool = True
    """On tapes: play each policy again under other latencies and queue models."""
    latencies_ms: tuple[float, ...] = (1.0, 10.0, 50.0)
    queues: tuple[str, ...] = ("risk-adverse", "power-prob")
    fees_bp: tuple[float, ...] = (-0.5, 0.0, 2.0)
    command: str = ""
    """Shown on the sheet."""

    def __post_init__(self) -> None:
        require_number(self, "days", 1e-6, 100_000.0)
        require_number(self, "seed", 0, 2**62, integer=True)
        require_number(self, "patience", 1e-3, 1e6)
        require_number(self, "tries", 1, 10**12, integer=True)
        if self.jobs is not None:
            require_number(self, "jobs", 1, 1024, integer=True)
        if self.capital is not None:
            require_number(self, "capital", 1e-12, 1e18)
        first, last = moment(self.start, "start"), moment(self.end, "end")
        require(first is None or last is None or first < last, "Settings", "end", self.end, "after start")


def moment(text: str | None, name: str) -> int | None:
    """An ISO time (UTC where it names no zone) as nanoseconds since 1970."""
    if text is None:
        return None
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{name} = {text!r} is not a time: write it as 2024-08-08 or 2024-08-08T23:55:00."
        ) from None
    when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
    return int(when.timestamp() * 1_000_000) * 1000


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One policy on one stretch of market under one scenario."""

    source: Source
    config: EnvConfig
    scale: Scale
    labels: dict[str, Any] = field(hash=False)
    """policy, venue, symbol, day; for a scenario its latency and queue model."""
    first_seed: int = 0
    sessions: int = 1
    signal: str | None = None
    patience: float = 10.0
    scenario: bool = False
    """Only a total is kept."""
    data: str = ""
    """What the market's data are; changes when they do."""

    @property
    def _told(self) -> dict[str, Any]:
        """Everything the outcome depends on."""
        return {
            "version": VERSION,
            "policy": [self.source.name, self.source.key],
            "config": self.config.to_dict(),
            "labels": self.labels,
            "seeds": [self.first_seed, self.sessions],
            "signal": self.signal,
            "scenario": self.scenario,
            "data": self.data,
        }

    @property
    def key(self) -> str:
        """Hash of everything the outcome depends on."""
        return digest(self._told)

    def provenance(self) -> dict[str, Any]:
        """See `mmenv.provenance`."""
        return provenance(self._told, self.first_seed, data=self.tapes)

    @property
    def tapes(self) -> list[str]:
        """The files it reads."""
        market = self.config.market
        return [market.tape] if isinstance(market, Stretch) else []

    @property
    def name(self) -> str:
        """Of its files."""
        words = re.sub(r"[^A-Za-z0-9.=_-]+", "_", "~".join(str(word) for word in self.labels.values()))
        return f"{words[:150]}~{self.key}"

    @property
    def decisions(self) -> int:
        """How many it makes, if the data do not end before."""
        market = self.config.market
        if isinstance(market, Stretch):
            return int((market.end_ns - market.start_ns) // round(market.step_seconds * 1e9))
        return self.sessions * self.config.horizon

    def run(self, folder: Path, progress: Callable[[int], Any]) -> None:
        """Play it and write what came of it under `folder`."""
        policy = self.source.make(self.config)
        played = play(
            policy,
            self.source.name,
            self.config,
            seeds=range(self.first_seed, self.first_seed + self.sessions),
            signal_name=self.signal,
            patience=self.patience,
            progress=progress,
        )
        origin = self.provenance()
        summary = self._summary(played, origin)
        if not self.scenario:
            orders = tables.orders_of(played, self.config, self.scale)
            summary["counts"] = tables.counts_of(played, self.config, orders)
            written = {
                "states": tables.states_of(played, self.scale),
                "fills": tables.fills_of(played, self.config, self.scale),
                "orders": orders,
                "equity": tables.equity_of(played, self.config, self.scale),
            }
            for name, table in written.items():
                write_parquet(folder / name / f"{self.name}.parquet", table, origin)
        write_json(folder / "units" / f"{self.name}.json", summary)

    def _summary(self, played: Played, origin: dict[str, Any]) -> dict[str, Any]:
        equity = tables.equity_of(played, self.config, self.scale)
        rows = played.rows
        market = self.config.market
        ended = isinstance(market, Stretch) and len(rows) < self.decisions
        return {
            "key": self.key,
            "provenance": origin,
            "labels": self.labels,
            "scale": dataclasses.asdict(self.scale),
            "step_seconds": market.step_seconds,
            "price_scale": market.price_scale,
            "position_limit": self.config.risk.position_limit,
            "horizon": self.config.horizon,
            "maker_fee_bp": self.config.maker_fee_bp,
            "first_ns": int(rows["time_ns"][0]) if len(rows) else 0,
            "last_ns": int(equity["time_ns"][-1]) if len(rows) else 0,
            "first_mid": float(rows["mid"][0] * self.scale.price) if len(rows) else math.nan,
            "totals": {
                name: float(equity[name][-1]) if len(rows) else 0.0
                for name in ("profit", "spread_capture", "adverse_selection", "carry", "fees", "turnover")
            },
            "fills": int((rows["bid_fill"] > 0).sum() + (rows["ask_fill"] > 0).sum()),
            "halted": int((rows["risk_state"] != 0).sum()),
            "ended_early": bool(ended),
            "paths": int(played.path[-1]) + 1 if len(rows) else 0,
            "gaps": tables.gaps_of(played, self.config),
            "signal": observation_names(self.config)[signal_column(self.config, self.signal)],
            "clock": dataclasses.asdict(played.clock),
        }


def units(entrants: Sequence[Entrant], settings: Settings) -> list[Unit]:
    """Every unit of a backtest, those whose results are shown first, then the scenarios.

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
    begin, end = moment(settings.start, "start"), moment(settings.end, "end")
    shown, scenarios = [], []
    for entrant in entrants:
        config = entrant.config
        market = config.market
        assert isinstance(market, Replay)
        for info, piece in stretches(market, begin, end):
            tick, lot = float(info.tick_size), float(info.lot_size) * float(info.contract_size)
            inverse = info.contract == "inverse"
            currency = _coin(info.symbol) if inverse else _currency(info.symbol)
            scale = Scale(price=tick / 2, lot=lot, currency=currency, tick=tick, inverse=inverse)
            unit = Unit(
                source=entrant.source,
                config=dataclasses.replace(config, market=piece),
                scale=scale,
                labels={
                    "policy": entrant.source.name,
                    "venue": info.venue,
                    "symbol": info.symbol,
                    "day": info.day,
                },
                signal=settings.signal,
                patience=settings.patience,
                data=file_hash(Path(piece.tape)),
            )
            shown.append(unit)
            if settings.sensitivity:
                scenarios += _scenarios(unit, piece, settings)
    return [*shown, *scenarios]


def _scenarios(unit: Unit, piece: Stretch, settings: Settings) -> list[Unit]:
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


def _coin(symbol: str) -> str:
    """What an inverse contract is margined in: BTC of BTCUSD_PERP."""
    return symbol.split("_")[0].removesuffix("USD") or "coin"


def _currency(symbol: str) -> str:
    for name in ("USDT", "USDC", "BUSD", "FDUSD", "USD", "EUR", "BTC"):
        if symbol.split("_")[0].endswith(name):
            return name
    return "quote currency"


def backtest(
    entrants: Sequence[Entrant], folder: Path, settings: Settings | None = None, *, progress: bool = True
) -> Any:
    """Run what is not yet done of a backtest under `folder`; its `mmenv.backtest.Result`.

    Raises `BacktestError` for a policy that cannot be played, `ConfigError` for impossible settings or a
    folder that holds another backtest. Interrupted, it continues where it stopped when called again.
    """
    from mmenv.backtest.result import Result

    settings = settings or Settings()
    planned = units(entrants, settings)
    _claim(folder, planned)
    missing = [u for u in planned if not (folder / "units" / f"{u.name}.json").exists()]
    jobs = min(settings.jobs or os.cpu_count() or 1, max(len(missing), 1))
    total = sum(unit.decisions for unit in planned)
    done = total - sum(unit.decisions for unit in missing)
    hidden = None if progress else True
    with tqdm(
        total=total, initial=done, unit=" decisions", unit_scale=True, disable=hidden, leave=False
    ) as bar:
        bar.set_description("backtest")
        if jobs == 1 and settings.ray is None:
            for unit in missing:
                unit.run(folder, bar.update)
        else:
            planned_jobs = [Job(unit.name, Play(unit, folder), unit.decisions) for unit in missing]
            with workers(jobs if settings.ray is None else settings.jobs, settings.ray) as pool:
                for _ in run(planned_jobs, pool, lambda told: bar.update(done + sum(told.values()) - bar.n)):
                    pass
    plan = {
        "version": VERSION,
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("jobs", "ray")},
        "policies": [
            {"name": e.source.name, "key": e.source.key, "config": e.config.to_dict()} for e in entrants
        ],
        "units": [unit.name for unit in planned],
        "provenance": provenance(
            [unit.key for unit in planned],
            settings.seed,
            data=sorted({tape for unit in planned for tape in unit.tapes}),
            command=shlex.split(settings.command)[1:],
        ),
    }
    write_json(folder / "plan.json", plan)
    return Result(folder)


def _claim(folder: Path, planned: Sequence[Unit]) -> None:
    """Make the folders, or refuse a folder in which something else lies."""
    names = {unit.name for unit in planned}
    there = {path.stem for path in (folder / "units").glob("*.json")}
    if there - names:
        raise ConfigError(
            f"{folder} holds another backtest (such as {sorted(there - names)[0]}): choose another folder, "
            "or delete it."
        )
    for name in (*TABLES, "units"):
        (folder / name).mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Play:
    """The job of playing a unit."""

    unit: Unit
    folder: Path

    def __call__(self, tell: Tell) -> None:
        done = 0

        def played(decisions: int) -> None:
            nonlocal done
            done += decisions
            tell(done)

        self.unit.run(self.folder, played)


def write_parquet(path: Path, table: tables.Table, origin: dict[str, Any]) -> None:
    """Write `table` whole or not at all, with where it comes from as metadata `provenance`."""
    found = pa.table(table).replace_schema_metadata({"provenance": json.dumps(origin)})
    with replacing(path) as temporary:
        pq.write_table(found, temporary, compression="zstd")


def write_json(path: Path, content: Any) -> None:
    """Write `content` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
