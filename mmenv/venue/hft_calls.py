"""hftbacktest as compiled code calls it: one backtest by its address. Nothing else imports hftbacktest."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import binding as llvm
from numba import njit, types
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from mmenv.data.events import EVENT
from mmenv.data.tape import TapeError
from mmenv.venue.latency import ROUND_TRIP
from mmenv.venue.outcome import ASK
from mmenv.venue.settings import FIFO, ReplayConfig

try:
    import hftbacktest
    from hftbacktest import _hftbacktest
    from hftbacktest.intrinsic import address_as_void_pointer
    from hftbacktest.types import order_dtype
except ImportError as error:
    raise ImportError(
        "engine = 'hftbacktest' is not possible: hftbacktest is not installed. Install the extra `replay`, "
        "pip install 'neuralmm[replay]', or choose engine 'matcher'."
    ) from error

# The engine's functions are linked by name, so that the step can be cached on disk.
llvm.load_library_permanently(_hftbacktest.__file__)

QUEUES: Final = {
    "risk-adverse": ("risk_adverse_queue_model", False),
    "log-prob": ("log_prob_queue_model", False),
    "log-prob-2": ("log_prob_queue_model2", False),
    "power-prob": ("power_prob_queue_model", True),
    "power-prob-2": ("power_prob_queue_model2", True),
    "power-prob-3": ("power_prob_queue_model3", True),
    FIFO: ("l3_fifo_queue_model", False),
}
"""The builder's method for each of `mmenv.venue.settings.QUEUE_MODELS`, and whether it takes an exponent."""

SHAVE: Final = 2.0**-20
"""Cut off each order sent to hftbacktest. Its partial-fill exchange never removes an order whose remaining
size equals a fill exactly and reports an error at every later trade there; whole lots minus this never
equal one. An order it shows as FILLED counts as all its lots, so nothing of this is left in our figures."""


def open_backtest(
    events: NDArray[np.void],
    levels: NDArray[np.void],
    low_tick: int,
    high_tick: int,
    config: ReplayConfig,
    trips: NDArray[np.void] | None = None,
) -> int:
    """A new hftbacktest backtest of one asset; its address. It reads the arrays in place.

    `trips` are rows of `mmenv.venue.latency.ordered`; without any, latency is constant.

    Raises
    ------
    TapeError
        An array that hftbacktest would misread, or an empty price window.
    """
    trips = np.zeros(0, ROUND_TRIP) if trips is None else trips
    _require_sound(events, levels, trips)
    if not 0 < low_tick < high_tick:
        raise TapeError(f"price window {low_tick} to {high_tick} is empty; import again")
    method, takes_exponent = QUEUES[config.queue_model]
    asset = hftbacktest.BacktestAsset()
    if len(levels) and config.queue_model == FIFO:
        # Orders that stand when it begins are its first events: its snapshots are of levels.
        asset = asset.add_data(levels).add_data(events)
    elif len(levels):
        asset = asset.add_data(events).initial_snapshot(levels)
    else:
        asset = asset.add_data(events)
    asset = asset.linear_asset(1.0)
    if len(trips):
        asset = asset.intp_order_latency(trips)
    else:
        asset = asset.constant_order_latency(config.order_latency_ns, config.order_latency_ns)
    asset = getattr(asset, method)(*((config.queue_exponent,) if takes_exponent else ()))
    asset = asset.partial_fill_exchange() if config.partial_fills else asset.no_partial_fill_exchange()
    asset = asset.tick_size(1.0).lot_size(1.0).roi_lb(float(low_tick)).roi_ub(float(high_tick))
    return int(_hftbacktest.build_roivec_backtest([asset.last_trades_capacity(1024).parallel_load(False)]))


def _require_sound(events: NDArray[np.void], levels: NDArray[np.void], trips: NDArray[np.void]) -> None:
    """Raise `TapeError` for arrays that hftbacktest would misread or stop at."""
    given = (("events", events, EVENT), ("levels", levels, EVENT), ("trips", trips, ROUND_TRIP))
    for name, array, kind in given:
        if array.dtype != kind or array.ndim != 1 or not array.flags.c_contiguous or not array.flags.aligned:
            where = "mmenv.data.events.EVENT" if kind is EVENT else "mmenv.venue.latency.ROUND_TRIP"
            raise TapeError(f"{name} must be a contiguous, aligned array of {where}; import again")
    forward = (np.diff(trips["req_ts"]) > 0).all() and (np.diff(trips["exch_ts"]) > 0).all()
    lasting = (trips["req_ts"] <= trips["exch_ts"]) & (trips["exch_ts"] <= trips["resp_ts"])
    if not (forward and lasting.all()):
        raise TapeError("round trips must go forward in time; make them with mmenv.venue.latency.ordered")
    if not len(events):
        raise TapeError("no events to replay; start earlier or import more data")


