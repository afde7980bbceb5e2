"""A compiled step on several threads: each takes blocks that no other has taken, so the bytes do not depend
on how many there are.

The one that asks begins at once. Who is late, because its processor does something else, finds less left to
do, and nobody waits for it. To wake a thread that sleeps takes as long as the step of a thousand
environments, so between two steps each watches for the next a while before it sleeps. (Numba's own threads do
not survive a fork, which vector environments in processes need.)
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from mmenv.engine.atomic import claim, pause, read, swap, write
from mmenv.engine.memory import LINE, address, aligned_zeros
from mmenv.engine.stage import inner

_C: Any = ctypes.CDLL(None) if sys.platform == "linux" else None

TRIALS = 10
"""Steps that are tried with each number of threads."""

ROUNDS = 3000
"""How often one who waits looks before it gives up: some 50 microseconds."""

# What a helper and those who ask it tell each other, on a cache line for each writer.
ASKED, DRIVER, PLAN = 0, 8, 16  # by who asks: how often so far, and for what
ANSWERED = LINE  # by the helper: up to which
ASLEEP = 2 * LINE  # by both: 1 where it must be woken
MAILBOX = 3 * LINE

# What the threads of a step share. Each has a part of the blocks: of that it takes first, then of the others.
# NEXT and DONE have the number of the step in their upper half. A thread that is late by a step finds another
# one there, and nothing to take.
NEXT = 0  # by all: the next block of a part that nobody has taken
DONE = LINE  # by its owner alone: how many blocks it has done, of whatever part
ENDED = LINE + 8  # by its owner alone: 1 where an episode ended in one of them
PART = 2 * LINE
HALF = 32
LOWER = (1 << HALF) - 1


def _call_driver(typing: Any, function: Any, plan_at: Any) -> Any:
    """Call a driver at an address: int64 from the address of a plan."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(64)
        kind = ir.FunctionType(number, [number])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])

    return types.int64(types.int64, types.int64), generate


call_driver: Any = intrinsic(_call_driver)


@inner
def first_of(part, parts, blocks):
    """The first block of a part; of the part after the last one, how many blocks there are."""
    return part * blocks // parts


@inner
def number_of_step(shared, part):
    """Of the step that the owner of a part may take blocks of."""
    return read(shared + part * PART + NEXT) >> HALF


@inner
def take(shared, part, step, end):
    """A block of the part, which ends before `end`, that this thread alone has taken in this step; or -1."""
    at = shared + part * PART + NEXT
    while True:
        place = read(at)
        if place >> HALF != step or (place & LOWER) >= end:
            return -1
        if claim(at, place, place + 1):
            return place & LOWER


@inner
def hand_in(shared, part, step, done, ended):
    """So many blocks in all has the owner of a part done in this step."""
    write(shared + part * PART + ENDED, ended)
    write(shared + part * PART + DONE, step << HALF | done)


@njit(cache=True, nogil=True)
def begin(shared, parts, blocks):
    """All blocks may be taken once more."""
    step = number_of_step(shared, 0) + 1
    for part in range(parts):
        write(shared + part * PART + NEXT, step << HALF | first_of(part, parts, blocks))


@njit(cache=True, nogil=True)
def complete(driver, plan, shared, parts, blocks, rounds):
    """Take what nobody has taken. Once all blocks are done, 1 where an episode ended in one, else 0; -1 where
    they are not after so many rounds."""
    call_driver(driver, plan)
    step = number_of_step(shared, 0)
    for _ in range(rounds):
        done, ended = 0, 0
        for part in range(parts):
            found = read(shared + part * PART + DONE)
            if found >> HALF == step:
                done += found & LOWER
                ended |= read(shared + part * PART + ENDED)
        if done == blocks:
            return ended
        pause()
    return -1


@njit(cache=True, nogil=True)
def serve(mailbox, rounds):
    """Do what is asked for, until nothing more is within so many rounds."""
    waited = 0
    while True:
        asked = read(mailbox + ASKED)
        if asked != read(mailbox + ANSWERED):
            call_driver(read(mailbox + DRIVER), read(mailbox + PLAN))
            write(mailbox + ANSWERED, asked)
            waited = 0
        elif waited < rounds:
            pause()
            waited += 1
        else:
            write(mailbox + ASLEEP, 1)
            if read(mailbox + ASKED) == asked or swap(mailbox + ASLEEP, 0) == 0:
                return  # who asks from now on wakes it, or has said that it will


