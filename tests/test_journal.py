"""The journal: nothing flushed is lost, nothing damaged is believed, and it plays again to the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmenv.data.tape import ROW
from mmenv.live import journal
from mmenv.live.again import Mismatch, check, decisions, recover
from mmenv.live.journal import MAGIC, ROWS, STATE, Journal, JournalError, read
from tests.sessions import Wanderer, paper, rows, run

pytest.importorskip("hftbacktest")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a session that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "journal"
    file = Journal(path)
    session = paper(file)
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


def test_only_one_desk_writes(tmp_path):
    file = Journal(tmp_path / "j")
    with pytest.raises(JournalError, match="in use by another desk"):
        Journal(tmp_path / "j")
    file.close()
    Journal(tmp_path / "j").close()


def test_a_journal_is_private(tmp_path):
    Journal(tmp_path / "j").close()
    assert (tmp_path / "j").stat().st_mode & 0o077 == 0


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
    orders and fills: position, open orders, windows and the policy's memory are all there."""
    path = tmp_path / "cut"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    session = recover(path, Wanderer())
    known = sum(len(np.frombuffer(frame.payload, ROW)) for frame in read(path) if frame.kind == ROWS)
    run(session, rows()[known:], seed=1)
    session.sink.close()
    for kind in (journal.DECISION, journal.ORDERS, journal.FILLS, journal.STATE):
        ours, theirs = (
            [frame.payload for frame in read(file) if frame.kind == kind] for file in (path, whole)
        )
        assert ours == theirs
