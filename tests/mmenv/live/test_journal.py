"""The journal: nothing flushed is lost, nothing damaged is believed, and it plays again to the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmenv.data.rows import ROW
from mmenv.live import journal
from mmenv.live.journal import MAGIC, ROWS, STATE, Journal, JournalError, parts, read
from mmenv.live.rerun import Mismatch, check, decisions, recover
from mmenv.times import DAY
from tests.helpers.sessions import Wanderer, paper, rows, run

pytest.importorskip("hftbacktest")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a session that nothing interrupted, with some fifteen snapshots."""
    path = tmp_path_factory.mktemp("whole") / "journal"
    file = Journal(path)
    session = paper(file, snapshots=0.05)
    file.close()
    assert session.fills > 5
    return path


def test_frames_come_back(tmp_path):
    file = Journal(tmp_path / "j")
    written = [(kind, os.urandom(size)) for kind in journal.NAMES for size in (0, 1, 5000)]
    for kind, payload in written:
        file.write(kind, payload)
    file.close()
    assert [(frame.kind, frame.payload) for frame in read(tmp_path / "j")] == written


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 30))
def test_a_torn_tail_is_cut_and_written_on(tmp_path, at):
    """Whatever byte the file ends at: every whole frame before it is there, and the next one follows."""
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    file = Journal(path)
    ends = [len(MAGIC)]
    for number in range(12):
        file.write(STATE, bytes([number]) * (7 * number))
        file.flush()
        ends.append(path.stat().st_size)
    file.close()
    cut = at % (ends[-1] + 1)
    os.truncate(path, cut)
    kept = sum(end <= cut for end in ends[1:])
    file = Journal(path)
    assert file.frames == kept
    file.write(STATE, b"next")
    file.close()
    assert [frame.payload for frame in read(path)][kept:] == [b"next"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 30), st.integers(1, 255))
def test_damage_before_the_end_is_refused(tmp_path, at, flip):
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    file = Journal(path)
    for number in range(12):
        file.write(STATE, bytes([number]) * 40)
    file.close()
    data = bytearray(path.read_bytes())
    last = len(data) - 57
    data[len(MAGIC) + at % (last - len(MAGIC))] ^= flip
    path.write_bytes(data)
    with pytest.raises(JournalError, match="damaged at byte"):
        Journal(path)
    assert path.read_bytes() == data


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 60), min_size=1, max_size=40), st.integers(30, 200), st.data())
def test_a_journal_of_several_files_is_one(tmp_path, sizes, limit, data):
    """It rotates by size and at midnight; whenever it is killed in between, every frame is there once and the
    next one follows. A byte that is wrong in an earlier file is refused, and so is a file that is missing."""
    for file in tmp_path.iterdir():
        file.unlink()
    path, killed = tmp_path / "j", data.draw(st.integers(0, len(sizes)))
    writer = Journal(path)
    for number, size in enumerate(sizes):
        if number == killed:
            writer.tear(0)
            if data.draw(st.booleans()):
                # After the first of a rotation's two steps.
                os.link(path, path.with_name(f"j.{len(parts(path)):04d}"))
            writer = Journal(path)
        writer.write(STATE, bytes([number]) * size)
        writer.flush()
        day = 5 if number < 20 else 6
        writer.rotate(day * DAY, limit)
    writer.close()
    assert [frame.payload for frame in read(path)] == [bytes([n]) * size for n, size in enumerate(sizes)]
    files = parts(path)
    assert all(len(MAGIC) < file.stat().st_size < limit + 80 for file in files[:-1])
    assert len(files) > (sum(sizes) // (limit + 80)) + (len(sizes) > 21)
    if len(files) > 1:
        earlier = data.draw(st.sampled_from(files[:-1]))
        content = bytearray(earlier.read_bytes())
        content[data.draw(st.integers(len(MAGIC), len(content) - 1))] ^= 1
        earlier.write_bytes(content)
        for broken in (lambda: list(read(path)), lambda: Journal(path)):
            with pytest.raises(JournalError, match="damaged at byte"):
                broken()
        earlier.unlink()
        if path.stat().st_size > len(MAGIC) or earlier != files[-2]:
            with pytest.raises(JournalError, match=r"damaged at byte|missing"):
                list(read(path))


def test_a_rotated_file_is_locked_before_it_is_seen(tmp_path):
    writer = Journal(tmp_path / "j")
    writer.write(STATE, b"frame")
    writer.rotate(0, 0)
    writer.flush()
    with pytest.raises(JournalError, match="in use by another desk"):
        Journal(tmp_path / "j")
    writer.close()


def test_a_folder_of_journals_names_them(tmp_path):
    (tmp_path / "paper-x-BTC.journal").touch()
    with pytest.raises(
        JournalError, match=r"is a folder: name a journal in it; there is paper-x-BTC\.journal"
    ):
        list(read(tmp_path))


def test_only_one_desk_writes(tmp_path):
    file = Journal(tmp_path / "j")
    with pytest.raises(JournalError, match="in use by another desk"):
        Journal(tmp_path / "j")
    file.close()
    Journal(tmp_path / "j").close()


def test_a_journal_is_private(tmp_path):
    Journal(tmp_path / "j").close()
    assert (tmp_path / "j").stat().st_mode & 0o077 == 0


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_session_plays_again_to_the_same_bytes(whole):
    """With its policy, and with the recorded actions alone."""
    frames = sum(1 for _ in read(whole))
    for player in (Wanderer(), None):
        session, agreed = check(whole, player)
        assert agreed == frames
        assert session.decision.tobytes() == decisions(whole)[-1].tobytes()


def test_another_policy_is_noticed(whole):
    with pytest.raises(Mismatch, match="decision"):
        check(whole, Wanderer(-1.0, 1.0))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.05, 0.999))
def test_a_session_killed_anywhere_goes_on_as_if_nothing_had_been(whole, tmp_path, share):
    """Recovered from a journal cut at any byte and told the rest of the market, it makes the same decisions,
    orders and fills: position, open orders, windows and the policy's memory are all there. What lies before
    the newest snapshot is not even looked at, but a replay finds that it is damaged."""
    path = tmp_path / "cut"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    start = journal.newest_snapshot(path)
    if start.number:
        flip(path, start.at - 3)
    session = recover(path, Wanderer())
    if start.number:
        with pytest.raises(JournalError, match="damaged at byte"):
            check(path)
        flip(path, start.at - 3)
    known = sum(len(np.frombuffer(frame.payload, ROW)) for frame in read(path) if frame.kind == ROWS)
    run(session, rows()[known:], seed=1)
    session.sink.close()
    check(path)
    for kind in (journal.DECISION, journal.ORDERS, journal.FILLS, journal.STATE):
        ours, theirs = (
            [frame.payload for frame in read(file) if frame.kind == kind] for file in (path, whole)
        )
        assert ours == theirs
