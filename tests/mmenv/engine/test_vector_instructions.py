"""What makes the step fast changes nothing that is seen: number of environments, memory, vectors."""

from __future__ import annotations

import dis
import inspect
import multiprocessing
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numba import njit
from numba.core.dispatcher import Dispatcher

from mmenv import make_config
from mmenv.arguments import ActionError
from mmenv.config import EnvConfig
from mmenv.desk.desk import Desk
from mmenv.engine import plan, threads
from mmenv.engine.stage import over_lanes_options
from mmenv.rewards.base import begin
from mmenv.step.episode import turn

MARKETS = ("brownian", "bursts", "hidden-regime", "correlated", "book")
GROUPS = ("order_flow", "trade_book", "inventory", "clock")


def play(config: EnvConfig, n: int, actions: np.ndarray, **settings: object) -> list[bytes]:
    """What the first environment of n, the last one seeded alike, and all before them see and earn."""
    desk = Desk(config, n, autoreset=True, **settings)  # type: ignore[arg-type]
    desk.seed(range(n))
    seen = [desk.reset()]
    for action in actions[:, :n]:
        step = desk.step(action)
        seen += [step.observations, step.rewards, step.terminated, step.ledger.T.copy()]
    return seen


@pytest.mark.parametrize("market", ["brownian", "hidden-regime", "book"])
@pytest.mark.parametrize("features", [GROUPS, ("clock",), ("order_flow",), ("trade_book", "inventory")])
def test_same_bytes_for_any_number_of_environments(market, features):
    """Scalar rest loops, vectors, squares of the transposition that overlap: lane i is what it is alone."""
    config = make_config(market, features=features, horizon=7)
    actions = np.random.default_rng(0).uniform(-1, 0.5, (16, 130, 2)).astype(np.float32)
    whole = play(config, 130, actions)
    for n in (1, 7, 8, 11, 64, 67):
        for ours, theirs in zip(play(config, n, actions), whole, strict=True):
            assert ours.tobytes() == theirs[:n].tobytes()


def test_arrays_that_are_held_are_not_overwritten():
    """Memory is used again, but never under someone who holds an array, a view or a row of the ledger."""
    envs = gym.make_vec("NeuralMM-v0", 70, market="brownian", horizon=5)
    envs.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 0.5, (40, 70, 2)).astype(np.float32)
    kept, copies, addresses = [], [], set()
    for t, action in enumerate(actions):
        observations, rewards, terminated, _, info = envs.step(action)
        addresses.add(observations.ctypes.data)
        views = [observations[3:5, 2], rewards, terminated[::2], info["ledger"]["wealth"], observations.T]
        if t < 10:
            kept.append(views[t % 5])
            copies.append(kept[-1].copy())
        del observations, rewards, terminated, info, views
    assert all((view == copy).all() for view, copy in zip(kept, copies, strict=True))
    assert len({view.tobytes() for view in kept}) > 5
    assert len(addresses) <= 10 + 4


@pytest.mark.parametrize("market", ["hidden-regime", "book"])
def test_same_bytes_for_any_number_of_threads(monkeypatch, market):
    """Also where blocks are fetched ahead, as those of many environments are."""
    config = make_config(market, horizon=7)
    n = 1100
    actions = np.random.default_rng(0).uniform(-1, 0.5, (40, n, 2)).astype(np.float32)
    alone = play(config, n, actions)
    for num_threads, far in ((2, plan.FAR), (3, 2), (7, plan.FAR), (None, plan.FAR), (1, 2)):
        monkeypatch.setattr(plan, "FAR", far)
        for ours, theirs in zip(play(config, n, actions, num_threads=num_threads), alone, strict=True):
            assert ours.tobytes() == theirs.tobytes()


def test_threads_of_several_environments_at_once():
    """While one makes a step with helpers, others make theirs alone; helpers that come late do no harm, nor
    do environments that are gone by then."""
    config = make_config("brownian", horizon=7)
    actions = np.random.default_rng(0).uniform(-1, 0.5, (40, 500, 2)).astype(np.float32)
    expected = [array.tobytes() for array in play(config, 500, actions)]

    def often(threads: int) -> bool:
        runs = (play(config, 500, actions, num_threads=threads) for _ in range(8))
        return all([array.tobytes() for array in run] == expected for run in runs)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(often, (2, 3, 4, 4)))


