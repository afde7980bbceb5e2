"""What a scan of JSON messages reads and writes, as one record of addresses for compiled code.

Numba passes an array as seven numbers and counts the references to it in each function that takes it. Code
that looks at bytes one by one spends longer on that than on the bytes: its functions take an address.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

PART: Final = np.dtype(
    [
        *(
            (name, "i8")
            for name in ("exch_ns", "local_ns", "update", "previous", "id", "line", "bids", "asks")
        ),
        *((name, "i8") for name in ("symbol_begin", "symbol_end")),
        ("trade", "i1"),
        ("snapshot", "i1"),
        ("side", "i1"),
        ("ours", "i1"),
    ]
)
"""A book or a trade, whose levels (a trade has one) follow those of the part before. `update` and `previous`
are -1 where unknown; the symbol is a place in the text."""

WORK: Final = np.dtype(
    [
        (name, "i8")
        for name in (
            *("text", "end", "symbol", "symbol_size", "price_places", "size_places"),
            *("levels", "bids", "asks", "table"),
            *("buy", "buy_size", "sell", "sell_size", "price_key", "price_key_size", "size_key"),
            *(
                "size_key_size",
                "iso",
                "maker",
                "follows",
                "text_ids",
                "history",
                "says_which",
                "own_symbols",
                "keyed",
            ),
        )
    ]
)
"""Where arrays lie: the bytes of the text and how many they are, of the symbol, of words and keys of the
`Layout`, whose table and flags follow; levels read, int64 [.., 2], and those of the book being read."""


def _array_at(kind: Any, columns: int) -> Any:
    """What gives, for an address and a size, the array that lies there: [size], or [size, columns].

    As numba's `carray`, which would be compiled again for each function that it stands in.
    """

    def declare(typing: Any, address: Any, size: Any) -> Any:
        array = types.Array(kind, 2 if columns else 1, "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            found = context.make_array(array)(context, builder)
            size = context.cast(builder, arguments[1], signature.args[1], types.intp)
            item = context.get_constant(types.intp, kind.bitwidth // 8)
            row = context.get_constant(types.intp, columns * kind.bitwidth // 8)
            wide = context.get_constant(types.intp, columns)
            data = builder.inttoptr(arguments[0], found.data.type)
            shape, strides = ((size, wide), (row, item)) if columns else ((size,), (item,))
            shape, strides = (cgutils.pack_array(builder, each) for each in (shape, strides))
            populate_array(found, data, shape, strides, item, None)
            return found._getvalue()

        return array(types.int64, size), generate

    return intrinsic(declare)


_INNER: Any = {"cache": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner: Any = njit(**_INNER)
"""Decorator of what compiled code alone calls: it comes without what Python would call it by, which takes as
long to compile as a short function itself."""
bytes_at: Any = _array_at(types.uint8, 0)
"""Bytes [size] that lie at an address."""
pairs_at: Any = _array_at(types.int64, 2)
"""int64 [size, 2] at an address."""


@njit(cache=True, nogil=True)
def begin_work(work, text, symbol, price_places, size_places, layout):
    """Fill in what a scan reads; the arrays have to outlive it."""
    work.text, work.end = text.ctypes.data, len(text)
    work.symbol, work.symbol_size = symbol.ctypes.data, len(symbol)
    work.price_places, work.size_places = price_places, size_places
    work.table = layout.table.ctypes.data
    work.buy, work.buy_size = layout.buy.ctypes.data, len(layout.buy)
    work.sell, work.sell_size = layout.sell.ctypes.data, len(layout.sell)
    work.price_key, work.price_key_size = layout.price_key.ctypes.data, len(layout.price_key)
    work.size_key, work.size_key_size = layout.size_key.ctypes.data, len(layout.size_key)
    work.iso, work.maker, work.follows = layout.iso, layout.maker, layout.follows
    work.text_ids, work.history, work.own_symbols = layout.text_ids, layout.history, layout.own_symbols
    work.says_which, work.keyed = layout.says_which, layout.keyed
