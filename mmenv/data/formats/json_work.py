"""What a scan of JSON messages reads and writes, as one record of addresses for compiled code.

Numba passes an array as seven numbers and counts the references to it in each function that takes it. Code
that looks at bytes one by one spends longer on that than on the bytes: its functions take an address.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit, types
from numba.np.numpy_support import carray

from mmenv.engine.memory import array_at

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


@njit(cache=True, nogil=True)
def bytes_at(address, size):
    """Bytes [size] that lie at an address."""
    return carray(array_at(address, types.uint8), size)


@njit(cache=True, nogil=True)
def pairs_at(address, size):
    """int64 [size, 2] at an address."""
    return carray(array_at(address, types.int64), (size, 2))


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
