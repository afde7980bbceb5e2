"""Microseconds from a market event to orders, and what a policy step costs: `python -m benchmarks.latency`.

Policy steps of one network, NumPy in and NumPy out, through the compiled runtime, ONNX Runtime, TorchScript
and SB3's `predict`; then the whole way from an event to orders, and its parts, over a tape, and the whole way
of other actions: a ladder, market orders. All take turns in short rounds of one run, on one thread, as a live
desk would: warmed up, pinned to a processor, without garbage collection.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numba import njit, types
from numba.extending import intrinsic
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from mmenv.config import EnvConfig, make_config
from mmenv.desk.desk import Desk
from mmenv.engine.memory import address, array_at
from mmenv.engine.stage import Call, stage
from mmenv.engine.state import PARAMS
from mmenv.market.live import Live
from mmenv.market.replay import Replay
from mmenv.observation import observation_features
from mmenv.times import SECOND
from policies.bundle import Bundle, load
from policies.network.layers import Layer, Network
from policies.network.quantise import to_int8
from policies.network.runtime import Stream, undisturbed
from policies.tick import PLACE, WIDEST, Session, TickToQuote, as_live, record

ROUNDS = 20
WARM_UP = 500
TAPE = 100_000
"""Decisions of a tape; longer runs play it again."""
PARTS = ("event in", "ledger and features", "policy", "quote and risk", "orders out")
ACTIONS: dict[str, dict[str, Any]] = {
    "spread-skew": {},
    "ladder, 3 levels": {"quote": {"name": "ladder", "levels": 3}, "risk": {"order_lots": 6}},
    "taker": {"quote": {"name": "taker", "taker_lots": 2}},
}
"""Actions whose whole way is timed, and their settings."""
ACTION_TAPE = 20_000
"""Decisions of the tape of each."""


@dataclass(frozen=True)
class Bench:
    """Time the policy step beside its peers, and tick to quote as a whole and by part."""

    bundle: Path | None = None
    """A policy.mmz; by default a network of `hidden` units with random weights, which costs the same."""
    hidden: int = 64
    """Units of the LSTM of the default network; its two dense layers have 64."""
    observations: int = 27
    """Entries that the default network reads in the comparison of steps."""
    events: int = 1_000_000
    """Events of the tape, and steps of the compiled runtime."""
    peers: int = 20_000
    """Steps of TorchScript and SB3, and a tenth of those of ONNX Runtime; 0 leaves all of them out."""
    store: Path | None = None
    """Store of recorded tapes (`neuralmm import`); by default the tape is a session of market book."""
    symbol: str = "*"
    seed: int = 0


@dataclass
class Contender:
    """Something that is timed: one call for each input."""

    name: str
    call: Callable[[Any], Any]
    inputs: Sequence[Any]
    count: int
    starts: np.ndarray | None = None
    """What an input goes to, untimed, that is the first of an episode."""
    start: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        self.samples = np.zeros(self.count, np.int64)
        self.done = 0

    def run(self, count: int) -> None:
        """Time the next `count` calls."""
        clock, call, inputs, samples = time.perf_counter_ns, self.call, self.inputs, self.samples
        starts, start, size = self.starts, self.start, len(self.inputs)
        for k in range(self.done, min(self.done + count, self.count)):
            given = inputs[k % size]
            if starts is not None and starts[k % size]:
                start(given)  # type: ignore[misc]
            before = clock()
            call(given)
            samples[k] = clock() - before
        self.done = min(self.done + count, self.count)


def warm_up(contender: Contender) -> None:
    for k in range(WARM_UP):
        given = contender.inputs[k % len(contender.inputs)]
        if contender.start is not None and k == 0:
            contender.start(given)
        contender.call(given)


def take_turns(contenders: list[Contender]) -> None:
    """Warm all up, then time them in rounds."""
    for contender in contenders:
        warm_up(contender)
    with undisturbed():
        for _ in tqdm(range(ROUNDS), desc="timing", unit=" rounds", leave=False, disable=None):
            for contender in contenders:
                contender.run(-(-contender.count // ROUNDS))


@njit(cache=True)
def spin(count):  # type: ignore[no-untyped-def]
    """Arithmetic that touches no memory."""
    total = 0.0
    for i in range(count):
        total += np.sqrt(i + total)
    return total


def bare_loop(like: Contender, count: int) -> Contender:
    """A loop that takes as long as another contender: what interrupts it is the machine's doing alone."""
    probe = Contender(like.name, like.call, like.inputs, WARM_UP)
    warm_up(probe)
    probe.run(WARM_UP)
    target, size = np.median(probe.samples), 8
    while True:
        trial = Contender("a bare loop, as long", spin, [size], WARM_UP)
        warm_up(trial)
        trial.run(WARM_UP)
        if np.median(trial.samples) >= target:
            return Contender(trial.name, spin, [size], count)
        size += max(size // 8, 1)


# Policy steps -----------------------------------------------------------------------------------------------


def random_network(inputs: int, hidden: int, seed: int, outputs: int = 2) -> Network:
    """An LSTM, two dense layers of 64 with tanh, and the outputs."""
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32)

    def dense(fan_in: int, units: int, activation: str) -> Layer:
        return Layer("dense", {"weight": numbers(units, fan_in), "bias": numbers(units)}, activation)

    rows = 4 * hidden
    recurrent = {"weight_ih": numbers(rows, inputs), "weight_hh": numbers(rows, hidden)}
    lstm = Layer("lstm", recurrent | {"bias_ih": numbers(rows), "bias_hh": numbers(rows)})
    layers = (lstm, dense(hidden, 64, "tanh"), dense(64, 64, "tanh"), dense(64, outputs, "identity"))
    return Network(inputs, layers, bounds=(-1.0, 1.0))


