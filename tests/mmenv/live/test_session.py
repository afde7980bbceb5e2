"""Paper and live desks: the same bytes as the backtest, and no quote where a rule forbids it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmenv import make_config
from mmenv.data.book import Book
from mmenv.data.importer import Import
from mmenv.data.rows import BUY, CLEAR, DEPTH, SNAPSHOT
from mmenv.desk.desk import Desk
from mmenv.engine.state import ACTIVE, HALTED, REDUCING
from mmenv.live import journal
from mmenv.live.compare import backtest
from mmenv.live.guard import Facts, Guard, GuardConfig
from mmenv.live.journal import Journal, Memory, read
from mmenv.live.rerun import check, decisions, to_tape
from mmenv.live.session import Session
from mmenv.times import DAY
from tests.helpers.captures import market, write
from tests.helpers.sessions import MS, Wanderer, paper, rows, run, setup

pytest.importorskip("hftbacktest")

# Zero skew.


@pytest.mark.parametrize("latency_ms", [1.0, 20.0, 150.0])
def test_a_paper_session_through_the_backtester(tmp_path, latency_ms):
    """Observations, events, fills, rewards and quotes, byte for byte, by hftbacktest and by our own matcher,
    over several episodes and with messages that came too late for the order they happened in."""
    file = Journal(tmp_path / "journal")
    session = paper(file, latency_ms=latency_ms)
    file.close()
    made = decisions(tmp_path / "journal")
    assert session.fills > 5
    assert (session.execution.late > 0) == (latency_ms < 100)
    assert (made["age"] < np.roll(made["age"], 1)).sum() > 2
    tape = to_tape(tmp_path / "journal", tmp_path / "store")
    for engine in ("hftbacktest", "matcher"):
        found = backtest(tmp_path / "journal", tape, engine)
        assert (found.compared, found.why) == (len(made), "")
        assert found.fills > 5


class Sizes(Wanderer):
    """A wanderer whose sizes change now and then: whenever they do, the orders lose their place."""

    sizes = np.ones(2, np.float32)

    def step(self, observation):
        action = super().step(observation)
        if self.memory % 6 == 0:
            self.sizes = action[2:] * 4 + 3  # all of [-1, 1]
        action[2:] = self.sizes
        return action


def test_sizes_on_paper_are_those_of_the_backtester(tmp_path):
    """A journal of the action `size` plays again to the same bytes, and by either engine; a policy of other
    numbers is refused by name."""
    file = Journal(tmp_path / "journal")
    risk = {"order_lots": 3, "position_limit": 60}
    session = paper(file, player=Sizes(numbers=4), quote={"name": "size"}, risk=risk)
    file.close()
    made = decisions(tmp_path / "journal")
    assert session.fills > 5
    assert set(made["quotes"][:, [1, 3]].ravel()) == {0, 1, 2, 3}
    for player in (Sizes(numbers=4), None):
        again, _ = check(tmp_path / "journal", player)
        assert again.decision.tobytes() == made[-1].tobytes()
    tape = to_tape(tmp_path / "journal", tmp_path / "store")
    for engine in ("hftbacktest", "matcher"):
        found = backtest(tmp_path / "journal", tape, engine)
        assert (found.compared, found.why) == (len(made), "")
        assert found.fills > 5
    wrong = Session(setup(quote={"name": "size"}), Wanderer(), Memory())
    run(wrong, rows()[:20_000])
    assert wrong.state == HALTED
    assert any("shape (2,), not (4,)" in finding.reason for finding in wrong.guard.findings)


def test_replay_gives_the_same_bytes_by_either_engine(tmp_path):
    path = write(tmp_path / "capture.gz", market(seconds=60, seed=4).lines)
    Import("binance", (path,), tmp_path / "store", strict=True, progress=False).run()
    for latency in (0.0, 5.0, 130.0):
        market_of = {"name": "replay", "store": str(tmp_path / "store"), "split": "all"}
        market_of["order_latency_ms"] = latency
        desks = [
            Desk(make_config(market_of | {"engine": engine}, horizon=200), 2, autoreset=True)
            for engine in ("hftbacktest", "matcher")
        ]
        seen = []
        for desk in desks:
            desk.seed([1, 2])
            seen.append(desk.reset().tobytes())
        assert seen[0] == seen[1]
        random, fills = np.random.default_rng(0), 0.0
        for _ in range(300):
            actions = random.uniform(-1, -0.5, (2, 2)).astype(np.float32)
            one, two = (desk.step(actions) for desk in desks)
            for name in ("observations", "rewards", "terminated", "truncated", "ledger"):
                assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
            fills += one.ledger[7].sum()
        assert fills > 5


def test_batches_do_not_matter():
    """However the network cuts the stream, the decisions are the same."""
    outcomes = []
    for seed in (1, 2):
        sink = Memory()
        paper(sink, seed=seed)
        outcomes.append([f.payload for f in sink.frames if f.kind in (journal.DECISION, journal.FILLS)])
    assert outcomes[0] == outcomes[1]


# The guard, rule by rule.

LIMITS = GuardConfig(daily_loss=100.0, drawdown=50.0, position_limit=10, max_orders=10, calm_s=1.0)
NOON = 20_000 * DAY + DAY // 2


def facts(seconds: float = 0.0, **given) -> Facts:
    return Facts(time_ns=NOON + round(seconds * 1e9), **given)


def guard() -> Guard:
    found = Guard(LIMITS)
    assert found.check(facts()) == ACTIVE
    return found


@pytest.mark.parametrize(
    ("rule", "given", "state"),
    [
        ("drawdown", {"wealth": -39.0}, ACTIVE),
        ("position", {"position": 10}, ACTIVE),
        ("position", {"position": -11}, HALTED),
        ("stale-data", {"silent_ns": 2_000 * MS}, ACTIVE),
        ("stale-data", {"silent_ns": 2_001 * MS}, HALTED),
        ("book", {"book": "gap"}, HALTED),
        ("order-stream", {"stream": "lost"}, HALTED),
        ("unsettled", {"unsettled_ns": 1}, REDUCING),
        ("unsettled", {"unsettled_ns": 5_001 * MS}, HALTED),
        ("clock-skew", {"skew_ns": -1_000 * MS}, ACTIVE),
        ("clock-skew", {"skew_ns": -1_001 * MS}, HALTED),
        ("clock-skew", {"skew_ns": 1_001 * MS}, HALTED),
        ("late", {"late_ns": 1_000 * MS}, ACTIVE),
        ("late", {"late_ns": 1_001 * MS}, HALTED),
    ],
)
def test_rules_of_a_moment(rule, given, state):
    found = guard()
    assert found.check(facts(1, **given)) == state
    assert [f.rule for f in found.findings] == ([rule] if state else [])
    # Back by itself once calm, or only by the operator.
    assert found.check(facts(1.9)) == state
    latched = rule == "position" and state == HALTED
    assert found.check(facts(2.1)) == (HALTED if latched else ACTIVE)
    found.clear()
    assert found.check(facts(2.2)) == ACTIVE


def test_daily_loss_and_drawdown():
    found = guard()
    assert found.check(facts(1, wealth=200.0)) == ACTIVE
    assert found.check(facts(2, wealth=161.0)) == ACTIVE
    assert found.check(facts(3, wealth=160.0)) == REDUCING
    assert found.findings[0].rule == "drawdown"
    assert found.check(facts(3.9, wealth=161.0)) == REDUCING  # not calm yet
    assert found.check(facts(5, wealth=161.0)) == ACTIVE
    assert found.check(facts(6, wealth=150.0)) == HALTED
    assert found.check(facts(60, wealth=300.0)) == HALTED
    found.clear()
    assert found.check(facts(61, wealth=300.0)) == ACTIVE
    slow = Guard(GuardConfig(daily_loss=100.0, drawdown=1e9, position_limit=1))
    slow.check(facts(wealth=7.0))
    assert slow.check(facts(1, wealth=-73.0)) == REDUCING
    assert slow.check(facts(2, wealth=-93.0)) == HALTED
    # Midnight opens a new day, but takes no halt back.
    assert slow.check(facts(DAY / 1e9, wealth=-93.0)) == HALTED
    slow.clear()
    assert slow.check(facts(DAY / 1e9 + 1, wealth=-93.0)) == ACTIVE
    assert slow.check(facts(DAY / 1e9 + 3, wealth=-172.0)) == ACTIVE
    assert slow.check(facts(DAY / 1e9 + 4, wealth=-173.0)) == REDUCING


def test_order_rate():
    found = guard()
    sent = 0
    for step in range(100):
        if found.check(facts(step / 10)) != HALTED:
            found.sent(NOON + step * 100 * MS, 2)
            sent += 2
        assert sent <= LIMITS.max_orders
    assert sent == LIMITS.max_orders
    assert found.check(facts(11.2)) == ACTIVE


def test_what_only_the_operator_takes_back():
    for act, rule in (
        (lambda g: g.latch("unknown-order", "x"), "unknown-order"),
        (lambda g: [g.rejected(NOON, "x") for _ in range(5)], "rejects"),
        (lambda g: g.far_quote([10_201], 10_000), "far-quote"),
    ):
        found = guard()
        act(found)
        assert found.check(facts(3600)) == HALTED
        assert found.findings[0].rule == rule
        found.clear()
        assert found.check(facts(3601)) == ACTIVE
    found = guard()
    for second in range(20):
        found.rejected(NOON + second * 3_000 * MS, "slowly")
    found.far_quote([10_200, 9_800], 10_000)
    assert found.check(facts(61)) == ACTIVE


# The guard within a session.


def states(sink: Memory) -> list[str]:
    return [reason for f in sink.frames if f.kind == journal.STATE for reason in f.json()["reasons"]]


class Failing(Wanderer):
    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def step(self, observation):
        self.after -= 1
        if self.after < 0:
            raise RuntimeError("weights are on fire")
        return super().step(observation)


def sent_after(path: Path, state: int) -> np.ndarray:
    """Orders, not cancels, sent at decisions made in this state."""
    made = decisions(path)
    times = set(made["time_ns"][made["state"] == state].tolist())
    commands = np.concatenate([f.array() for f in read(path) if f.kind == journal.ORDERS])
    return commands[np.isin(commands["time_ns"], list(times)) & (commands["lots"] > 0)]


def test_an_exception_in_the_policy_halts_and_says_why(tmp_path):
    file = Journal(tmp_path / "j")
    session = paper(file, player=Failing(100))
    file.close()
    assert session.state == HALTED
    assert session.guard.reason() == "policy: RuntimeError: weights are on fire"
    assert not session.working.slots["id"].any()
    made = decisions(tmp_path / "j")
    assert (made["state"][100:] == HALTED).all()
    assert not len(sent_after(tmp_path / "j", HALTED))
    check(tmp_path / "j")  # the recorded actions tell as much as the policy


def test_operator_and_flattening(tmp_path):
    file = Journal(tmp_path / "j")
    session = Session(setup(), Wanderer(-1.0, -0.9), file)
    half = len(rows()) // 2
    run(session, rows()[:half])
    while not session.working.position:
        run(session, rows()[half : half + 200])
        half += 200
    session.operator("flatten", "test", session.next_ns)
    run(session, rows()[half:])
    file.close()
    assert session.state == HALTED
    assert session.working.position == 0
    made = decisions(tmp_path / "j")
    held = dict(zip(made["time_ns"].tolist(), made["outcome"]["position_lots"].tolist(), strict=True))
    orders = sent_after(tmp_path / "j", HALTED)
    assert len(orders)
    for order in orders:
        before = held[int(order["time_ns"])]
        assert before * order["side"] < 0
        assert order["lots"] <= abs(before)


def test_what_is_not_a_number_is_no_quote(tmp_path):
    class Nothing(Wanderer):
        def step(self, observation):
            return np.full(2, np.nan, np.float32)

    file = Journal(tmp_path / "j")
    session = paper(file, player=Nothing())
    file.close()
    assert session.state == ACTIVE
    assert not [f for f in read(tmp_path / "j") if f.kind == journal.ORDERS]


def test_a_silent_or_broken_feed_halts_and_comes_back(tmp_path):
    sink = Memory()
    session = Session(setup(), Wanderer(), sink)
    third = len(rows()) // 3
    run(session, rows()[:third])
    assert session.state == ACTIVE
    session.feed(False, "gap of 3 updates")
    session.tick(session.next_ns)
    assert session.state == HALTED
    assert session.guard.reason() == "book: gap of 3 updates"
    assert (session.working.slots["unwanted"][session.working.slots["id"] > 0] == 1).all()
    session.feed(True, "")
    run(session, rows()[third : 2 * third])
    assert session.state == ACTIVE
    for _ in range(25):
        session.tick(session.next_ns)
    assert session.state == HALTED
    assert session.guard.findings[0].rule == "stale-data"
    run(session, rows()[2 * third :])
    assert session.state == ACTIVE
    assert [reason.split(":")[0] for reason in states(sink)] == ["book", "stale-data"]


def test_the_window_of_prices_moves_with_the_market():
    """A market that rises by 40%, step by step: at no time is there no bid or no ask."""
    given = rows().copy()
    prices = given["kind"] != CLEAR
    steps = np.linspace(0, 2400, 200).astype(np.int64)
    shift = steps[np.arange(len(given)) * len(steps) // len(given)]
    # A book cannot drift: begin it anew at each step, as a feed does that is asked for a snapshot.
    book = Book(1000, 20_000)
    parts = []
    for at in range(0, len(given), len(given) // 200):
        part = given[at : at + len(given) // 200].copy()
        by = int(shift[at])
        held = book.levels()
        head = np.zeros(len(held) + 1, held.dtype)
        head["kind"][0], head["side"][0] = CLEAR, 1
        head[1:] = held
        head["price"][1:] += by
        head["local_ns"], head["exch_ns"], head["id"] = part["local_ns"][0], part["exch_ns"][0], part["id"][0]
        for row in part:
            inside = 1000 <= row["price"] < 20_000
            if row["kind"] == CLEAR:
                book.sizes[:] = 0
            elif row["kind"] in (SNAPSHOT, DEPTH) and inside:
                book.sizes[0 if row["side"] == BUY else 1, row["price"] - 1000] = row["size"]
        part["price"][part["kind"] != CLEAR] += by
        parts += [head, part] if at else [part]
    sink = Memory()
    session = Session(setup(), Wanderer(), sink)
    session.feed(True, "")
    session.take(np.concatenate(parts))
    assert prices.any()
    low, high = session.view.low_tick, session.view.high_tick
    assert low > 5_500
    assert high - low == 2_000
    assert session.view.known
    assert session.fills > 5
    assert not [reason for reason in states(sink) if reason.startswith("book")]
    assert session.distrust
