"""Spoilt captures of every format: whatever is in a file, an import ends in tapes or in a sentence."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from hypothesis import strategies as st

from mmenv.data.importer import Import
from mmenv.data.lines import read_blocks
from mmenv.data.problems import Report
from mmenv.data.rows import CaptureError
from mmenv.data.store import check
from mmenv.data.tape import Tape, TapeError
from tests.helpers import archives, captures, feeds, orders
from tests.helpers.imports import TOLD, events_file
from tests.helpers.orders import Market

Files = dict[str, bytes]
Spoil = tuple[str, int, int, int]
"""What to do, and three numbers that say where and how; see `spoilt`."""
STORED_TAPES: Final = 20
"""So many tapes may lie in the store before it is begun anew: what was there must stay as it was."""

BYTES: Final = b'0123456789",:[]{}-.eE \n\r\x00\xffTA'
VALUES: Final = (
    *(b"", b"0", b"-1", b"1e400", b"NaN", b"null", b"true", b"[]", b"{}", b'"', b"0.00000000000000000001"),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808", b"1e-30", b"Infinity"),
    *(b"99999999999999999999999999", b"1.2.3", b"0x10", b"\xff\xfe", b"..", b"a/b", b"12e2", b"1_000"),
)
"""Put in place of a word or number."""
FIELDS: Final = tuple(
    bytes([first]) + bytes([rest]) * (width - 1)
    for width in (1, 2, 4, 8)
    for first, rest in ((0, 0), (255, 255), (255, 127), (0, 128), (127, 255), (128, 0))
)
"""Written over the fields of a binary file: zeros, ones, the largest and smallest of either byte order."""
JSON: Final = (
    None,
    True,
    5,
    1 << 63,
    0.5,
    "",
    "x",
    "9" * 30,
    "-" + "9" * 30,
    [],
    [5],
    [[5, 5]],
    ["x"],
    {},
    {"data": 5},
)
"""Put in place of a JSON value, whatever that is."""
WORD: Final = re.compile(rb"[-+\w.]+")
_places = st.integers(0, 1 << 20)


def _edits(names: tuple[str, ...], most: int) -> st.SearchStrategy[list[Spoil]]:
    edit = st.tuples(st.sampled_from(names), _places, _places, st.sampled_from(BYTES))
    return st.lists(edit, min_size=1, max_size=most)


GENTLE: Final = ("value", "json", "set", "again", "swap", "drop")
"""After one of these most of a file can still be read."""
spoils = _edits(GENTLE, 4) | _edits((*GENTLE, "insert", "delete", "cut", "double", "gzip", "zip"), 6)


def joined(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def samples(folder: Path) -> dict[str, Files]:
    """Small files of each format by its name; none is compressed, so that spoilt bytes reach the reader."""
    folder.mkdir(exist_ok=True)
    market = Market(events=40, seed=5)
    records = orders.databento(market)
    found: dict[str, Files] = {
        "binance": {"x.raw": joined(captures.market(seconds=3, seed=4).lines)},
        "plain": {"x.csv": joined(orders.plain(market))},
        "tardis": dict(zip(("b.csv", "t.csv"), map(joined, orders.tardis(market)), strict=True)),
        "databento": {"x.csv": joined(orders.databento_csv(records, pretty=True))},
        "databento-dbn": {"x.dbn": orders.dbn(records)},
        "itch": {"06212012.NASDAQ_ITCH50": orders.itch(market, orders.NEW_YORK_MIDNIGHT_NS)},
    }
    for name in ("plain", "databento"):
        found[f"{name}-parquet"] = {
            "x.parquet": parquet(pyarrow.csv.read_csv(io.BytesIO(found[name]["x.csv"])))
        }
    found["lobster"] = _files(orders.lobster_files(market, folder)[0])
    for venue in feeds.VENUES:
        found[venue] = {"x.raw": joined(feeds.capture(feeds.market(events=40), venue))}
    from tests.mmenv.data.formats.test_feeds import bitstamp

    found["bitstamp"] = {"x.log": joined(bitstamp())}
    with np.load(events_file(folder)) as packed:
        found["hftbacktest"] = {"x.npy": _npy(packed["data"])}
    for name, (_, write) in archives.ARCHIVES.items():
        (folder / name).mkdir()
        found[name] = _files(write(feeds.market(events=80), folder / name))
    return found


def parquet(table: pa.Table) -> bytes:
    """A Parquet file whose values lie in it as they are."""
    file = io.BytesIO()
    pq.write_table(table, file, compression="none", use_dictionary=False, write_statistics=False)
    return file.getvalue()


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _files(paths: list[Path]) -> Files:
    """What is in the files, uncompressed, by their names without the compression."""
    found = {}
    for path in paths:
        data = path.read_bytes() if path.suffix != ".parquet" else parquet(pq.read_table(path))
        if path.suffix in (".zip", ".gz"):
            data = b"".join(block for block, _ in read_blocks(path))
        found[re.sub(r"(\.csv|\.data)?(\.zip|\.tar\.gz|\.gz)$", r"\1", path.name)] = data
    return found


def format_of(name: str) -> str:
    """The format of a sample."""
    return archives.ARCHIVES[name][0] if name in archives.ARCHIVES else name.partition("-")[0]


# Spoiling ---------------------------------------------------------------------------------------------------


def lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def dbn_records(data: bytes) -> list[bytes]:
    """The head of a DBN file and its records, each of which begins with its length in words."""
    return list(_cut(data, 8 + int.from_bytes(data[4:8], "little"), lambda at: 4 * data[at]))


def itch_messages(data: bytes) -> list[bytes]:
    return list(_cut(data, 0, lambda at: 2 + int.from_bytes(data[at : at + 2], "big")))


def event_rows(data: bytes) -> list[bytes]:
    """The head of a numpy file of hftbacktest's events and its rows."""
    return list(_cut(data, 10 + int.from_bytes(data[8:10], "little"), lambda at: 64))


