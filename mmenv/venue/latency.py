"""How long our orders take to the exchange and its answers back, where that varies; seeded, or as recorded.

A latency is a table of round trips in order of time: sent by us, at the exchange, answered. hftbacktest's
`IntpOrderLatency` reads such a table and interpolates between its rows; `Latency` does the same for our own
matcher. Tables made here have a row at each decision, which is when orders leave, so what is drawn for it is
what its orders get; fills, which happen in between, are answered by interpolation. Messages never overtake
each other.

| model | entry and response |
|---|---|
| `constant` | `order_latency_ns` each |
| `lognormal` | drawn for each decision: median `order_latency_ns`, log deviation `latency_spread` |
| `feed` | `order_latency_ns` and what the newest market message was late by, beyond the fastest one |
| `empirical` | drawn for each decision from the round trips of `latency_file` |
| `recorded` | those of `latency_file` at its own times, interpolated |
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numba import njit
from numpy.typing import NDArray

from mmenv.data.events import LOCAL_FLAG, Replay
from mmenv.data.tape import TapeError
from mmenv.engine.memory import aligned_zeros
from mmenv.venue.settings import ReplayConfig

ROUND_TRIP: Final = np.dtype([("req_ts", "<i8"), ("exch_ts", "<i8"), ("resp_ts", "<i8"), ("_padding", "<i8")])
"""hftbacktest's row of order latency, nanoseconds."""

COLUMNS: Final = ("sent_ns", "exchange_ns", "answered_ns")
"""Columns of a latency file: our clock, the exchange's and ours again, as in the capture of the tape."""

MOST: Final = 20.0
"""A drawn latency is at most this many medians."""

Times = NDArray[np.int64]


