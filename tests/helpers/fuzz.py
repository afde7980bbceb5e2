"""Spoilt captures of every format: whatever is in a file, an import ends in tapes or in a sentence."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from mmenv.data.importer import Import
from mmenv.data.rows import CaptureError
from mmenv.data.tape import Tape, TapeError
from tests.helpers import archives, captures, feeds, orders
from tests.helpers.imports import TOLD, events_file
from tests.helpers.orders import Market

Files = dict[str, bytes]
Spoil = tuple[str, int, int, int]
"""What to do, and three numbers that say where and how; see `spoilt`."""
HOW = ("set", "insert", "delete", "cut", "again", "swap", "drop", "double", "gzip")

BYTES = b'0123456789",:[]{}-.eE \n\r\x00\xffTA'
_places = st.integers(0, 1 << 20)
spoils = st.lists(
    st.tuples(st.sampled_from(HOW), _places, _places, st.sampled_from(BYTES)), min_size=1, max_size=6
)


def joined(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def samples(folder: Path) -> dict[str, Files]:
    """Small files of each format by its name."""
    folder.mkdir(exist_ok=True)
    market = Market(events=40, seed=5)
    found: dict[str, Files] = {
        "binance": {"x.raw": joined(captures.market(seconds=3, seed=4).lines)},
        "plain": {"x.csv": joined(orders.plain(market))},
        "tardis": dict(zip(("b.csv", "t.csv"), map(joined, orders.tardis(market)), strict=True)),
        "databento": {"x.csv": joined(orders.databento_csv(orders.databento(market), pretty=True))},
        "databento-dbn": {"x.dbn": orders.dbn(orders.databento(market))},
    }
    paths = orders.lobster_files(market, folder)[0]
    found["lobster"] = {path.name: path.read_bytes() for path in paths}
    for venue in feeds.VENUES:
        found[venue] = {"x.raw": joined(feeds.capture(feeds.market(events=40), venue))}
    from tests.mmenv.data.formats.test_feeds import bitstamp

    found["itch"] = {"06212012.NASDAQ_ITCH50": orders.itch(market, orders.NEW_YORK_MIDNIGHT_NS)}
    found["bitstamp"] = {"x.log": joined(bitstamp())}
    events = events_file(folder)
    found["hftbacktest"] = {events.name: events.read_bytes()}
    for name, (_, write) in archives.ARCHIVES.items():
        market = feeds.market(events=80)
        (folder / name).mkdir()
        found[name] = {path.name: path.read_bytes() for path in write(market, folder / name)}
    return found


def format_of(name: str) -> str:
    """The format of a sample."""
    return archives.ARCHIVES[name][0] if name in archives.ARCHIVES else name.partition("-")[0]


def spoilt(data: bytes, edits: list[Spoil]) -> bytes:
    """The bytes of a file after these edits."""
    for how, first, second, byte in edits:
        at, lines = first % (len(data) + 1), data.split(b"\n")
        one, other = first % len(lines), second % len(lines)
        if how == "set":
            data = data[:at] + bytes([byte]) + data[at + 1 :]
        elif how == "insert":
            data = data[:at] + bytes([byte]) * (1 + second % 30) + data[at:]
        elif how == "delete":
            data = data[:at] + data[at + 1 + second % 200 :]
        elif how == "cut":
            data = data[:at]
        elif how == "gzip":
            packed = gzip.compress(data, mtime=0)
            data = packed[: max(len(packed) - second % 50, 1)]
        else:
            if how == "again":
                lines.insert(other, lines[one])
            elif how == "swap":
                lines[one], lines[other] = lines[other], lines[one]
            elif how == "drop":
                del lines[one]
            elif how == "double":
                lines += lines
            data = b"\n".join(lines)
    return data


def check_import(name: str, files: Files, edits: list[Spoil], folder: Path) -> str:
    """Import the files, the first of them spoilt; require tapes, or a sentence and the store as before.

    Returns what came of it: "tapes", or the beginning of the sentence.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = []
    for place, (each, data) in enumerate(files.items()):
        path = folder / each
        path.write_bytes(spoilt(data, edits) if place == 0 else data)
        paths.append(path)
    options = {"allow_no_trades": True, "allow_refused": True, "trade_side": "tick", **TOLD.get(name, {})}
    store = folder / "store"
    job = Import(format_of(name), tuple(paths), store, progress=False, **options)  # type: ignore[arg-type]
    refused = ""
    try:
        for _, report in job.run():
            assert str(report)
    except (CaptureError, TapeError) as error:
        refused = str(error)
    if refused:
        assert len(refused) > 10
        assert not store.exists() or not list(store.iterdir())
        return refused.partition(":")[2][:60]
    for path in store.rglob("*.parquet"):
        assert sum(map(len, Tape(path).rows(orders=True))) == Tape(path).info.rows
    return "tapes"


Check = Callable[[str, Files, list[Spoil], Path], str]