def test_a_step_that_was_interrupted_is_finished_first(monkeypatch):
    """Ctrl-C between the call of helpers and this thread's own part: all blocks make the step, once."""
    envs = [gym.make_vec("NeuralMM-v0", 500, market="brownian", num_threads=k) for k in (3, 1)]
    actions = np.zeros((500, 2), np.float32)
    for env in envs:
        env.reset(seed=3)
    with monkeypatch.context() as patched:
        patched.setattr(threads.Team, "_complete", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            envs[0].step(actions)
    envs[1].step(actions)
    ours, theirs = (env.step(actions) for env in envs)
    assert ours[0].tobytes() == theirs[0].tobytes()


def _interrupted(team: threads.Team) -> int:
    raise KeyboardInterrupt


def test_threads_after_a_fork():
    """A child has none of its parent's threads: it starts its own."""
    config = make_config("brownian", horizon=7)
    actions = np.random.default_rng(0).uniform(-1, 0.5, (5, 200, 2)).astype(np.float32)
    expected = [array.tobytes() for array in play(config, 200, actions, num_threads=2)]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_play_on_two_threads, (actions,)) == expected


def _play_on_two_threads(actions: np.ndarray) -> list[bytes]:
    config = make_config("brownian", horizon=7)
    return [array.tobytes() for array in play(config, 200, actions, num_threads=2)]


def test_a_refused_action_moves_no_environment():
    """Also on the threads that do not see it first: the step after equals one without the attempt."""
    envs = [gym.make_vec("NeuralMM-v0", 200, market="brownian", num_threads=k) for k in (1, 2, 1)]
    good = np.zeros((200, 2), np.float32)
    bad = good.copy()
    bad[150, 1] = np.inf
    for env in envs:
        env.reset(seed=3)
    for env in envs[:2]:
        with pytest.raises(ActionError, match=r"actions\[150\]"):
            env.step(bad)
    steps = [env.step(good) for env in envs]
    assert len({step[0].tobytes() for step in steps}) == 1
    assert len({step[1].tobytes() for step in steps}) == 1


def test_hot_loops_are_vectorised():
    """Each loop over lanes is packed arithmetic, also in a helper that is compiled on its own: one that falls
    back to scalars is slow."""
    desks = [Desk(make_config(market), 16, autoreset=True) for market in MARKETS]
    stages = dict.fromkeys(
        call.stage
        for desk in desks
        for calls in (desk.stages.decide, desk.stages.market, desk.stages.account, desk.stages.observe)
        for call in calls
    )
    markets = [stage for desk in desks for stage in desk.config.market.on_step]
    alone: dict[tuple[Dispatcher, Any], None] = {}
    for stage in (*stages, *(stage.by_lane for stage in markets)):
        if stage in (turn, begin):
            continue  # they only copy: there is nothing to compute
        check_vectors(stage.compile(cache=False)._library, lane_loops(stage.function), stage.function)
        called = [helper for helper in helpers(stage.function) if lane_loops(helper.py_func)]
        alone |= dict.fromkeys((helper, types) for helper in called for types in helper.signatures)
    for helper, types in alone:  # once, whatever stages call it
        compiled = njit(**over_lanes_options | {"cache": False})(helper.py_func)
        compiled.compile(types)
        (made,) = compiled.overloads.values()
        check_vectors(made.library, lane_loops(helper.py_func), helper)


def check_vectors(library, loops, what):
    assembly, code = library.get_asm_str(), library.get_llvm_str()
    packed = r"\bv?(p(add|sub|cmp|mulu)[a-z]*|(add|mul|sub|div)p[sd]|cvtdq2p[sd])\b"
    assert len(re.findall(packed, assembly)) >= 2, what
    # One lane's value from anywhere, such as behind an index that may be negative: lane by lane in truth.
    assert not re.search(r"\bv?p?(gather|scatter)[dq]", assembly), what
    # Nor taken out of the vector, for what has no vector instruction, such as a division of integers.
    assert not re.search(r"\bi?div[bwlq]?\b", assembly), what
    assert code.count("extractelement") < 4, what
    assert len(re.findall(r"^vector\.body[\di.]*:", code, re.MULTILINE)) >= loops, what


def helpers(function):
    """The compiled functions that a function calls."""
    names = {i.argval for i in dis.get_instructions(function) if i.opname == "LOAD_GLOBAL"}
    called = (function.__globals__.get(name) for name in names)
    return [one for one in called if isinstance(one, Dispatcher)]


def lane_loops(function):
    """Loops over `prange` in a function and those it calls."""
    inner = sum(lane_loops(one.py_func) for one in helpers(function))
    return inspect.getsource(function).count(" in prange(") + inner
