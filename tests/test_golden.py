"""Behaviour stays, byte for byte: hashes of what the program computes, as tests/golden.json holds them.

    GOLDEN=write python -m pytest tests/test_golden.py       # what is computed now is what is right

What is hashed are values and their order, never paths, times, versions or names of modules and classes.
What goes through torch, BLAS, numpy's exp and the like, or a sum that may be reordered, differs between
processors in the last bits: such hashes are kept by kind of processor. On a kind of which there are none,
those cases are skipped; to have them there, write at a commit that is right.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from llvmlite import binding
from rich.console import Console

pytest.importorskip("hftbacktest")
pytest.importorskip("ccxt")

from benchmarks import chaos
from benchmarks.crosscheck import by_hftbacktest, by_matcher, random_actions
from benchmarks.latency import random_network
from mmenv import make_config
from mmenv.backtest import Entrant, Settings, Tabulated, backtest
from mmenv.data.events import open_replay
from mmenv.data.importer import Import
from mmenv.data.tape import Tape, tapes
from mmenv.features.base import Feature
from mmenv.live import compare, journal, rerun
from mmenv.live.session import Session
from mmenv.market.replay import measure
from mmenv.measure import facts
from mmenv.measure.calibrate import calibrate_market, calibrate_tapes
from mmenv.measure.record import record_market
from mmenv.observation import observation_features
from mmenv.recording import labels
from mmenv.recording.record import at_distance, record
from mmenv.recording.windows import split
from mmenv.step.sizing import ManagerConfig
from mmenv.venue.settings import QUEUE_MODELS, ReplayConfig
from policies.base import tuned_policies
from policies.bundle import Bundle, load, save
from policies.make import make_policy
from policies.network.layers import Layer, Network
from policies.network.packed_gru import GRU
from policies.network.quantise import to_float16, to_int8
from policies.optimal import solve
from policies.signals import TrainedSignal
from policies.signals import load as load_signal
from policies.signals.exact import forecast
from policies.tick import TickToQuote
from policies.tick import record as record_session
from policies.tune import tune
from tests.helpers import captures, orders
from tests.helpers.sessions import Wanderer, paper, rows, run, setup
from train.export import export
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.options.bundles import Export
from train.run import train
from train.settings import env_config, market_defaults, write_settings
from train.signals import signals
from train.simulate import simulate

STORED = Path(__file__).with_name("golden.json")
FOLDER = tempfile.TemporaryDirectory()

Told = Iterator[Any]
CASES: dict[str, tuple[Callable[[], Iterable[Any]], bool]] = {}
"""What to hash by name, and whether it depends on the processor."""


def case(*names: str, processor: bool = False) -> Callable[[Callable[..., Told]], Callable[..., Told]]:
    """A generator of what is to be hashed; one that takes an argument is a case for each of `names`."""

    def note(function: Callable[..., Told]) -> Callable[..., Told]:
        title = function.__name__
        for name in names:
            CASES[f"{title} {name}"] = functools.partial(function, name), processor
        if not names:
            CASES[title] = function, processor
        return function

    return note


def processor_kind() -> str:
    """Maker and widest vector instructions of this processor."""
    cpu = Path("/proc/cpuinfo")
    maker = re.search(r"vendor_id\s*: (\S+)", cpu.read_text()) if cpu.exists() else None
    features = binding.get_host_cpu_features()
    width = next((name for name in ("avx512f", "avx2", "sse4.2", "neon") if features.get(name)), "scalar")
    return f"{maker[1] if maker else 'unknown'} {width}"


def encode(value: Any) -> bytes:
    """Bytes that are the same for the same value, to its last bit, and for no other."""
    if isinstance(value, bytes):
        return b"b%d:" % len(value) + value
    if isinstance(value, torch.Tensor):
        return encode(value.detach().numpy())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"a{value.dtype.descr}{value.shape}:".encode() + np.ascontiguousarray(value).tobytes()
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, pd.DataFrame):
        return encode({name: value[name].to_numpy() for name in value})
    if dataclasses.is_dataclass(value):
        return encode([getattr(value, field.name) for field in dataclasses.fields(value)])
    if isinstance(value, Mapping):
        return b"{" + b",".join(encode(k) + b":" + encode(v) for k, v in value.items()) + b"}"
    if isinstance(value, list | tuple | np.ndarray):
        return b"[" + b",".join(map(encode, value)) + b"]"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value).encode()
    raise TypeError(f"{type(value)} is not hashed: say what of it counts")


def digest_of(name: str) -> str:
    found = hashlib.sha256()
    for value in CASES[name][0]():
        found.update(encode(value) + b";")
    return found.hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_nothing_has_changed(name: str) -> None:
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    kind = processor_kind() if CASES[name][1] else "any"
    if os.environ.get("GOLDEN") == "write":
        stored.setdefault(kind, {})[name] = digest_of(name)
        STORED.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        return
    if kind != "any" and kind not in stored:
        pytest.skip(f"depends on the processor, and there are no hashes of {kind!r}")
    assert digest_of(name) == stored[kind].get(name), f"{name} is not what it was"


def test_every_hash_has_its_case() -> None:
    for kind, found in json.loads(STORED.read_text()).items():
        assert set(found) == {name for name, (_, processor) in CASES.items() if processor == (kind != "any")}


# --- Simulated markets --------------------------------------------------------------------------------------

PRESETS = ("binance-usdm-btc", "binance-usdm-eth", "binance-coinm-btc", "binance-spot-btc")
MARKETS: dict[str, dict[str, Any]] = {
    **{f"book {preset}": {"name": "book", "preset": preset} for preset in PRESETS},
    "brownian": {"name": "brownian"},
    "bursts": {"name": "bursts", "calm_seconds": 20.0, "burst_seconds": 10.0},
    "hidden-regime": {"name": "hidden-regime", "mean_stay": 10.0},
    "correlated": {"name": "correlated"},
}
SIMPLE = ("brownian", "bursts", "hidden-regime", "correlated")
OPEN = ("order_flow", "trade_book", "tape", "microstructure", "inventory", "risk", "clock")
HIDDEN = ("latent", "surprise")
FAMILIES: dict[str, dict[str, Any]] = {
    "book": {"informed_rate": (0.2, 2.0), "volatility": {"log-uniform": [20.0, 60.0]}},
    "brownian": {"volatility": (0.5, 2.0), "fill_decay": {"log-uniform": [0.5, 2.0]}},
    "bursts": {"burst_volatility": (2.0, 9.0), "calm_seconds": {"choice": [10.0, 40.0]}},
    "hidden-regime": {"tilt": (0.0, 0.2), "mean_stay": {"log-uniform": [5.0, 50.0]}},
    "correlated": {"lag": (1.0, 9.0), "factor_volatility": {"choice": [0.4, 1.2]}},
}


def actions(steps: int, n: int, seed: int = 0) -> np.ndarray:
    """Quotes near the mid."""
    drawn = np.random.default_rng(seed).uniform((-1, -0.15), (-0.6, 0.15), (steps, n, 2))
    return drawn.astype(np.float32)


def one(market: Any, steps: int = 140, **settings: Any) -> Told:
    """A single environment, episode after episode, the second one from a position of its own."""
    env = gym.make("NeuralMM-v0", market=market, render_mode="ansi", **settings)
    options: dict[str, Any] = {"position": -2}
    fills = 0.0
    yield list(env.reset(seed=7))
    for action in actions(steps, 1):
        *step, info = env.step(action[0])
        fills += info["ledger"]["fills"]
        yield [*step, info]
        if step[2] or step[3]:
            yield env.render()
            yield list(env.reset(options=options))
            options = {}
    assert fills > 0
    env.close()


def many(market: Any, n: int = 200, steps: int = 90, options: Any = None, **settings: Any) -> Told:
    """A vector environment: more than a block of lanes, and the rest of one."""
    envs = gym.make_vec("NeuralMM-v0", num_envs=n, market=market, **settings)
    fills = 0.0
    yield list(envs.reset(seed=11, options=options))
    for action in actions(steps, n):
        observations, rewards, terminated, truncated, info = envs.step(action)
        fills += float(info["ledger"]["fills"].sum())
        yield [observations, rewards, terminated, truncated, info]
        if str(envs.metadata["autoreset_mode"].value) == "Disabled" and (terminated | truncated).any():
            yield list(envs.reset(options={"reset_mask": terminated | truncated}))
    assert fills > 0
    envs.close()


def by_threads(market: Any, **settings: Any) -> Told:
    alone, shared = (encode(list(many(market, num_threads=k, **settings))) for k in (1, 2))
    assert alone == shared
    yield alone


def groups_of(name: str, *more: str) -> tuple[str, ...]:
    return (*OPEN, *(("observed",) if name == "correlated" else ()), *more, *HIDDEN)


@case(*MARKETS)
def single(name: str) -> Told:
    yield from one(MARKETS[name], horizon=60)


@case(*MARKETS)
def vector(name: str) -> Told:
    yield from by_threads(MARKETS[name], horizon=40)


@case(*MARKETS)
def every_group(name: str) -> Told:
    yield from many(MARKETS[name], n=130, steps=230, horizon=210, features=groups_of(name))


@case(*FAMILIES)
def family(name: str) -> Told:
    drawn = FAMILIES[name] | {"maker_fee_bp": {"choice": [0.0, 0.5, -0.25]}}
    settings = {"horizon": 15, "randomise": drawn, "features": groups_of(name, "parameters")}
    yield from by_threads(name, **settings)
    yield from many(name, n=5, steps=60, curriculum_episodes=3, **settings)
    first, (low, high) = next((k, v) for k, v in drawn.items() if isinstance(v, tuple))
    yield from many(name, n=3, steps=20, options={"parameters": {first: (low + high) / 2}}, **settings)


@case("brownian", "book")
def autoreset(name: str) -> Told:
    for mode in ("NextStep", "Disabled"):
        yield from many(name, n=140, steps=50, horizon=15, start_inventory=3, autoreset_mode=mode)


@case("brownian", "book")
def limits_and_weights(name: str) -> Told:
    """Fees, larger orders, loss limits that are reached, weights of the reward, other quotes."""
    yield from by_threads(
        name,
        horizon=80,
        maker_fee_bp=0.37,
        start_inventory=4,
        quote={"min_half_spread": 0.1, "max_skew": 3.0, "max_distance": 5.0},
        risk={"position_limit": 7, "order_lots": 3, "daily_loss_limit": 12.0, "reducing_at": 0.5},
        reward={"spread_capture": 0.9, "carry": 1.3, "inventory_penalty": 0.02, "terminal_penalty": 0.3},
    )


@case()
def other_parameters() -> Told:
    yield from many(
        {"name": "book", "preset": "binance-usdm-btc", "latency_steps": 2, "substeps": 8}, n=20, horizon=40
    )
    lags = {"observed_lags": (0.5, 1.0, 6.0), "observed_volatilities": (1.0, 0.3, 0.2)}
    market = {"name": "correlated", "step_seconds": 0.25, **lags, "observed_flows": (-0.8, 0.0, 0.4)}
    yield from many(market, n=20, horizon=40)


@case()
def configurations() -> Told:
    """What artefacts are checked by."""
    for name, market in MARKETS.items():
        config = make_config(market)
        yield [config.schema_id, json.dumps(config.to_dict()), observation_features(config)]
        yield make_config(market, features=groups_of(name), horizon=77, maker_fee_bp=0.5).schema_id
    for name, drawn in FAMILIES.items():
        yield make_config(name, randomise=drawn, curriculum_episodes=9).schema_id


# --- Recorded markets ---------------------------------------------------------------------------------------


def folder_of(name: str) -> Path:
    """A new folder of a case."""
    return Path(tempfile.mkdtemp(dir=FOLDER.name, prefix=name))


@functools.cache
def store(seconds: float = 60.0, seed: int = 4, venue: str = "usdm", symbols: int = 1) -> Path:
    """A random market in a store; of several symbols the same one in other ticks and lots."""
    folder = folder_of("store")
    lines = captures.market(seconds=seconds, seed=seed, venue=venue).lines
    for symbol, tick, lot in (("BTCUSDT", "0.1", "0.001"), ("ETHUSDT", "0.02", "0.0005"))[:symbols]:
        path = captures.write(folder / f"{symbol}.gz", [li.replace("BTCUSDT", symbol) for li in lines])
        options = {"tick_size": tick, "lot_size": lot} if symbols > 1 else {}
        Import("binance", (path,), folder / "store", strict=True, progress=False, **options).run()
    return folder / "store"


def replayed(found: Path, steps: int = 160, horizon: int = 120, **settings: Any) -> Told:
    market = {"name": "replay", "store": str(found), "split": "all", **settings}
    for engine in ("hftbacktest", "matcher"):
        yield from many(market | {"engine": engine}, n=3, steps=steps, horizon=horizon)


@case(*QUEUE_MODELS)
def replay_queue(name: str) -> Told:
    for partial in (True, False):
        yield from replayed(store(), queue_model=name, queue_exponent=2.0, partial_fills=partial)


@case("constant", "lognormal", "feed", "empirical", "recorded")
def replay_latency(name: str) -> Told:
    settings: dict[str, Any] = {"order_latency": name, "latency_seed": 3}
    if name in ("empirical", "recorded"):
        info = tapes(store())[0].info
        sent = np.arange(info.first_ns, info.last_ns, 350_000_000)
        there, back = np.random.default_rng(0).integers(1_000_000, 40_000_000, (2, len(sent)))
        reached = sent + info.clock_offset_ns + there
        trips = {"sent_ns": sent, "exchange_ns": reached, "answered_ns": sent + there + back}
        settings["latency_file"] = str(folder_of("latency") / "trips.csv")
        pd.DataFrame(trips).to_csv(settings["latency_file"], index=False)
    for milliseconds in (0.0, 35.0) if name == "constant" else (15.0,):
        yield from replayed(store(), order_latency_ms=milliseconds, feed_latency_ms=5.0, **settings)


@case()
def replay_stores() -> Told:
    """Parts of a store, symbols of different units, a contract in coin, every feature group."""
    for part in ("train", "validation", "test"):
        yield from replayed(store(120.0), steps=60, horizon=50, split=part, fractions=(0.5, 0.25, 0.25))
    for found in (store(symbols=2), store(venue="coinm"), store(venue="spot")):
        yield from replayed(found, steps=60, step_seconds=0.2)
        market = make_config({"name": "replay", "store": str(found)}, maker_fee_bp=1.0).market
        yield list(dataclasses.asdict(measure(market)).values())
    market = {"name": "replay", "store": str(store()), "split": "all"}
    yield from one(market, horizon=110, features=groups_of("replay"))


@case()
def random_orders() -> Told:
    [tape] = tapes(store())
    found = open_replay(tape, 2_000_000)
    sent = random_actions(found, 600, ReplayConfig().order_latency_ns, np.random.default_rng(3))
    yield sent
    for model, partial in itertools.product(QUEUE_MODELS, (True, False)):
        config = ReplayConfig(queue_model=model, partial_fills=partial)
        yield from (by_hftbacktest(found, sent, config), by_matcher(found, sent, config))


# --- Imported data ------------------------------------------------------------------------------------------


def vendor_files(kind: str, folder: Path) -> tuple[str, list[Path], dict[str, Any]]:
    """Files of one random market as this vendor would record it: format, paths and options."""
    name, _, variant = kind.partition(" ")
    if name == "binance":
        sent = captures.market(
            seconds=6, seed=4, venue=variant, start_ns=captures.MIDNIGHT_NS - 2 * orders.SECOND
        )
        half = len(sent.lines) // 2
        parts = captures.write(folder / "a.gz", sent.lines[:half]), folder / "b"
        return name, [parts[0], captures.write(parts[1], sent.lines[half:], compress=False)], {}
    market = orders.Market(events=200, seed=3, hidden=name == "lobster")
    if name == "tardis":
        lines = orders.tardis(market)
        return name, [orders.write_lines(folder / f"{k}.csv.gz", li) for k, li in enumerate(lines)], {}
    if name == "lobster":
        messages, book, _ = orders.lobster(market, 4, orders.START_NS - 34_200 * 10**9)
        stem = folder / "AAPL_2012-06-21_34200000_57600000_"
        pair = (("message", messages), ("orderbook", book))
        return name, [orders.write_lines(Path(f"{stem}{part}_4.csv"), li) for part, li in pair], {}
    if name == "databento":
        records = orders.databento(market)
        if variant.startswith("dbn"):
            (folder / "es.dbn").write_bytes(orders.dbn(records, int(variant[3])))
            return name, [folder / "es.dbn"], {}
        return name, [orders.write_lines(folder / "es.csv", orders.databento_csv(records, pretty=True))], {}
    path = orders.write_lines(folder / "x.csv", orders.plain(market))
    if variant == "parquet":
        pq.write_table(pyarrow.csv.read_csv(path), folder / "x.parquet", row_group_size=150)
        path = folder / "x.parquet"
    return name, [path], {"venue": "mine"}


def told_of(tape: Tape) -> Told:
    yield [tape.info, np.concatenate(list(tape.rows()))]


@case(
    *("binance usdm", "binance coinm", "binance spot", "tardis", "lobster", "databento dbn1"),
    *("databento dbn3", "databento csv", "plain csv", "plain parquet"),
)
def imported(kind: str) -> Told:
    folder = folder_of("import")
    name, paths, options = vendor_files(kind, folder)
    [(found, report)] = Import(name, tuple(paths), folder / "store", progress=False, **options).run()
    yield [report.notes, dict(report.counts), report.tally]
    for tape in found:
        yield str(tape.path.relative_to(folder))
        yield from told_of(tape)
        for ticker in (True, False):
            yield [
                np.asarray(each) for each in dataclasses.asdict(open_replay(tape, 2_000_000, ticker)).values()
            ]


@case("book", "replay")
def recording(name: str) -> Told:
    """Features and fields of the data pipeline, its parts, windows and labels."""
    market = {"name": "replay", "store": str(store()), "split": "all"} if name == "replay" else name
    config = make_config(market, horizon=80, features=OPEN)
    folder = folder_of("recording") / "it"
    made = record(config, folder, sequences=30 if name == "book" else None, quote=at_distance(config, 0.0))
    yield from (made.names, made.features, made.fields, made.time_ns, made.first)
    parts = split(made, embargo=10)
    yield parts
    generator = np.random.default_rng(0)
    yield from itertools.islice(made.batches(parts[0].rows(10, 20), 20, 64, generator), 3)
    mid, first = made.field("mid"), made.first
    ask, bid = made.field("ask_fill"), made.field("bid_fill")
    yield from (labels.price_change(mid, first, 5), labels.realised_volatility(mid, first, 10))
    yield labels.markout_cost(mid, ask, made.field("ask_edge"), first, 5, 1)
    yield labels.adverse_move(mid, bid, first, 5, -1)
    bounds = {"horizon": 5, "window": 20, "fill_decay": 0.1, "low": 0.0, "high": 50.0}
    yield labels.optimal_half_spread(mid, ask, bid, first, **bounds)
    start = np.clip(made.field("position") / 10.0, -1, 1)
    plan = {"horizon": 10, "levels": 2, "cost": 1.0, "penalty": 0.5, "start": start}
    yield labels.position_signal(mid, first, **plan)


# --- Live ---------------------------------------------------------------------------------------------------


@case("1", "20", "150")
def paper_journal(milliseconds: str) -> Told:
    """The file of a session on paper, and the same through the backtester."""
    folder = folder_of("paper")
    file = journal.Journal(folder / "journal")
    session = paper(file, latency_ms=float(milliseconds))
    file.close()
    assert session.fills > 5
    yield (folder / "journal").read_bytes()
    tape = rerun.to_tape(folder / "journal", folder / "store")
    yield from told_of(tape)
    for engine in ("hftbacktest", "matcher"):
        yield compare.backtest(folder / "journal", tape, engine)


@case()
def guarded_journal() -> Told:
    """A session that is halted by its guard, flattened by its operator, and told of a broken feed."""
    sink = journal.Memory()
    guard = {"max_orders": 40, "position_limit": 5, "drawdown": 0.4, "daily_loss": 1.0}
    session = Session(setup(guard=guard, risk={"position_limit": 6, "order_lots": 2}), Wanderer(), sink)
    given = np.array_split(rows(), 5)
    for part, command in zip(given, ("", "reduce", "clear", "flatten", "clear"), strict=True):
        if command:
            session.operator(command, "test", session.next_ns)
        run(session, part)
        session.feed(False, "gap")
    yield [(frame.kind, frame.payload) for frame in sink.frames]


@case("1", "7")
def live_journal(seed: str) -> Told:
    """Real orders at the local exchange, with faults and kills, on a virtual clock."""
    folder = folder_of("live")
    found = tapes(chaos.random_store(folder), "binance-usdm", chaos.SYMBOL)
    trial = chaos.Trial(found, int(seed), folder / "desk", 6.0, kills=1)
    outcome = trial.run()
    assert outcome.violations == []
    assert outcome.fills > 0
    frames = journal.read(trial.desk.plan.journal)
    # Snapshots are compared where the journal is played again; all that they hold follows from the rest.
    yield [(frame.kind, frame.payload) for frame in frames if frame.kind != journal.SNAPSHOT]
    yield [(t.tick, t.lots, t.order.side, str(t.fee)) for t in trial.account.trades]


# --- Backtests ----------------------------------------------------------------------------------------------

GLFT = {"gamma": 0.1, "arrival_rate": 0.5, "fill_decay": 3.0, "volatility": 1.0}


class Wandering:
    """Random quotes close to the mid, some of them not finite."""

    def reset(self, n: int) -> Any:
        return np.random.default_rng(n)

    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        drawn = state.uniform((-1, -0.1), (-0.6, 0.1), (len(observation), 2)).astype(np.float32)
        drawn[state.random(len(drawn)) < 0.05] = np.nan
        return drawn, state


@dataclasses.dataclass(frozen=True)
class Maker:
    """A source of policies."""

    name: str

    @property
    def key(self) -> str:
        return self.name

    def make(self, config: Any) -> Any:
        if self.name == "glft":
            return Tabulated(make_policy("glft", config, **GLFT))
        return Wandering()


def results(name: str) -> Any:
    if name == "simulated":
        config, chosen = make_config("hidden-regime", horizon=100), Settings(jobs=1, days=0.2)
    else:
        found = {"name": "replay", "store": str(store(100.0, 5, venue=name)), "split": "all"}
        risk = {"daily_loss_limit": 1e9, "position_limit": 6, "order_lots": 2}
        config = make_config(found, horizon=200, maker_fee_bp=0.5, risk=risk)
        chosen = Settings(jobs=1, tries=5, latencies_ms=(10.0, 30.0))
    entrants = [Entrant(Maker("wandering"), config), Entrant(Maker("glft"), config)]
    return backtest(entrants, folder_of("backtest") / "it", chosen, progress=False)


@case("simulated", "usdm", "coinm")
def backtests(name: str) -> Told:
    """Tables, counts and figures."""
    found = results(name)
    for played in found.runs.values():
        yield [played.table(kind) for kind in ("states", "fills", "orders", "equity")]
        yield played.counts
        apart = ("key", "provenance", "clock", "counts")
        yield [{k: v for k, v in unit.items() if k not in apart} for unit in played.units]
        yield [found.markout_curve(played, side) for side in (None, 1, -1)]
    yield {name: value for name, value in found.summary().items() if name != "provenance"}


# --- Networks -----------------------------------------------------------------------------------------------

CONFIG = make_config("brownian", horizon=50)
BOOK = make_config("book", horizon=60, features=CONFIG.features)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


@functools.cache
def bundled(kind: str) -> Bundle:
    network = random_network(18, 16, 3)
    if kind != "float32":
        network = to_float16(network) if kind == "float16" else to_int8(network, normal(30, 4, 18))
    return Bundle(network, CONFIG, format=kind, provenance={"by": "test"}, evaluation={"value": 1.5})


def archived(path: Path) -> dict[str, bytes]:
    """The files of a bundle; how small they were packed depends on zlib."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def saved(bundle: Bundle) -> Told:
    path = folder_of("bundle") / "policy.mmz"
    save(bundle, path)
    yield archived(path)
    assert load(path).network.digest == bundle.network.digest