@njit(cache=True, nogil=True)
def ask(mailbox, driver, plan):
    """Ask a helper for its part; 1 where it must be woken, else 0."""
    write(mailbox + DRIVER, driver)
    write(mailbox + PLAN, plan)
    write(mailbox + ASKED, read(mailbox + ASKED) + 1)
    return swap(mailbox + ASLEEP, 0)


@njit(cache=True, nogil=True)
def at_rest(mailbox):
    """Whether a helper has done all that it was asked for."""
    return read(mailbox + ASKED) == read(mailbox + ANSWERED)


class Team:
    """Threads that make a step together, this one among them.

    Parameters
    ----------
    driver
        Address of the compiled function that takes the parts of a step.
    plans
        The plan of each thread, int64 (threads, ...).
    blocks
        How many there are.
    """

    def __init__(self, driver: int, plans: np.ndarray, blocks: int) -> None:
        self.plans = plans
        self._shared = aligned_zeros(len(plans) * PART, np.uint8)
        self.shared_at = address(self._shared)
        """Address of what its threads share."""
        self._own_plan, *self._plans = (address(plan) for plan in plans)
        self._driver, self._parts = driver, (self.shared_at, len(plans), blocks)
        self._open = False

    def step(self) -> int:
        """Make a step: 1 where an episode ended in it, else 0.

        While other teams of this process make one, this thread makes its own alone.
        """
        if self._open:  # it was interrupted
            self._complete()
        alone = not _helpers.free.acquire(blocking=False)
        try:
            self._open = True
            begin(*self._parts)
            if not alone:
                _helpers.ask(self, self._driver, self._plans)
            return self._complete()
        finally:
            if not alone:
                _helpers.free.release()

    def _complete(self) -> int:
        while (ended := complete(self._driver, self._own_plan, *self._parts, ROUNDS)) < 0:
            time.sleep(0)  # who has the last block may need this processor
        self._open = False
        return int(ended)


class Helper:
    """A thread that takes part in one step after the other."""

    def __init__(self) -> None:
        self._memory = aligned_zeros(MAILBOX, np.uint8)
        self._mailbox = address(self._memory)
        self._called: SimpleQueue[None] = SimpleQueue()
        self._teams: list[Team] = []  # whose plans it may still look at
        self._kept_off: int | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="NeuralMM step")
        self._thread.start()

    def _work(self) -> None:
        while True:
            serve(self._mailbox, ROUNDS)
            self._called.get()

    def ask(self, team: Team, driver: int, plan: int) -> None:
        """Have it take part, without waiting for it."""
        if not self._teams or self._teams[-1] is not team:
            self._teams = [team] if at_rest(self._mailbox) else [*self._teams, team]
        if ask(self._mailbox, driver, plan):
            self._keep_off(this_processor())
            self._called.put(None)

    def _keep_off(self, processor: int | None) -> None:
        """Have it wake on another processor than that of who asks, which goes on there. Linux often wakes it
        on the same: it takes a virtual machine's processors that sleep for taken."""
        number = self._thread.native_id
        if processor != self._kept_off and processor is not None and number is not None:
            others = os.sched_getaffinity(0) - {processor}
            os.sched_setaffinity(number, others or {processor})
            self._kept_off = processor


class Helpers:
    """The helpers of a process; who holds `free` may ask them."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self._all: list[Helper] = []

    def ask(self, team: Team, driver: int, plans: Sequence[int]) -> None:
        """Have as many take part as there are plans."""
        while len(self._all) < len(plans):
            self._all.append(Helper())
        for helper, plan in zip(self._all, plans, strict=False):
            helper.ask(team, driver, plan)


_helpers = Helpers()


def _forget_helpers() -> None:
    """Threads do not survive a fork: the child starts its own."""
    global _helpers
    _helpers = Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_helpers)


def this_processor() -> int | None:
    """The processor that this thread runs on; None where the system does not say."""
    known = hasattr(_C, "sched_getcpu") and hasattr(os, "sched_setaffinity")
    return int(_C.sched_getcpu()) if known else None


def processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Trial:
    """Finds the fastest of several numbers of threads by using each for some steps, one after the other."""

    def __init__(self, candidates: Sequence[int]) -> None:
        self._times: dict[int, list[float]] = {count: [] for count in candidates}
        self.best = candidates[0]

    def step(self, function: Callable[[int], int]) -> int:
        """Call `function` with the number of threads to use; its result."""
        count = next(count for count, times in self._times.items() if len(times) < TRIALS)
        start = time.perf_counter()
        status = function(count)
        self._times[count].append(time.perf_counter() - start)
        self.best = min(self._times, key=lambda count: float(np.min(self._times[count] or [np.inf])))
        return status

    @property
    def over(self) -> bool:
        return all(len(times) >= TRIALS for times in self._times.values())