def _cut(data: bytes, head: int, length: Callable[[int], int]) -> Iterator[bytes]:
    yield data[:head]
    at = head
    while at < len(data):
        end = at + max(length(at), 1)
        yield data[at:end]
        at = end


BINARY: Final[dict[str, Callable[[bytes], list[bytes]]]] = {
    "databento-dbn": dbn_records,
    "itch": itch_messages,
    "hftbacktest": event_rows,
    **dict.fromkeys(("nautilus", "plain-parquet", "databento-parquet"), lambda data: [data]),
}
"""How to take a file apart that does not consist of lines."""


def spoilt(name: str, data: bytes, edits: list[Spoil]) -> bytes:
    """The bytes of a file of this sample after these edits."""
    for how, first, second, byte in edits:
        data = _spoilt(name, data, how, first, second, byte)
    return data


def _spoilt(name: str, data: bytes, how: str, first: int, second: int, byte: int) -> bytes:
    at = first % (len(data) + 1)
    if how == "set":
        return data[:at] + bytes([byte]) + data[at + 1 :]
    if how == "insert":
        return data[:at] + bytes([byte]) * (1 + second % 30) + data[at:]
    if how == "delete":
        return data[:at] + data[at + 1 + second % 200 :]
    if how == "cut":
        return data[:at]
    if how in ("gzip", "zip"):
        packed = gzip.compress(data, 1, mtime=0) if how == "gzip" else _zipped(data)
        return packed[: max(len(packed) - second % 50 * (byte % 2), 1)]
    if how == "value":
        return _other_value(name, data, at, second)
    if how == "json":
        return _other_json(data, first, second)
    parts = BINARY.get(name, lines)(data) or [b""]
    one, other = first % len(parts), second % len(parts)
    if how == "again":
        parts.insert(other, parts[one])
    elif how == "swap":
        parts[one], parts[other] = parts[other], parts[one]
    elif how == "drop":
        del parts[one]
    elif how == "double":
        parts += parts
    return b"".join(parts)


def _other_value(name: str, data: bytes, at: int, which: int) -> bytes:
    """With another value at a place."""
    if name in BINARY:
        field = FIELDS[which % len(FIELDS)]
        return data[:at] + field + data[at + len(field) :]
    word = WORD.search(data, at)
    if word is None:
        return data
    return data[: word.start()] + VALUES[which % len(VALUES)] + data[word.end() :]


def _other_json(data: bytes, first: int, second: int) -> bytes:
    """With another JSON value at a place of a line that ends in JSON."""
    found = lines(data)
    line = first % max(len(found), 1)
    text = found[line] if found else b""
    start = text.find(b"{")
    try:
        message = orjson.loads(text[start:])
    except ValueError:
        return data
    places = list(json_places(message))
    changed = with_json(message, places[second % len(places)], JSON[second // len(places) % len(JSON)])
    found[line] = text[:start] + orjson.dumps(changed) + b"\n"
    return b"".join(found)


def json_places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to a value and to each one in it."""
    yield above
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from json_places(value[key], (*above, key))


def with_json(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    """A copy of `value` with another one at a place of `json_places`."""
    if not place:
        return other
    copied = value.copy()
    copied[place[0]] = with_json(value[place[0]], place[1:], other)
    return copied


def _zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(zipfile.ZipInfo("x"), data)
    return file.getvalue()


# Importing --------------------------------------------------------------------------------------------------


def _stored(store: Path) -> dict[Path, tuple[int, int, int]]:
    """Every file of a store, hidden ones too, with what changes when it is written anew."""
    found = [path for path in store.rglob("*") if path.is_file()]
    status = [path.stat() for path in found]
    return {
        path: (each.st_ino, each.st_mtime_ns, each.st_size) for path, each in zip(found, status, strict=True)
    }


def check_import(name: str, files: Files, edits: list[Spoil], folder: Path) -> str:
    """Import the files, one of them spoilt, over what is in the store of `folder`.

    Requires sound tapes, or a sentence and every byte of the store as before. Returns what came of it:
    "tapes", or the beginning of the sentence.
    """
    store, inputs = folder / "store", folder / "files"
    before = _stored(store)
    if len(before) > STORED_TAPES:
        shutil.rmtree(store)
        before = {}
    inputs.mkdir(parents=True, exist_ok=True)
    paths = [inputs / each for each in files]
    chosen = edits[0][1] % len(files) if edits else -1
    for place, (path, data) in enumerate(zip(paths, files.values(), strict=True)):
        path.write_bytes(spoilt(name, data, edits) if place == chosen else data)
    options = {"allow_no_trades": True, "allow_refused": True, "trade_side": "tick", "overwrite": True}
    told = TOLD.get(format_of(name), {})
    job = Import(format_of(name), tuple(paths), store, progress=False, **options | told)  # type: ignore[arg-type]
    refused, results = "", list[tuple[list[Tape], Report]]()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # of numpy: a number that does not fit
            results = job.run()
    except (CaptureError, TapeError) as error:
        refused = str(error)
    if refused:
        assert len(refused) > 10
        assert _stored(store) == before
        assert store.exists() == bool(before)
        return refused.partition(":")[2][:60]
    for tapes, report in results:
        assert str(report)
        for tape in tapes:
            check(Tape(tape.path))
    assert not list(store.glob(".*"))
    return "tapes"