@case("float32", "float16")
def bundle_file(kind: str) -> Told:
    yield from saved(bundled(kind))
    yield bundled(kind).network.digest


@case("float32", "float16", "int8", processor=True)
def bundle_actions(kind: str) -> Told:
    bundle = bundled(kind)
    yield from saved(bundle)
    policy, stream, seen = bundle.policy(), bundle.stream(), normal(40, 5, 18, seed=1)
    state = policy.reset(5)
    for observation in seen:
        action, state = policy.act(observation, state)
        yield [action, state, stream.step(observation[0]).copy()]
    yield stream.state
    on_book = dataclasses.replace(bundle, config=BOOK)
    session, tick = record_session(on_book, BOOK, 150, seed=5), TickToQuote(on_book)
    words = session.outcomes.view(np.int64).reshape(len(session.outcomes), -1)
    yield [words, session.starts, session.observations, session.orders]
    for outcome, first in zip(session.outcomes, session.starts, strict=True):
        yield (tick.start(outcome) if first else tick.quote(outcome)).copy()


@functools.cache
def signal() -> TrainedSignal:
    """A network of a memory and one output, as it might have been trained."""
    inputs = tuple(f for f in observation_features(BOOK) if f.name in ("return", "volume", "spread"))
    arrays = {"weight_ih": normal(16, 3), "weight_hh": normal(16, 4), "bias_ih": normal(16)}
    memory = Layer("lstm", arrays | {"bias_hh": normal(16)})
    top = Layer("dense", {"weight": normal(1, 4), "bias": normal(1)}, "sigmoid")
    outputs = (Feature("danger", 0.0, 1.0, "a score"),)
    network = Network(3, (memory, top))
    return TrainedSignal("test", network, ("order_flow",), inputs, outputs, BOOK.market.step_seconds)


