"""An operator's word counts once, and a restart widens no limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ccxt")

from mmenv.checks import ConfigError
from mmenv.data.tape import Tape
from mmenv.engine.state import ACTIVE, HALTED
from mmenv.live import journal
from mmenv.live.account_limit import AccountLimit
from mmenv.live.desk import LiveDesk
from mmenv.live.guard import GuardConfig
from mmenv.live.halt import HALT_FILE, HaltFile, leave_word
from mmenv.live.journal import Memory, read
from mmenv.live.rerun import check
from mmenv.live.session import Session
from tests.helpers.desks import Fixed, Runs
from tests.helpers.exchanges import START_NS, tape
from tests.helpers.sessions import setup

LOSS = GuardConfig(daily_loss=0.001, drawdown=0.001, position_limit=5)
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Tape:
    return tape(tmp_path_factory.mktemp("stores"), "binance-usdm")


def orders_since(runs: Runs, seconds: float) -> int:
    return len(runs.requests("POST", "/order", since=seconds))


def test_an_old_clear_takes_back_nothing_at_a_later_start(recorded: Tape, tmp_path: Path) -> None:
    """The daily loss is latched; a `clear` given days before it is in the folder at every start."""
    leave_word(tmp_path, "clear", "days ago", START_NS - 10**15)
    runs = Runs(recorded, tmp_path)
    runs((30.0, 5.0, 5.0), guard=LOSS)
    assert set(runs.latched) == {"daily-loss", "drawdown"}
    assert orders_since(runs, 34) == 0
    check(runs.desk.plan.journal, Fixed())


def test_a_clear_counts_once(recorded: Tape, tmp_path: Path) -> None:
    """Given while the desk is down, it takes back what was latched; what is latched again stays at the next
    start, though the word is still in the folder. What was said, and when, is on record."""
    runs = Runs(recorded, tmp_path)
    said = START_NS + 31 * SECOND
    runs((30.0, 30.0, 5.0), guard=LOSS, between=lambda desk: leave_word(tmp_path, "clear", "again", said))
    assert orders_since(runs, 34) > 0
    assert set(runs.latched) & {"daily-loss", "drawdown"}
    assert orders_since(runs, 67) == 0
    words = [frame.json() for frame in read(runs.desk.plan.journal) if frame.kind == journal.OPERATOR]
    heard = [(word["command"], word["reason"], word["said_ns"]) for word in words if "said_ns" in word]
    assert heard == [("clear", "again", said)]
    check(runs.desk.plan.journal, Fixed())


def test_a_normal_stop_leaves_nothing_to_clear(recorded: Tape, tmp_path: Path) -> None:
    runs = Runs(recorded, tmp_path)
    runs((5.0, 5.0))
    assert set(runs.latched) == {"stop"}
    assert orders_since(runs, 9) > 5


def test_a_halt_pauses_and_a_resume_goes_on(recorded: Tape, tmp_path: Path) -> None:
    """A halt holds through a restart; a resume takes it back, but not what the guard has found."""
    runs = Runs(recorded, tmp_path)
    runs(
        (5.0, 8.0),
        acts=[(3.0, lambda desk: leave_word(tmp_path, "halt", "lunch", START_NS + 3 * SECOND))],
        between=lambda desk: leave_word(tmp_path, "resume", "back", START_NS + 12 * SECOND),
    )  # fmt: skip
    assert not runs.requests("POST", "/order", since=3.2, until=8)
    assert orders_since(runs, 12) > 0
    session = Session(setup(), Fixed(), Memory())
    session.operator("halt", "x", 5)
    session.guard.latch("daily-loss", "lost")
    session.operator("release", "x", 9, said_ns=8)
    assert set(session.guard.latched) == {"daily-loss"}


@pytest.mark.parametrize(
    ("text", "word", "reason"),
    [
        ("flatten now", "flatten", "now"), ("stop it", "halt", "it"), ("\xff\xfe", "halt", "file"),
        ("17 resume x", "resume", "x"),
    ],
)  # fmt: skip
def test_a_word_written_by_hand(tmp_path: Path, text: str, word: str, reason: str) -> None:
    """`echo halt > journals/halt` is a kill switch; what cannot be read is no reason to go on."""
    (tmp_path / HALT_FILE).write_text(text, encoding="latin-1")
    found = HaltFile(tmp_path).news(0)
    assert found is not None
    assert found.word == word
    assert reason in found.reason
    assert HaltFile(tmp_path).news(found.said_ns) is None


def test_two_words_of_one_moment_are_two(tmp_path: Path) -> None:
    leave_word(tmp_path, "halt", "a", 5)
    leave_word(tmp_path, "clear", "b", 5)
    found = HaltFile(tmp_path).news(5)
    assert found is not None
    assert found.word == "clear"


def test_the_accounts_loss_outlives_the_process(tmp_path: Path) -> None:
    """Started again and again after each loss of a third, it is reached all the same; a new session brings
    none, and one that made a profit before gives no credit beyond the best."""
    wealth = {"a": 50.0, "b": 0.0}
    assert AccountLimit(tmp_path, 10.0, "live").update(wealth) is None
    found: list[Any] = []
    for _ in range(3):
        wealth["a"] -= 3.5
        found.append(AccountLimit(tmp_path, 10.0, "live").update(wealth))
    assert found == [None, None, 10.5]
    assert AccountLimit(tmp_path, 10.0, "live").update({"c": -90.0}) is None
    assert AccountLimit(tmp_path, 10.0, "paper").update({"a": 0.0}) is None
    file = tmp_path / "account-loss-live.json"
    assert set(json.loads(file.read_text())["wealth"]) == {"a", "b", "c"}
    file.write_text("{")
    with pytest.raises(ConfigError, match="account-loss-live"):
        AccountLimit(tmp_path, 10.0, "live")


def test_a_halt_before_the_session_begins_waits_for_it(recorded: Tape, tmp_path: Path) -> None:
    runs = Runs(recorded, tmp_path)
    runs((5.0,), acts=[(0.3, lambda desk: desk.command("halt", "signal SIGUSR1"))])
    assert not runs.requests("POST", "/order")
    assert runs.latched["operator"] == "signal SIGUSR1"
    assert runs.desk.session is not None
    assert runs.desk.session.state == HALTED != ACTIVE


def test_a_desk_that_is_stopped_flattens_no_more_until_it_is_started(recorded: Tape, tmp_path: Path) -> None:
    """Told to end while it works out of its position, it sends nothing, ends at once, and then goes on with
    it."""
    runs = Runs(recorded, tmp_path)
    acts = [(6.02, lambda desk: desk.command("flatten", "test")), (6.35, lambda desk: desk.stop("enough"))]
    held: list[tuple[int, float]] = []

    def between(desk: LiveDesk) -> None:
        held.append((runs.account.position(runs.listing).lots, runs.exchange.present.since_start_ns / SECOND))

    runs((60.0, 4.0), player=Fixed(-0.95, 0.3), limit=400, lots=40, acts=acts, between=between)
    [(lots, ended)] = held
    assert runs.requests("POST", "/order", since=6.1, until=6.35)
    assert not runs.requests("POST", "/order", since=6.36, until=ended + 0.01)
    assert ended < 7
    assert not runs.errors
    assert abs(runs.account.position(runs.listing).lots) < abs(lots)
    assert set(runs.latched) == {"operator", "stop"}
    check(runs.desk.plan.journal, Fixed(-0.95, 0.3))
