"""One policy on one stretch of market: playing it, and what it leaves behind.

The tables of a unit are written first, its summary last and under the name of the hash of all it depends on:
where the summary is, the unit is complete.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from mmenv.backtest import tables
from mmenv.backtest.orders import columns_of, orders_of
from mmenv.backtest.play import Played, Player, Tabulated, play, signal_column
from mmenv.backtest.tables import FUNDING, SUMS, Scale
from mmenv.config import EnvConfig
from mmenv.data.funding import read_funding
from mmenv.files import replacing
from mmenv.market.stretch import Stretch
from mmenv.observation import observation_names
from mmenv.run.job import Tell
from mmenv.run.provenance import digest, file_hash, provenance

VERSION = 3
"""Version of what is kept; results of another one are not continued."""

TABLES = ("states", "fills", "orders", "equity")
"""Folders of the tables, beside "units" for the summaries."""


class Source(Protocol):
    """Where a policy comes from. It is sent to other processes, so it must pickle."""

    @property
    def name(self) -> str:
        """What the policy is called in the results."""

    @property
    def key(self) -> str:
        """A text that changes whenever the policy would act differently."""

    def make(self, config: EnvConfig) -> Player | Tabulated:
        """Make the policy for the environments of `config`."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One policy on one stretch of market, a tape or a day of a simulated market, under one scenario."""

    source: Source
    config: EnvConfig
    scale: Scale
    labels: dict[str, Any] = field(hash=False)
    """Policy, venue, symbol and day; for a scenario its latency and queue model too."""
    first_seed: int = 0
    sessions: int = 1
    signal: str | None = None
    patience: float = 10.0
    scenario: bool = False
    """Whether only totals and their course are kept."""
    data: str = ""
    """What the market's data are; changes when they do."""
    funding: str = ""
    """File of funding rates, if they are counted."""
    borrow: float = 0.0
    """What is paid in a year for what was sold short, part of its value."""

    @property
    def _told(self) -> dict[str, Any]:
        """Everything the outcome depends on."""
        held: dict[str, Any] = {}
        if self.funding or self.borrow:
            held = {"funding": file_hash(Path(self.funding)) if self.funding else "", "borrow": self.borrow}
        if self.config.quote.side_orders > 1:
            held["orders"] = "each"
        return held | {
            "version": VERSION,
            "policy": [self.source.name, self.source.key],
            "config": self.config.to_dict(sources=False),
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

    @property
    def name(self) -> str:
        """Name of its files: the labels, and the hash."""
        words = re.sub(r"[^A-Za-z0-9.=_-]+", "_", "~".join(str(word) for word in self.labels.values()))
        return f"{words[:150]}~{self.key}"

    @property
    def tapes(self) -> list[str]:
        """The files it reads."""
        market = self.config.market
        return [market.tape] if isinstance(market, Stretch) else []

    @property
    def holding(self) -> tables.Holding | None:
        """What a position costs or earns, if that is counted. Raises `ConfigError` for a file of another."""
        if not (self.funding or self.borrow):
            return None
        funding = read_funding(Path(self.funding), self.labels["symbol"]) if self.funding else None
        return tables.Holding(funding, self.borrow)

    @property
    def decisions(self) -> int:
        """How many decisions it makes, if the data do not end before."""
        market = self.config.market
        if isinstance(market, Stretch):
            return market.decisions
        return self.sessions * self.config.horizon

    def summary_file(self, folder: Path) -> Path:
        """Where its summary is, under the folder of the results."""
        return folder / "units" / f"{self.name}.json"

    def run(self, folder: Path, progress: Callable[[int], Any]) -> None:
        """Play it and write what came of it under `folder`; `progress` hears how many decisions were made."""
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
        origin = provenance(self._told, self.first_seed, data=self.tapes)
        equity = tables.equity_of(played, self.config, self.scale, self.holding)
        summary = self._summary(played, equity, origin)
        write_parquet(folder / "equity" / f"{self.name}.parquet", equity, origin)
        if not self.scenario:
            orders = orders_of(played, self.config, self.scale)
            summary["counts"] = tables.counts_of(played, self.config, orders)
            written = {
                "states": tables.states_of(played, self.scale) | columns_of(played, self.scale),
                "fills": tables.fills_of(played, self.config, self.scale),
                "orders": orders,
            }
            for name, table in written.items():
                write_parquet(folder / name / f"{self.name}.parquet", table, origin)
        write_json(self.summary_file(folder), summary)

    def _summary(self, played: Played, equity: tables.Table, origin: dict[str, Any]) -> dict[str, Any]:
        """What is kept of the unit beside its tables, as JSON types."""
        rows, market = played.rows, self.config.market
        some = len(rows) > 0
        return {
            "key": self.key,
            "provenance": origin,
            "labels": self.labels,
            "scale": dataclasses.asdict(self.scale),
            "step_seconds": market.step_seconds,
            "price_scale": market.price_scale,
            "position_limit": self.config.risk.position_limit,
            **({"levels": self.config.quote.side_orders} if self.config.quote.side_orders > 1 else {}),
            "horizon": self.config.horizon,
            "maker_fee_bp": self.config.maker_fee_bp,
            "first_ns": int(rows["time_ns"][0]) if some else 0,
            "last_ns": int(equity["time_ns"][-1]) if some else 0,
            "first_mid": float(rows["mid"][0] * self.scale.price) if some else math.nan,
            "totals": {
                name: float(equity[name][-1]) if some else 0.0 for name in (*SUMS, FUNDING) if name in equity
            },
            "fills": int((rows["bid_fill"] > 0).sum() + (rows["ask_fill"] > 0).sum()),
            "halted": int((rows["risk_state"] != 0).sum()),
            "ended_early": isinstance(market, Stretch) and len(rows) < self.decisions,
            "paths": int(played.path[-1]) + 1 if some else 0,
            "gaps": tables.gaps_of(played, self.config),
            "signal": observation_names(self.config)[signal_column(self.config, self.signal)],
            "clock": dataclasses.asdict(played.clock),
        }


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
