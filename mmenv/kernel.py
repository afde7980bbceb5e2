"""The engine: environments in blocks of `LANES`, worked through by compiled *stages*.

A stage is one function over the lanes of one block, straight-line with selects, so that the compiler turns
its loops into vector instructions. It gets four pointers: the block of the desk (`CORE`, shared by all
stages), its own state block, its own parameters and its rows of the observation tile. Markets and feature
groups are lists of stages; the driver calls them block by block, so a block stays in the first-level cache
from quote to observation. One environment is one block with one lane in use.

All is integer half-ticks, lots and steps until it is published. Money, half-ticks x lots, is an integer
held in float64: exact below 2^53, and unlike int64 it has vector instructions for products.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, from_dtype, njit, prange, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from mmenv.lanes import LaneCompiler

LANES = 128

LINE = 64
"""Bytes of a cache line."""

FEE_DIGITS = 1_000_000
"""Fees are integers in 1 / FEE_DIGITS half-ticks x lots: exact for rates in hundredths of a basis point."""

MOVE_WINDOW = 20

ASSETS = 8
"""Most assets that a market can show beside the quoted one."""

PARAMETERS = 8
"""Most parameters that episodes can draw."""

ACTIVE, REDUCING, HALTED = 0, 1, 2

LEDGER = (
    "spread_capture",
    "adverse_selection",
    "carry",
    "fees",
    "inventory_penalty",
    "wealth",
    "noise",
    "fills",
    "position",
)
"""Rows of the published ledger, in price units x lots (`fills` and `position` in lots); `fees` is a cost."""


def lanes(name: str, kind: str) -> tuple[str, str, tuple[int]]:
    """A field of a block: one value of type `kind` for each lane."""
    return (name, kind, (LANES,))


CORE = np.dtype(
    [
        ("count", "i8"),  # lanes in use
        ("clock", "i8"),  # steps this block has made, never reset: the head of every ring
        ("any_done", "i8"),
        ("padding", "i8", 5),  # so that vectors of lanes do not lie across cache lines
        # The decision.
        ("action", "f4", (2, LANES)),
        lanes("ask_distance", "i4"),  # half-ticks from the mid, at least 0
        lanes("bid_distance", "i4"),
        lanes("ask_lots", "i4"),  # 0: not quoted
        lanes("bid_lots", "i4"),
        # The market's answer.
        lanes("mid", "i4"),
        lanes("move", "i4"),  # of the mid, from this decision to the next
        lanes("spread", "i4"),
        lanes("best_bid_lots", "i4"),
        lanes("best_ask_lots", "i4"),
        lanes("buy_lots", "i4"),  # market orders since the decision, by aggressor
        lanes("sell_lots", "i4"),
        lanes("trades", "i4"),
        lanes("trade_value", "f8"),  # sum over trades of lots x (price - mid at the decision)
        lanes("ask_reach", "i4"),  # how far from the mid a market order would have filled us, -1: none
        lanes("bid_reach", "i4"),
        lanes("ask_fill", "i4"),  # our fills, lots
        lanes("bid_fill", "i4"),
        lanes("ask_edge", "f8"),  # sum over our fills of lots x distance from the mid at the decision
        lanes("bid_edge", "f8"),
        lanes("free_move", "f4"),  # zero-mean part of the move, independent of this step's fills
        lanes("flow_move", "f4"),  # zero-mean part of the move that comes with this step's orders
        lanes("latent", "f4"),  # the hidden state that decides where the market goes, 0: none
        ("asset_moves", "i4", (ASSETS, LANES)),  # of the observed assets' mids, half-ticks
        ("asset_flows", "f4", (ASSETS, LANES)),  # their signed market volume, standard deviations
        lanes("latent_drift", "f4"),  # latent less its mean given the state before the step
        lanes("latent_square_drift", "f4"),  # the same of its square
        lanes("buy_chance", "f4"),  # chance of a market order in the step, given the state before it
        lanes("sell_chance", "f4"),
        lanes("mean_reach", "f4"),  # of a market order, exponentially distributed, half-ticks; 0: not known
        lanes("day_seconds", "f4"),  # time of day, UTC; simulated markets stay at midnight
        # The ledger.
        lanes("position", "i4"),
        lanes("entry", "f4"),  # mid minus average entry price, half-ticks
        lanes("spread_capture", "f8"),
        lanes("adverse_selection", "f8"),
        lanes("carry", "f8"),
        lanes("fee", "f8"),
        lanes("pnl", "f8"),  # since reset, before fees, half-ticks x lots
        lanes("fees", "f8"),  # since reset, 1 / FEE_DIGITS half-ticks x lots
        lanes("penalty", "f8"),
        lanes("noise", "f8"),  # zero-mean part of the reward, see `mmenv.ledger`
        lanes("reward", "f8"),
        # Moves of the mid in the last MOVE_WINDOW steps, which several feature groups use.
        ("moves", "i4", (MOVE_WINDOW, LANES)),
        lanes("move_sum", "i4"),
        lanes("move_squares", "f8"),
        lanes("move_mean", "f4"),  # price units
        lanes("volatility", "f4"),  # root mean square, price units
        # The episode.
        lanes("age", "i4"),  # steps since reset
        lanes("held", "i4"),  # steps since the position was last zero or changed sign
        lanes("risk_state", "i4"),
        lanes("risk_floor", "i4"),  # the least state that a live desk's own rules ask for
        lanes("limit_cut", "i4"),  # lots that the risk manager takes off the position limit
        lanes("terminated", "i4"),
        lanes("truncated", "i4"),
        lanes("done", "i4"),
        lanes("forced", "i4"),  # the next reset keeps `position`
        lanes("chosen", "i4"),  # row of the family, from 1, that the next reset takes; 0: it draws one
        ("parameters", "f4", (PARAMETERS, LANES)),  # of the episode, in the order of `EnvConfig.randomise`
        ("marks", "f4", (PARAMETERS, LANES)),  # where in their ranges they lie, -1 to 1
        lanes("fee_rate", "f8"),  # 1 / FEE_DIGITS of notional
        lanes("episode", "u4"),
        lanes("key0", "u4"),
        lanes("key1", "u4"),
    ],
    align=True,
)

EMPTY = np.dtype([("unused", "i8")])

PARAMS = np.dtype(
    [
        ("horizon", "i4"),
        ("start_inventory", "i4"),
        ("position_limit", "i4"),
        ("order_lots", "i4"),
        ("assets", "i4"),  # observed
        ("parameters", "i4"),  # that episodes draw
        ("half_low", "f4"),  # half-ticks
        ("half_range", "f4"),
        ("max_skew", "f4"),
        ("max_distance", "f4"),
        ("loss_limit", "f8"),  # half-ticks x lots
        ("reducing_loss", "f8"),
        ("weight_spread", "f8"),
        ("weight_adverse", "f8"),
        ("weight_carry", "f8"),
        ("weight_fees", "f8"),
        ("phi", "f8"),  # per step, price units
        ("alpha", "f8"),
        ("per_unit", "f8"),  # price units in a half-tick
        ("per_lot", "f8"),  # 1 / typical lots in a step
    ],
    align=True,
)

Record = np.dtype


class Stage:
    """A function over one block, compiled to machine code on first use and cached on disk.

    `f(core, own, params, out)` gets pointers; `carray(core, 1)[0]` is the block. Build it with `stage`.
    """

    def __init__(self, function: Callable[..., None], own: Record, params: Record) -> None:
        self.function, self.own, self.params = function, own, params
        self._compiled: Any = None

    @property
    def address(self) -> int:
        """Address of the compiled function; compiles it (or reads the cache) when first asked."""
        if self._compiled is None:
            self._compiled = self._compile(cache=cacheable(self.function))
        return int(self._compiled.address)

    def assembly(self) -> str:
        """The machine code, compiled anew: numba shows none of what came from its cache."""
        return str(self._compile(cache=False)._library.get_asm_str())

    def _compile(self, cache: bool) -> Any:
        pointers = [types.CPointer(from_dtype(record)) for record in (CORE, self.own, self.params)]
        signature = types.void(*pointers, types.CPointer(types.float32))
        # error_model: Python's check for division by zero would be a branch in the loops.
        return cfunc(signature, cache=cache, error_model="numpy", pipeline_class=LaneCompiler)(self.function)


def cacheable(function: Callable[..., None]) -> bool:
    """Whether the compiled code can be cached: not for functions typed into a prompt."""
    return function.__code__.co_filename.endswith(".py")


def stage(own: Record = EMPTY, params: Record = PARAMS) -> Callable[[Callable[..., None]], Stage]:
    """Decorator: make a function over one block a `Stage` with these record types."""
    return lambda function: Stage(function, own, params)


@dataclass(frozen=True)
class Call:
    """A stage bound to its state, its parameters and its first row of the observation tile."""

    stage: Stage
    own: np.ndarray
    params: np.ndarray
    row: int = 0


# The plan is one integer array, because each further argument would cost a call 0.1 microseconds.
# Header, then for each call: function, own state, its stride, parameters, row of the tile.
(BLOCKS, CORE_AT, CORE_STRIDE, TILE_AT, WIDTH, COUNT, AUTORESET, STRICT, ACTIONS_AT, OUT_AT, FINAL_AT,
 PARAMS_AT, STEPS, OBSERVES, RESETS, FIRST_BLOCK, SIZE, HEADER) = range(18)  # fmt: skip
CALL = 5

# What OUT_AT points to: addresses of the arrays of a step, so that one number exchanges them all.
OBSERVATIONS_AT, REWARDS_AT, TERMINATED_AT, TRUNCATED_AT, LEDGER_AT, OUTPUTS = range(6)

DONE, NOTHING_DONE = 1, 0
"""What `step_blocks` returns; or -(row + 1), with no step made, for an action that is not finite."""


def _call_stage(typing: Any, function: Any, core: Any, own: Any, params: Any, out: Any) -> Any:
    """Call a compiled stage at an address. Numba has no such call for addresses known at run time."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte] * 4)
        target = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(target, [builder.inttoptr(a, byte) for a in arguments[1:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


def _array_at(typing: Any, address: Any, kind: Any) -> Any:
    """The address as a pointer to `kind`, for `carray`."""
    pointer = types.CPointer(kind.instance_type)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(types.int64, kind), generate


TRANSPOSED = 8
"""Lanes and features that `transpose` takes."""


def _transpose(typing: Any, source: Any, source_row: Any, target: Any, target_row: Any) -> Any:
    """Transpose 8 x 8 float32 from one address to another, rows that many bytes apart, in registers.

    Halves of rows i and i + 4 side by side make four vectors of two 4 x 4 matrices each.
    """
    low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    low_pairs, high_pairs = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_row, target, target_row = arguments
        half, whole = (ir.VectorType(ir.FloatType(), lanes) for lanes in (4, 8))

        def at(kind: Any, base: Any, row: int, stride: Any, offset: int = 0) -> Any:
            rows = builder.mul(ir.Constant(ir.IntType(64), row), stride)
            place = builder.add(builder.add(base, rows), ir.Constant(ir.IntType(64), offset))
            return builder.inttoptr(place, kind.as_pointer())

        def shuffle(a: Any, b: Any, order: list[int]) -> Any:
            kind = ir.VectorType(ir.IntType(32), len(order))
            return builder.shuffle_vector(a, b, ir.Constant(kind, order))

        for offset in (0, 4):
            halves = [builder.load(at(half, source, i, source_row, 4 * offset), align=4) for i in range(8)]
            a, b, c, d = (shuffle(halves[i], halves[i + 4], list(range(8))) for i in range(4))
            ab, cd = ((shuffle(x, y, low), shuffle(x, y, high)) for x, y in ((a, b), (c, d)))
            for pair in range(2):
                for i, order in enumerate((low_pairs, high_pairs)):
                    row = shuffle(ab[pair], cd[pair], order)
                    builder.store(row, at(whole, target, offset + 2 * pair + i, target_row), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


call_stage: Any = intrinsic(_call_stage)
array_at: Any = intrinsic(_array_at)
transpose: Any = intrinsic(_transpose)

CORE_TYPE = from_dtype(CORE)
PARAMS_TYPE = from_dtype(PARAMS)

compiled = njit(nogil=True, cache=True)
over_lanes = njit(nogil=True, cache=True, error_model="numpy", pipeline_class=LaneCompiler)
"""For helpers that loop over lanes, with `prange`."""


@compiled
def run_calls(plan, start, count, block):  # type: ignore[no-untyped-def]
    core = plan[CORE_AT] + block * plan[CORE_STRIDE]
    tile = plan[TILE_AT]
    for k in range(start, start + count):
        at = HEADER + k * CALL
        own = plan[at + 1] + block * plan[at + 2]
        call_stage(plan[at], core, own, plan[at + 3], tile + plan[at + 4] * LANES * 4)


@over_lanes
def take_actions(core, actions, count):  # type: ignore[no-untyped-def]
    for i in prange(count):
        core.action[0, i] = actions[i, 0]
        core.action[1, i] = actions[i, 1]


@over_lanes
def finite(numbers):  # type: ignore[no-untyped-def]
    bad = np.int32(0)
    for i in prange(len(numbers)):
        bad |= np.int32(0) if abs(numbers[i]) < np.float32(np.inf) else np.int32(1)
    return bad == 0


@compiled
def publish_observations(plan, block, address):  # type: ignore[no-untyped-def]
    """Copy the tile (width, LANES) to the rows of the observation array (count, width)."""
    width = plan[WIDTH]
    count = min(LANES, plan[COUNT] - block * LANES)
    target = address + block * LANES * width * 4
    if count >= TRANSPOSED and width >= TRANSPOSED:
        # The last square of a row or column overlaps the one before where there is no room for a whole one.
        for i in range(0, count, TRANSPOSED):
            lane = min(i, count - TRANSPOSED)
            for j in range(0, width, TRANSPOSED):
                feature = min(j, width - TRANSPOSED)
                source = plan[TILE_AT] + (feature * LANES + lane) * 4
                transpose(source, LANES * 4, target + (lane * width + feature) * 4, width * 4)
        return
    tile = carray(array_at(plan[TILE_AT], types.float32), (width, LANES))
    rows = carray(array_at(target, types.float32), (count, width))
    for i in range(count):
        for j in range(width):
            rows[i, j] = tile[j, i]


@over_lanes
def outcome(core, per_unit, count, rewards, terminated, truncated, ledger, stride):  # type: ignore[no-untyped-def]
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


@compiled
def publish_outcome(plan, out, block, core):  # type: ignore[no-untyped-def]
    """Write reward, flags and ledger of a block to the arrays of all environments."""
    n = plan[COUNT]
    first = block * LANES
    count = min(LANES, n - first)
    per_unit = carray(array_at(plan[PARAMS_AT], PARAMS_TYPE), 1)[0].per_unit
    rewards = carray(array_at(out[REWARDS_AT] + first * 8, types.float64), count)
    terminated = carray(array_at(out[TERMINATED_AT] + first, types.boolean), count)
    truncated = carray(array_at(out[TRUNCATED_AT] + first, types.boolean), count)
    ledger = carray(array_at(out[LEDGER_AT] + first * 8, types.float64), 8 * n + count)
    outcome(core, per_unit, count, rewards, terminated, truncated, ledger, n)


@compiled
def first_not_finite(actions):  # type: ignore[no-untyped-def]
    """The first row of (n, 2) that is not finite, or -1."""
    if not finite(actions.reshape(-1)):
        for row in range(len(actions)):
            if not (np.isfinite(actions[row, 0]) and np.isfinite(actions[row, 1])):
                return row
    return -1


@compiled
def step_blocks(plan):  # type: ignore[no-untyped-def]
    """Take every block of the plan through one step, resetting finished lanes where AUTORESET is set."""
    actions = carray(array_at(plan[ACTIONS_AT], types.float32), (plan[COUNT], 2))
    if plan[STRICT] != 0:
        row = first_not_finite(actions)
        if row >= 0:
            return -1 - row
    out = carray(array_at(plan[OUT_AT], types.int64), OUTPUTS)
    status = NOTHING_DONE
    for block in range(plan[FIRST_BLOCK], plan[FIRST_BLOCK] + plan[BLOCKS]):
        if block < 0:
            return 0  # never so, as above
        core = carray(array_at(plan[CORE_AT] + block * plan[CORE_STRIDE], CORE_TYPE), 1)[0]
        if plan[ACTIONS_AT] != 0:
            take_actions(core, actions[block * LANES : block * LANES + LANES], core.count)
        run_calls(plan, 0, plan[STEPS], block)
        if plan[OBSERVES] == 0:
            continue  # the first half of a step whose market lives outside
        run_calls(plan, plan[STEPS], plan[OBSERVES], block)
        publish_outcome(plan, out, block, core)
        if core.any_done != 0:
            status = DONE
            if plan[AUTORESET] != 0:
                publish_observations(plan, block, plan[FINAL_AT])
                run_calls(plan, plan[STEPS] + plan[OBSERVES], plan[RESETS], block)
                run_calls(plan, plan[STEPS], plan[OBSERVES], block)
        publish_observations(plan, block, out[OBSERVATIONS_AT])
    return status


@compiled
def step_at(plan_at):  # type: ignore[no-untyped-def]
    """`step_blocks` of the plan at an address: an array would cost the call 0.1 microseconds more."""
    size = carray(array_at(plan_at, types.int64), HEADER)[SIZE]
    return step_blocks(carray(array_at(plan_at, types.int64), size))


@njit(cache=True)
def step_alone(plan_at):  # type: ignore[no-untyped-def]
    """`step_at` that keeps the interpreter lock: to give it away and back costs 0.1 microseconds."""
    return step_at(plan_at)


@functools.cache
def entry(function: Any) -> Callable[[int], int]:
    """A compiled function of one int without the check of its type, which costs 0.1 microseconds."""
    called: Callable[[int], int] = function.compile((types.int64,))
    return called


@compiled
def reset_blocks(plan):  # type: ignore[no-untyped-def]
    """Reset the lanes whose `done` is set and publish the observations of all."""
    out = carray(array_at(plan[OUT_AT], types.int64), OUTPUTS)
    for block in range(plan[FIRST_BLOCK], plan[FIRST_BLOCK] + plan[BLOCKS]):
        if block < 0:
            return
        run_calls(plan, plan[STEPS] + plan[OBSERVES], plan[RESETS], block)
        run_calls(plan, plan[STEPS], plan[OBSERVES], block)
        publish_observations(plan, block, out[OBSERVATIONS_AT])


def make_plan(steps: Sequence[Call], observes: Sequence[Call], resets: Sequence[Call]) -> np.ndarray:
    """The plan of these calls, addresses of the arrays still to be filled in."""
    calls = [*steps, *observes, *resets]
    plan = np.zeros(HEADER + CALL * len(calls), np.int64)
    plan[STEPS], plan[OBSERVES], plan[RESETS] = len(steps), len(observes), len(resets)
    plan[SIZE] = len(plan)
    for k, call in enumerate(calls):
        at = HEADER + k * CALL
        stride = call.own.strides[0] if len(call.own) > 1 else 0
        plan[at : at + CALL] = (call.stage.address, address(call.own), stride, address(call.params), call.row)
    return plan


def aligned_zeros(shape: int | tuple[int, ...], kind: Any) -> np.ndarray:
    """Zeros that begin at a cache line."""
    size = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(kind).itemsize
    memory = np.zeros(size + LINE, np.uint8)
    start = -address(memory) % LINE
    return memory[start : start + size].view(kind).reshape(shape)


def address(array: np.ndarray) -> int:
    """Where the data of `array` begin."""
    return int(array.__array_interface__["data"][0])
