"""The engine: environments in blocks of `LANES`, worked through by compiled *stages*.

A stage is one function over the lanes of one block, straight-line with selects, so that the compiler turns
its loops into vector instructions. It gets four pointers: the block of the desk (`CORE`, shared by all
stages), its own state block, its own parameters and its rows of the observation tile. Markets and feature
groups are lists of stages; the driver calls them block by block, so a block stays in the first-level cache
from quote to observation. One environment is one block with one lane in use. The driver itself is called by
its address, so that it is compiled once for all that run plans.

All is integer half-ticks, lots and steps until it is published. Money, half-ticks x lots, is an integer
held in float64: exact below 2^53, and unlike int64 it has vector instructions for products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from mmenv.engine.memory import LINE, address, array_at, fetch
from mmenv.engine.stage import Call, Native, inner, over_lanes
from mmenv.engine.state import CORE, CORE_TYPE, FEE_DIGITS, LANES
from mmenv.engine.threads import call_driver, first_of, hand_in, number_of_step, take
from mmenv.engine.together import compile_all
from mmenv.engine.transpose import SIDE, transpose

# The plan is one integer array, because each further argument would cost a call 0.1 microseconds.
# Header, then for each call: function, own state, its stride, parameters, their stride, row of the tile.
(BLOCKS, CORE_AT, CORE_STRIDE, TILE_AT, WIDTH, COUNT, AUTORESET, STRICT, ACTIONS_AT, OUT_AT, FINAL_AT,
 PRICE_SCALE, STEPS, OBSERVES, RESETS, PART_OWNED, SIZE, ACTION_WIDTH, TERMS, TERMS_AT,
 STEP_AT, RESET_AT, AHEAD, SHARED_AT, PARTS, HEADER) = range(26)  # fmt: skip
CALL = 6

# What OUT_AT points to: addresses of the arrays of a step, so that one number exchanges them all.
OBSERVATIONS_AT, REWARDS_AT, TERMINATED_AT, TRUNCATED_AT, LEDGER_AT, OUTPUTS = range(6)

DONE, NOTHING_DONE = 1, 0
"""What `step_at` returns; or -(row + 1), with no step made, for an action that is not finite."""


FIRST = np.int64(0)
"""Of the calls: `run_calls` would be compiled anew for a constant of Python."""


def _call_stage(typing: Any, function: Any, core: Any, own: Any, params: Any, out: Any) -> Any:
    """Call a compiled stage at an address. Numba has no such call for addresses known at run time."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte] * 4)
        target = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(target, [builder.inttoptr(a, byte) for a in arguments[1:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


call_stage: Any = intrinsic(_call_stage)


def driver(function: Callable[[int], int]) -> Native:
    """Decorator: a function that is given the address of a plan and works through it."""
    return Native(function, types.int64(types.int64))


@inner
def plan_of(plan_at):
    """The plan at an address: an array would cost a call 0.1 microseconds more."""
    size = array_at(plan_at, types.int64, HEADER)[SIZE]
    return array_at(plan_at, types.int64, size)


@inner
def run_calls(plan, start, count, block):
    core = plan[CORE_AT] + block * plan[CORE_STRIDE]
    tile = plan[TILE_AT]
    ahead = plan[AHEAD]
    for k in range(start, start + count):
        # While this block is worked on, a part of the next one's core comes nearer with each call.
        for line in range(k * ahead, (k + 1) * ahead):
            fetch(core + plan[CORE_STRIDE] + line * LINE)
        at = HEADER + k * CALL
        own = plan[at + 1] + block * plan[at + 2]
        params = plan[at + 3] + block * plan[at + 4]
        call_stage(plan[at], core, own, params, tile + plan[at + 5] * LANES * 4)


@over_lanes
def take_actions(core, actions, count):
    for k in range(actions.shape[1]):
        for i in prange(count):
            core.action[k, i] = actions[i, k]


@over_lanes
def finite(numbers):
    bad = np.int32(0)
    for i in prange(len(numbers)):
        bad |= np.int32(0) if abs(numbers[i]) < np.float32(np.inf) else np.int32(1)
    return bad == 0


@inner
def publish_observations(plan, block, address):
    """Copy the tile (width, LANES) to the rows of the observation array (count, width)."""
    width = plan[WIDTH]
    count = min(LANES, plan[COUNT] - block * LANES)
    target = address + block * LANES * width * 4
    if count >= SIDE and width >= SIDE:
        # The last square of a row or column overlaps the one before where there is no room for a whole one.
        for i in range(0, count, SIDE):
            lane = min(i, count - SIDE)
            for j in range(0, width, SIDE):
                feature = min(j, width - SIDE)
                source = plan[TILE_AT] + (feature * LANES + lane) * 4
                transpose(source, LANES * 4, target + (lane * width + feature) * 4, width * 4)
        return
    tile = array_at(plan[TILE_AT], types.float32, (width, LANES))
    rows = array_at(target, types.float32, (count, width))
    for i in range(count):
        for j in range(width):
            rows[i, j] = tile[j, i]


@over_lanes
def outcome(core, per_unit, count, rewards, terminated, truncated, ledger, stride):
    """Reward, flags and ledger of a block's lanes; rows of the ledger are `stride` apart."""
    if stride < 0:
        return  # never so; it tells the compiler that indices are not negative
    fee_unit = per_unit / FEE_DIGITS
    for i in prange(count):
        rewards[i] = core.reward[i]
        ledger[i] = core.spread_capture[i] * per_unit
        ledger[stride + i] = core.adverse_selection[i] * per_unit
        ledger[2 * stride + i] = core.carry[i] * per_unit
        ledger[3 * stride + i] = core.fee[i] * fee_unit
    for i in prange(count):
        ledger[4 * stride + i] = core.penalty[i]
        ledger[5 * stride + i] = core.pnl[i] * per_unit - core.fees[i] * fee_unit
        ledger[6 * stride + i] = core.noise[i]
        ledger[7 * stride + i] = core.ask_fill[i] + core.bid_fill[i]
        ledger[8 * stride + i] = core.position[i]
    for i in prange(count):
        terminated[i] = core.terminated[i] != 0
        truncated[i] = core.truncated[i] != 0


@inner
def publish_outcome(plan, out, block, core):
    """Write reward, flags and ledger of a block to the arrays of all environments."""
    n = plan[COUNT]
    first = block * LANES
    count = min(LANES, n - first)
    per_unit = 1 / plan[PRICE_SCALE]
    rewards = array_at(out[REWARDS_AT] + first * 8, types.float64, count)
    terminated = array_at(out[TERMINATED_AT] + first, types.boolean, count)
    truncated = array_at(out[TRUNCATED_AT] + first, types.boolean, count)
    ledger = array_at(out[LEDGER_AT] + first * 8, types.float64, (8 + plan[TERMS]) * n + count)
    outcome(core, per_unit, count, rewards, terminated, truncated, ledger, n)
    terms = array_at(plan[TERMS_AT], types.int64, (plan[TERMS], 2))
    for k in range(plan[TERMS]):
        values = array_at(terms[k, 0] + block * terms[k, 1], types.float64, count)
        row = (9 + k) * n
        for i in range(count):
            ledger[row + i] = values[i]


@inner
def refused(plan):
    """-(row + 1) for the first environment whose action is not finite, where STRICT; else 0."""
    if plan[STRICT] == 0:
        return 0
    width = plan[ACTION_WIDTH]
    numbers = array_at(plan[ACTIONS_AT], types.float32, plan[COUNT] * width)
    if not finite(numbers):
        for k in range(len(numbers)):
            if not abs(numbers[k]) < np.float32(np.inf):
                return -1 - k // width
    return 0


@inner
def step_block(plan, block):
    """Take a block through a step; `DONE` where an episode of it ended."""
    if block < 0:
        return 0  # never so, as above
    out = array_at(plan[OUT_AT], types.int64, OUTPUTS)
    core = array_at(plan[CORE_AT] + block * plan[CORE_STRIDE], CORE_TYPE, 1)[0]
    if plan[ACTIONS_AT] != 0:
        actions = array_at(plan[ACTIONS_AT], types.float32, (plan[COUNT], plan[ACTION_WIDTH]))
        take_actions(core, actions[block * LANES : block * LANES + LANES], core.count)
    run_calls(plan, FIRST, plan[STEPS], block)
    if plan[OBSERVES] == 0:
        return 0  # the first half of a step whose market lives outside
    run_calls(plan, plan[STEPS], plan[OBSERVES], block)
    publish_outcome(plan, out, block, core)
    status = NOTHING_DONE
    if core.any_done != 0:
        status = DONE
        if plan[AUTORESET] != 0:
            publish_observations(plan, block, plan[FINAL_AT])
            run_calls(plan, plan[STEPS] + plan[OBSERVES], plan[RESETS], block)
            run_calls(plan, plan[STEPS], plan[OBSERVES], block)
    publish_observations(plan, block, out[OBSERVATIONS_AT])
    return status


@driver
def step(plan_at):
    plan = plan_of(plan_at)
    status = refused(plan)
    if status < 0:
        return status
    for block in range(plan[BLOCKS]):
        status |= step_block(plan, block)
    return status


@driver
def share(plan_at):
    """Take the blocks of PART_OWNED that no other thread has taken, then those of other parts."""
    plan = plan_of(plan_at)
    shared, own, parts, blocks = plan[SHARED_AT], plan[PART_OWNED], plan[PARTS], plan[BLOCKS]
    number = number_of_step(
        shared, own
    )  # before all else: what the plan says is of this step, or a later one
    done, status = 0, NOTHING_DONE
    for k in range(own, own + parts):
        part = k % parts
        end, before = first_of(part + 1, parts, blocks), done
        block = take(shared, part, number, end)
        while block >= 0:
            status |= step_block(plan, block)
            done += 1
            block = take(shared, part, number, end)
        if done > before:
            hand_in(shared, own, number, done, status)
    return 0


@driver
def reset(plan_at):
    plan = plan_of(plan_at)
    out = array_at(plan[OUT_AT], types.int64, OUTPUTS)
    for block in range(plan[BLOCKS]):
        run_calls(plan, plan[STEPS] + plan[OBSERVES], plan[RESETS], block)
        run_calls(plan, plan[STEPS], plan[OBSERVES], block)
        publish_observations(plan, block, out[OBSERVATIONS_AT])
    return 0


@njit(cache=True, nogil=True)
def step_at(plan_at):
    """Take every block of the plan at an address through one step, resetting finished lanes where AUTORESET
    is set."""
    return call_driver(array_at(plan_at, types.int64, HEADER)[STEP_AT], plan_at)


@njit(cache=True, nogil=True)
def refused_at(plan_at):
    """What `step_at` returns, without a step, where actions of the plan are refused; else 0."""
    return refused(plan_of(plan_at))


@njit(cache=True)
def step_alone(plan_at):
    """`step_at` that keeps the interpreter lock: to give it away and back costs 0.1 microseconds."""
    return step_at(plan_at)


@njit(cache=True, nogil=True)
def reset_at(plan_at):
    """Reset the lanes whose `done` is set and publish the observations of all."""
    return call_driver(array_at(plan_at, types.int64, HEADER)[RESET_AT], plan_at)


@functools.cache
def entry(function: Any) -> Callable[[int], int]:
    """A compiled function of one int without the check of its type, which costs 0.1 microseconds."""
    called: Callable[[int], int] = function.compile((types.int64,))
    return called


def lines_ahead(plan: np.ndarray) -> int:
    """Cache lines of the next block's core to fetch with each call; 0 where all blocks stay in the caches.

    Of many blocks a step waits for memory: its fields lie too far apart for the processor to guess the next.
    """
    calls = max(int(plan[STEPS] + plan[OBSERVES]), 1)
    return -(-CORE.itemsize // (LINE * calls)) if plan[BLOCKS] >= FAR else 0


FAR = 64
"""So many blocks do not stay in the caches: 8,192 environments, with their windows 14 MB."""


def _by_block(records: np.ndarray) -> tuple[int, int]:
    """Address of the first record, and how far apart those of two blocks are: 0 where all have one."""
    return address(records), records.strides[0] if len(records) > 1 else 0


def make_plan(steps: Sequence[Call], observes: Sequence[Call], resets: Sequence[Call]) -> np.ndarray:
    """The plan of these calls, addresses of the arrays still to be filled in."""
    calls = [*steps, *observes, *resets]
    plan = np.zeros(HEADER + CALL * len(calls), np.int64)
    plan[STEPS], plan[OBSERVES], plan[RESETS] = len(steps), len(observes), len(resets)
    plan[SIZE] = len(plan)
    compile_all([step, reset, *(call.stage for call in calls)])
    plan[STEP_AT], plan[RESET_AT] = step.address, reset.address
    for k, call in enumerate(calls):
        at = HEADER + k * CALL
        plan[at : at + CALL] = call.stage.address, *_by_block(call.own), *_by_block(call.params), call.row
    return plan
