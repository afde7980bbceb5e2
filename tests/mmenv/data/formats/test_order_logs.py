"""Captures of single orders: compiled code reads what Python reads, and the book is what the orders say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.feeds import ORDERS
from mmenv.data.formats.base import ImportOptions, open_importers
from mmenv.data.problems import Report
from mmenv.data.rows import DEPTH, RAW, SNAPSHOT, CaptureError
from tests.helpers import feeds
from tests.helpers.archives import coinbase_full as full
from tests.helpers.fuzz import Spoil, joined, spoils, spoilt
from tests.helpers.orders import write_lines
from tests.mmenv.data.formats.test_feeds import bitstamp as log

settled = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def read(name: str, path: Path) -> tuple[bytes, str]:
    """Rows and what is told of them; of a file that is refused, the sentence."""
    try:
        [importer] = open_importers(name, [path], ImportOptions())
        report = Report(importer.names)
        rows = b"".join(chunk.tobytes() for chunk in importer.chunks(report))
    except CaptureError as error:
        return b"", str(error)
    return rows, str(report)


def read_both(name: str, path: Path) -> tuple[bytes, str]:
    """The same, which must be the same if Python reads every line."""
    found = read(name, path)
    _, module, scan = ORDERS[name]
    with patch.object(module, scan, module.no_scan):
        assert found == read(name, path)
    return found


def of_bitstamp(event: str, place: int, data: str) -> str:
    return f'{1_430_438_404_518 + 10 * place} {event} {{"datetime": "1430438404", {data}}}'


@pytest.mark.parametrize("name", ORDERS)
def test_compiled_code_reads_what_python_reads(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("spoilt") / "x"
    whole = joined(3 * log() if name == "bitstamp" else full(feeds.market(events=20)))

    @settled
    @given(spoils)
    def run(edits: list[Spoil]) -> None:
        path.write_bytes(spoilt(name, whole, edits))
        read_both(name, path)

    run()


def test_numbers_of_floats_are_rounded_as_python_does(tmp_path: Path) -> None:
    """Bitstamp has written 1.7885566900000001 for the amount 1.78855669."""

    @settled
    @given(
        st.lists(
            st.tuples(st.floats(1e-9, 2e5), st.integers(0, 9), st.sampled_from(["r", ".17g", "half"])),
            min_size=20,
        )
    )
    def run(values: list[tuple[float, int, str]]) -> None:
        texts = [
            repr(value) if how == "r" else format(value, how) if how == ".17g" else f"{value:.8f}5000{more}"
            for value, more, how in values
        ]
        lines = [
            of_bitstamp("trade", place, f'"id": {place}, "price": {text}, "amount": {text}')
            for place, text in enumerate(texts)
        ]
        read_both("bitstamp", write_lines(tmp_path / "x", [log()[0], *lines]))

    run()


def test_a_day_that_no_month_has_is_no_time(tmp_path: Path) -> None:
    lines = full(feeds.market(events=20))
    lines[40] = lines[40].replace(json.loads(lines[40].partition(" ")[2])["time"][:10], "2012-06-31")
    _, told = read_both("coinbase", write_lines(tmp_path / "x", lines))
    assert "x:41" in told
    assert "day is out of range" in told


@pytest.mark.parametrize("place", [2, -5])
def test_a_number_beyond_64_bits_is_told(place: int, tmp_path: Path) -> None:
    """Of a message that waits for the book, and of one after it."""
    lines = full(feeds.market(events=20))
    rows, _ = read("coinbase", write_lines(tmp_path / "x", lines))
    stamp, _, text = lines[place].partition(" ")
    lines[place] = f"{stamp} {json.dumps(json.loads(text) | {'sequence': 10**30})}"
    less, told = read_both("coinbase", write_lines(tmp_path / "x", lines))
    assert "time or number; skipped" in told
    assert len(less) <= len(rows)


def test_thousands_of_orders_are_the_book(tmp_path: Path) -> None:
    """Orders that never cross, told one by one before and after the first book."""
    random = np.random.default_rng(3)
    said, standing = [], dict[int, tuple[int, int, int]]()
    for number in range(12_000):
        if number == 700:
            book = Counter[tuple[int, int]]()
            for side, price, size in standing.values():
                book[side, price] += size
            bids, asks = (
                [
                    [str(price), str(size)]
                    for (side, price), size in sorted(book.items(), reverse=kind == 0)
                    if side == kind
                ]
                for kind in (0, 1)
            )
            said.append(("order_book", json.dumps({"bids": bids, "asks": asks})[1:-1]))
        if standing and random.random() < 0.3:
            order = int(random.choice(list(standing)))
            side, price, size = standing.pop(order)
            said.append(("order_deleted", told(order, side, price, size)))
            continue
        side = int(random.integers(2))
        price = int(20_000 + (1 if side else -1) * random.integers(1, 3_000))
        standing[number] = side, price, int(random.integers(1, 100))
        said.append(("order_created", told(number, *standing[number])))
    lines = [of_bitstamp(event, place, data) for place, (event, data) in enumerate(said)]
    rows = np.frombuffer(read_both("bitstamp", write_lines(tmp_path / "x", lines))[0], RAW)
    last = {
        (int(row["side"]), int(row["price"])): int(row["size"])
        for row in rows[np.isin(rows["kind"], (DEPTH, SNAPSHOT))]
    }
    wanted = Counter[tuple[int, int]]()
    for side, price, size in standing.values():
        wanted[-1 if side else 1, price * 10**8] += size * 10**8
    assert {level: size for level, size in last.items() if size} == wanted


def told(order: int, side: int, price: int, size: int) -> str:
    return f'"id": {order}, "order_type": {side}, "price": "{price}", "amount": "{size}"'