@case(processor=True)
def signals_and_manager() -> Told:
    yield signal().identity
    manager = ManagerConfig(signal=signal(), share=0.02)
    yield from many("book", n=20, horizon=40, signals=[signal()], manager=manager)
    made = make_config("book", signals=[signal()], manager=manager)
    yield [made.schema_id, json.dumps(made.to_dict())]


TRAININGS: dict[str, dict[str, Any]] = {
    "brownian": {},
    "hidden-regime": {},
    "hidden-regime gru": {"cell": "gru", "critic": "lstm", "surprise_control": False},
    "brownian family": {"critic": "memoryless", "set": ('randomise={"volatility":[0.5,2]}',)},
}


@case(*TRAININGS, processor=True)
def training(name: str) -> Told:
    """As `neuralmm train` and `neuralmm export` do it: weights, optimiser, evaluations, bundle."""
    torch.set_num_threads(1)
    given = dict(TRAININGS[name])
    own = ("horizon=50", "features=" + json.dumps(["tape", "inventory", "clock"]))
    short = {"steps": 4000, "num_envs": 20, "n_steps": 50, "batch_size": 500, "threads": 1, "lstm_size": 16}
    judged = {"eval_every": 2000, "eval_episodes": 32, "final_episodes": 0, "device": "cpu"}
    chosen = dataclasses.replace(
        market_defaults(name.split()[0]), **short, **judged, **given | {"set": (*own, *given.get("set", ()))}
    )
    folder = folder_of("training") / "run"
    config = env_config(chosen)
    write_settings(folder, chosen, config)
    with mock.patch.object(GRU, "compiled", False):  # in torch's kernels, as where there are no compiled ones
        train(chosen, config, folder)
    model = FastRecurrentPPO.load(folder / "last_model.zip", device="cpu")
    yield model.policy.state_dict()
    for state in model.policy.optimizer.state_dict()["state"].values():
        yield [state["exp_avg"], state["exp_avg_sq"]]
    with np.load(folder / "evaluations.npz") as file:
        yield [file["timesteps"], file["results"]]
    bundle = export(Export(folder, folder / "policy.mmz", episodes=0))
    yield [bundle.network.digest, bundle.reference, bundle.units]