def steps(network: Network, options: Bench) -> list[Contender]:
    """The engines on one network, and on the default one torch and SB3 with the same weights."""
    rows = np.random.default_rng(options.seed).normal(0, 1, (4096, network.inputs)).astype(np.float32)
    given = list(rows)
    small = to_int8(network, rows[:512, None])
    found = [
        Contender("compiled (numba), float32", Stream(network).step, given, options.events),
        Contender("compiled (numba), int8", Stream(small).step, given, options.events),
    ]
    if options.peers:
        found += onnx_steps(network, given, 10 * options.peers)
    if options.peers and options.bundle is None:
        found += torch_steps(network, given, options.peers)
    return found


def onnx_steps(network: Network, rows: list[np.ndarray], count: int) -> list[Contender]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from policies.network.onnx_engine import OnnxStream, to_onnx

    model = to_onnx(network)
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        plain.write_bytes(model)
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True)
        models = {"float32": model, "int8": small.read_bytes()}
    return [
        Contender(f"ONNX Runtime, {name}", OnnxStream(network, model).step, rows, count)
        for name, model in models.items()
    ]


def torch_steps(network: Network, rows: list[np.ndarray], count: int) -> list[Contender]:
    """TorchScript and SB3's `predict` of the network that `random_network` makes."""
    import torch
    from gymnasium import spaces

    from policies.network.recurrent import RecurrentPolicy

    torch.set_num_threads(1)
    hidden = network.layers[0].units
    policy = RecurrentPolicy(
        spaces.Box(-10, 10, (network.inputs,), np.float32),
        spaces.Box(-1, 1, (2,), np.float32),
        lambda _: 1e-3,
        lstm_hidden_size=hidden,
        net_arch=[64, 64],
        enable_critic_lstm=False,
    ).eval()
    scripted = torch.jit.optimize_for_inference(torch.jit.script(make_actor(policy)))

    class Scripted:
        state = torch.zeros(1, 1, hidden), torch.zeros(1, 1, hidden)

        def step(self, row: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                action, self.state = scripted(torch.from_numpy(row), self.state)
            return action.numpy()

    class Predicting:
        state = None
        start = np.zeros(1, bool)

        def step(self, row: np.ndarray) -> np.ndarray:
            action, self.state = policy.predict(row[None], self.state, self.start, deterministic=True)
            return action

    return [
        Contender("TorchScript", Scripted().step, rows, count),
        Contender("SB3 predict", Predicting().step, rows, count),
    ]


def make_actor(policy: Any) -> Any:
    """The actor of a `RecurrentPolicy` as one torch module: (observation, state) to (action, state)."""
    from torch import Tensor, nn

    class Actor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = policy.lstm_actor
            self.head = nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net)

        def forward(
            self, observation: Tensor, state: tuple[Tensor, Tensor]
        ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            memory, after = self.lstm(observation.view(1, 1, -1), state)
            return self.head(memory[0, 0]).clamp(-1.0, 1.0), after

    return Actor().eval()


# Tick to quote ----------------------------------------------------------------------------------------------

STAMPS = len(PARTS) + 1
clock_type: Any = types.int32(types.int32, types.voidptr)
clock_gettime: Any = types.ExternalFunction("clock_gettime", clock_type)
CLOCK = time.CLOCK_MONOTONIC


def _pointer(typing: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, types_: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


pointer: Any = intrinsic(_pointer)


@stage(PLACE)
def stamp(s, w, p, x):
    """The time as (seconds, nanoseconds) into the next pair of the array at `w`, behind their number."""
    count = array_at(w.at, types.int64, w.size)
    clock_gettime(CLOCK, pointer(w.at + 8 + 16 * count[0]))
    count[0] += 1


class Stamped:
    """`TickToQuote` with the time taken around each of its parts."""

    def __init__(self, bundle: Bundle, config: EnvConfig, count: int) -> None:
        self._times = np.zeros(1 + 2 * STAMPS, np.int64)
        place = np.zeros(1, PLACE)
        place[0] = address(self._times), self._times.size
        self.tick = TickToQuote(bundle, config, stamp=Call(stamp, place, np.zeros(1, PARAMS)))
        self.samples = np.zeros((count, len(PARTS)), np.int64)
        self._done = 0

    def quote(self, event: np.ndarray) -> None:
        times = self._times
        times[0] = 0
        self.tick.quote(event)
        stamps = times[1::2] * SECOND + times[2::2]
        self.samples[self._done % len(self.samples)] = np.diff(stamps)
        self._done += 1


def tape(options: Bench) -> tuple[Bundle, EnvConfig, Session]:
    """The policy, its desk's configuration, and a session to play back."""
    bundle = load(options.bundle) if options.bundle else None
    config = bundle.config if bundle else make_config("book")
    if options.store is not None:
        market = Replay(store=str(options.store), symbol=options.symbol, split="all")
        config = bundle.on(market) if bundle else make_config(market)
    if bundle is None:
        width = len(observation_features(config))
        bundle = Bundle(random_network(width, options.hidden, options.seed), config)
    return bundle, config, recorded(bundle, config, min(TAPE, options.events), options.seed)


def recorded(bundle: Bundle, config: EnvConfig, count: int, seed: int) -> Session:
    with tqdm(
        total=count, desc="recording a tape", unit=" decisions", leave=False, unit_scale=True, disable=None
    ) as bar:
        return record(bundle, config, count, seed, bar.update)


def ticks(
    bundle: Bundle, config: EnvConfig, session: Session, options: Bench
) -> tuple[list[Contender], Stamped]:
    """The policy step on the tape's observations, and the whole way on its events, whole and by part."""
    events, starts = list(session.outcomes), session.starts
    whole, stamped = (
        whole_way("tick to quote, whole", bundle, config, session, options.events),
        Stamped(bundle, config, options.events),
    )
    return [
        Contender(
            "policy step, compiled, same observations",
            bundle.stream().step,
            list(session.observations),
            options.events,
        ),
        whole,
        Contender(
            "with a clock around each part", stamped.quote, events, options.events, starts, stamped.tick.start
        ),
    ], stamped


def whole_way(name: str, bundle: Bundle, config: EnvConfig, session: Session, count: int) -> Contender:
    """From the events of a tape to orders, which are those of a live desk."""
    tick, starts = TickToQuote(bundle, config), session.starts
    events: Sequence[Any] = list(session.outcomes)
    call, start = tick.quote, tick.start
    if config.quote.taking is not None:
        # What market orders filled comes in beside them.
        events = list(zip(events, session.taken, strict=True))
        call, start = (lambda given: tick.quote(*given)), (lambda given: tick.start(given[0]))
    got = [(start(e) if first else call(e)).copy() for e, first in zip(events, starts, strict=True)]
    assert np.array_equal(got, step_by_step(bundle, config, session)), "it gives other orders than the desk"
    return Contender(name, call, events, count, starts, start)


def step_by_step(bundle: Bundle, config: EnvConfig, session: Session) -> list[list[int]]:
    """What a live desk and the policy beside it give for the events of a tape."""
    desk = Desk(replace(config, market=as_live(config.market)), 1, autoreset=False)
    link, stream, found = desk.external, bundle.stream(), []
    assert isinstance(link, Live.Link)
    link.window[0] = WIDEST
    for outcome, taken, first in zip(session.outcomes, session.taken, session.starts, strict=True):
        link.outcomes[0], link.taken[0] = outcome, taken
        if first:
            observation = desk.reset(positions=np.zeros(1, np.int32))[0]
            stream.reset()
        else:
            link.answer(desk.core)
            observation = desk.finish().observations[0]
        desk.decide(stream.step(observation)[None])
        market = link.market_order(desk.core) if config.quote.taking is not None else ()
        found.append([*link.quotes(desk.core).tolist(), *market])
    return found


def actions(options: Bench) -> list[Contender]:
    """The whole way of each of ACTIONS, by networks of random weights on `book`."""
    found = []
    for name, settings in ACTIONS.items():
        config = make_config("book", **settings)
        width, numbers = len(observation_features(config)), len(config.quote.entries)
        bundle = Bundle(random_network(width, options.hidden, options.seed, numbers), config)
        session = recorded(bundle, config, min(ACTION_TAPE, options.events), options.seed)
        found.append(whole_way(name, bundle, config, session, options.events))
    return found


# The tables -------------------------------------------------------------------------------------------------

QUANTILES = (50.0, 99.0, 99.9)


def add_row(table: Table, name: str, samples: np.ndarray, base: float) -> None:
    found = np.percentile(samples, QUANTILES) / 1000
    cells = [f"{value:.2f}" for value in (*found, samples.max() / 1000)]
    table.add_row(name, *cells, f"{found[0] / base:.2f}", f"{found[2] / found[0]:.1f}", f"{len(samples):,}")


def print_table(console: Console, title: str, rows: dict[str, np.ndarray], base: str, first: str) -> None:
    table = Table(first, *(f"p{q:g}" for q in QUANTILES), "max", "x first", "p99.9/p50", "calls", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    reference = float(np.percentile(rows[base], 50)) / 1000
    for name, samples in rows.items():
        add_row(table, name, samples, reference)
    console.print(table)


def main() -> None:
    options = tyro.cli(Bench)
    console = Console(width=None if Console().is_terminal else 120)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    bundle, config, session = tape(options)
    network = (
        bundle.network
        if options.bundle
        else random_network(options.observations, options.hidden, options.seed)
    )
    peers = steps(network, options)
    whole, stamped = ticks(bundle, config, session, options)
    peers.append(bare_loop(peers[0], options.events))
    others = actions(options)
    take_turns([*peers, *whole, *others])
    rows: dict[str, np.ndarray] = {c.name: c.samples for c in peers}
    shape = ", ".join(f"{la.kind} {la.units}" for la in network.layers)
    print_table(
        console,
        f"Policy step, microseconds: {network.inputs} observations, {shape}",
        rows,
        peers[0].name,
        "engine",
    )
    rows = {c.name: c.samples for c in whole[:2]} | {
        f"  {name}": stamped.samples[:, i] for i, name in enumerate(PARTS)
    }
    title = f"Tick to quote, microseconds: market {config.market.name}, {bundle.network.inputs} observations"
    print_table(console, title, rows, whole[0].name, "part")
    rows = {c.name: c.samples for c in others}
    title = f"Tick to orders by action, microseconds: market book, LSTM {options.hidden} and two dense 64"
    print_table(console, title, rows, others[0].name, "action")
    console.print(
        f"{options.events:,} events: a tape of {len(session.outcomes):,} decisions in {session.starts.sum()} "
        "episodes, played over; its orders were those of a live desk, byte for byte. One thread, pinned, "
        f"garbage collection off, {WARM_UP} calls to warm up. Every figure has a reading of the clock in it."
    )


if __name__ == "__main__":
    main()