_I8, _I4, _F8 = types.int64, types.int32, types.float64


def _external(name: str, result: Any, *arguments: Any) -> Any:
    return types.ExternalFunction(name, result(*arguments))


# Of a backtest, by its address, then the number of the asset where it takes one. bool and u8 arguments are
# declared 32 bits wide: the callee expects them extended by the caller.
elapse = _external("roivecbt_elapse", _I8, _I8, _I8)
now = _external("roivecbt_current_timestamp", _I8, _I8)
depth = _external("roivecbt_depth", _I8, _I8, _I8)
_last_trades = _external("roivecbt_last_trades", _I8, _I8, _I8, _I8)
clear_last_trades = _external("roivecbt_clear_last_trades", types.void, _I8, _I8)
clear_inactive = _external("roivecbt_clear_inactive_orders", types.void, _I8, _I8)
get_orders = _external("roivecbt_orders", _I8, _I8, _I8)
cancel = _external("roivecbt_cancel", _I8, _I8, _I8, _I8, _I4)
_submit_buy = _external("roivecbt_submit_buy_order", _I8, _I8, _I8, _I8, _F8, _F8, _I4, _I4, _I4)
_submit_sell = _external("roivecbt_submit_sell_order", _I8, _I8, _I8, _I8, _F8, _F8, _I4, _I4, _I4)
_close = _external("roivecbt_close", _I8, _I8)

# Of what `get_orders` and `depth` gave.
_get_order = _external("orders_get", _I8, _I8, _I8)
best_bid_tick = _external("roivecdepth_best_bid_tick", _I8, _I8)
best_ask_tick = _external("roivecdepth_best_ask_tick", _I8, _I8)
bid_qty = _external("roivecdepth_bid_qty_at_tick", _F8, _I8, _I8)
ask_qty = _external("roivecdepth_ask_qty_at_tick", _F8, _I8, _I8)

END_OF_DATA: Final = 1
"""What `elapse` reports at the end; larger codes are errors."""
NONE, NEW, FILLED, PARTIAL = 0, 1, 3, 5
"""States of an order."""
_POST_ONLY, _AT_ONCE, _LIMIT = 1, 3, 0


@njit(cache=True)
def close_backtest(pointer):
    """Free a backtest."""
    return _close(pointer)


@njit(cache=True, nogil=True)
def submit(pointer, number, side, tick, lots):
    """Send a post-only order; 0 or the engine's error."""
    price, size = float(tick), lots - SHAVE
    if side == ASK:
        return _submit_sell(pointer, 0, number, price, size, _POST_ONLY, _LIMIT, 0)
    return _submit_buy(pointer, 0, number, price, size, _POST_ONLY, _LIMIT, 0)


@njit(cache=True, nogil=True)
def take(pointer, number, side, tick, lots):
    """Send an order that is filled at once, at `tick` at worst, or is gone; 0 or the engine's error.

    Of what it fills, the price of the last level alone is told (`exec_price_tick`).
    """
    if side == ASK:
        return _submit_sell(pointer, 0, number, float(tick), float(lots), _AT_ONCE, _LIMIT, 0)
    return _submit_buy(pointer, 0, number, float(tick), float(lots), _AT_ONCE, _LIMIT, 0)


@njit(cache=True, nogil=True)
def trades_seen(pointer):
    """Trades that reached us since `clear_last_trades`, EVENT [k], in the engine's memory."""
    length = np.zeros(1, np.int64)
    return carray(address_as_void_pointer(_last_trades(pointer, 0, length.ctypes.data)), length[0], EVENT)


@njit(cache=True, nogil=True)
def order_seen(book, number):
    """Of the orders that `get_orders` gave: whether there is one of this number, and its record, of
    hftbacktest's `order_dtype`, in the engine's memory."""
    address = _get_order(book, number)
    return address != 0, carray(address_as_void_pointer(address), 1, order_dtype)