@case("adverse-selection", "multi-task", processor=True)
def signal_training(name: str) -> Told:
    """As `neuralmm signals train` does it: the network, and what its card says of it."""
    torch.set_num_threads(1)
    folder = folder_of("signals")
    kept = {"logs": folder / "logs", "recordings": folder / "recordings", "run": "it", "device": "cpu"}
    short = {"sequences": 40, "epochs": 2, "horizons": (5.0,) if name == "adverse-selection" else ()}
    signals.run_train(signals.Train(name=name, data="hidden-regime", **kept, **short), Console(quiet=True))
    made = load_signal(folder / "logs" / "it" / "signal.mms")
    yield [made.identity, made.network.digest, made.inputs, made.outputs, made.card["figures"]]


# --- Exact solutions and measures ---------------------------------------------------------------------------

SMALL: dict[str, Any] = {"horizon": 40, "risk": {"position_limit": 4}}
KINDS = {
    "optimum": None,
    "oracle": None,
    "belief-optimal": 8,
    "exponential-average": 20,
    "memoryless": None,
    "blind": None,
}


@case(*KINDS, processor=True)
def exact_solution(kind: str) -> Told:
    config = make_config("brownian" if kind == "optimum" else "hidden-regime", **SMALL)
    found = solve(config, kind, resolution=KINDS[kind])
    yield [found.ask, found.bid, found.values]
    if kind != "oracle":
        yield simulate(make_policy(kind, config), config, 64)


@case(*tuned_policies(), processor=True)
def tuned_policy(name: str) -> Told:
    for market in ("brownian", "hidden-regime"):
        config = make_config(market, **SMALL)
        found = tune(name, config)
        yield [found.parameter, found.best, found.value, found.policy.tabulate()]
        yield simulate(found.policy, config, 32)


@case(processor=True)
def measured() -> Told:
    """Stylised facts and calibrations, simulated and recorded; the forecast of what others lead."""
    for market in ("book", "brownian"):
        found = record_market(market, 4, 120.0, 0)
        yield [[*finding.estimate] for finding in facts.findings(found)]
        yield calibrate_market(market, environments=8, seconds=60.0)
    yield calibrate_tapes(tapes(store(200.0, 5)), 0.1)
    best = forecast(make_config("correlated").market)
    yield [best.gain, best.r2(), best.r2(5), best.ceiling()]