def round_trips(
    config: ReplayConfig, replay: Replay, offset_ns: int, local_ns: int, end_ns: int
) -> NDArray[np.void]:
    """ROUND_TRIP rows for an episode from `local_ns`, at most to `end_ns`; none where latency is constant.

    The draws depend on `config.latency_seed` and `local_ns` alone. Past `config.episode_ns` the last one
    stays.

    Raises
    ------
    TapeError
        A latency file that cannot be used.
    """
    model, base = config.order_latency, config.order_latency_ns
    if model == "constant":
        return np.zeros(0, ROUND_TRIP)
    if model == "recorded":
        trips = _by_tape(config.latency_file, offset_ns)
        if trips[-1, 0] < local_ns or trips[0, 0] > end_ns:
            first, last = np.datetime64(int(trips[0, 0]), "ns"), np.datetime64(int(trips[-1, 0]), "ns")
            raise TapeError(
                f"{config.latency_file}: its round trips, {first} to {last} UTC, lie outside the episode "
                f"from {np.datetime64(local_ns, 'ns')}; use order_latency empirical, or a file of that time"
            )
        return ordered(trips[:, 0], trips[:, 1] - trips[:, 0], trips[:, 2] - trips[:, 1])
    span = min(end_ns - local_ns, config.episode_ns)
    sent = local_ns + config.decision_interval_ns * np.arange(span // config.decision_interval_ns + 1)
    random = np.random.default_rng((config.latency_seed, local_ns))
    if model == "lognormal":
        draws = base * np.exp(config.latency_spread * random.standard_normal((2, len(sent))))
        entry, response = np.minimum(np.rint(draws), MOST * base).astype(np.int64)
    elif model == "empirical":
        trips = _by_tape(config.latency_file, offset_ns)
        drawn = trips[random.integers(len(trips), size=len(sent))]
        entry, response = drawn[:, 1] - drawn[:, 0], drawn[:, 2] - drawn[:, 1]
    else:
        entry = response = base + _lateness(replay, sent) - config.feed_latency_ns
    return ordered(sent, entry, response)


def ordered(sent: Times, entry: Times, response: Times) -> NDArray[np.void]:
    """ROUND_TRIP rows [n] of round trips from `sent`, strictly increasing, [n]; none overtakes another.

    hftbacktest needs exchange times that increase and are not after the answers: it stops for good otherwise.
    """
    steps = np.arange(len(sent))
    rows: NDArray[np.void] = aligned_zeros(len(sent), ROUND_TRIP)
    rows["req_ts"] = sent
    rows["exch_ts"] = np.maximum.accumulate(sent + entry - steps) + steps
    rows["resp_ts"] = np.maximum.accumulate(np.maximum(rows["exch_ts"], sent + entry + response))
    return rows


def _lateness(replay: Replay, sent: Times) -> Times:
    """Delay of the newest message that had arrived at each time, feed latency included, nanoseconds."""
    first = int(replay.rows[replay.start(int(sent[0]))])
    after = int(np.searchsorted(replay.starts, sent[-1], side="right")) + 1
    part = replay.events[first : replay.rows[after] if after < len(replay.rows) else None]
    part = part[(part["ev"] & np.uint64(LOCAL_FLAG)) != 0]
    at = np.searchsorted(part["local_ts"], sent, side="right") - 1
    late: Times = (part["local_ts"] - part["exch_ts"])[np.maximum(at, 0)]
    return late


def _by_tape(name: str, offset_ns: int) -> Times:
    """Round trips (n, COLUMNS) of a file, our clock moved by `offset_ns` as the tape's was."""
    trips = read(name) + np.array([offset_ns, 0, offset_ns])
    bad = np.flatnonzero((np.diff(trips, axis=1) < 0).any(axis=1))
    if len(bad):
        raise TapeError(
            f"{name}: row {bad[0] + 1} has a negative latency by the tape's clock; the columns are "
            f"{', '.join(COLUMNS)}, the clocks those of the capture"
        )
    return trips


@functools.lru_cache(maxsize=4)
def read(name: str) -> Times:
    """Round trips (n, COLUMNS) of a CSV or Parquet file, in order of sending.

    Raises
    ------
    TapeError
        The file is none.
    """
    path = Path(name)
    try:
        table = pa.parquet.read_table(path) if path.suffix == ".parquet" else pa.csv.read_csv(path)
        found = np.stack([table.column(column).to_numpy().astype(np.int64) for column in COLUMNS], axis=1)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise TapeError(
            f"{name}: not a latency file ({str(error).splitlines()[0]}); give CSV or Parquet with integer "
            f"columns {', '.join(COLUMNS)}"
        ) from None
    if not len(found):
        raise TapeError(f"{name}: no round trips; give at least one row of {', '.join(COLUMNS)}")
    found = found[np.argsort(found[:, 0], kind="stable")]
    return found[np.concatenate([np.diff(found[:, 0]) > 0, [True]])]


class Latency:
    """When an order reaches the exchange, and what of the exchange we know when; as hftbacktest has it.

    Parameters
    ----------
    constant_ns
        How long an order takes to the exchange, and its answer back, where `rows` are none.
    rows
        ROUND_TRIP rows that `ordered` made.
    """

    def __init__(self, constant_ns: int, rows: NDArray[np.void] | None = None) -> None:
        trips = np.zeros(0, ROUND_TRIP) if rows is None else rows
        self.constant_ns = constant_ns
        self._sent, self._reached, self._answered = (
            np.ascontiguousarray(trips[name]) for name in ("req_ts", "exch_ts", "resp_ts")
        )

    def arrival(self, sent_ns: int) -> int:
        """When an order sent then reaches the exchange."""
        if not len(self._sent):
            return sent_ns + self.constant_ns
        return sent_ns + int(delay(self._sent, self._reached, sent_ns))

    def known(self, now_ns: int) -> int:
        """Exchange time of the last thing whose answer is here."""
        if not len(self._sent):
            return now_ns - self.constant_ns
        return int(_known(self._reached, self._answered, now_ns))


@njit(cache=True, nogil=True)
def delay(begins, ends, at):
    """ends - begins at a time, by hftbacktest's interpolation: the first and the last row go on for ever."""
    k = np.searchsorted(begins, at, side="right") - 1
    if k < 0:
        return ends[0] - begins[0]
    if k >= len(begins) - 1:
        return ends[-1] - begins[-1]
    low, high = ends[k] - begins[k], ends[k + 1] - begins[k + 1]
    return np.int64((float(high - low) / float(begins[k + 1] - begins[k])) * float(at - begins[k])) + low


@njit(cache=True, nogil=True)
def _known(reached, answered, now):
    k = np.searchsorted(answered, now, side="right") - 1
    if k < 0:
        return now - (answered[0] - reached[0])
    if k >= len(reached) - 1:
        return now - (answered[-1] - reached[-1])
    low, high = reached[k], reached[k + 1] - 1
    while low < high:
        middle = low + (high - low + 1) // 2
        if middle + delay(reached, answered, middle) <= now:
            low = middle
        else:
            high = middle - 1
    return low
