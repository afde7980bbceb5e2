"""Tables of whole numbers by key, for compiled code: an array that is passed and pickled like any other.

A table is int64 [2^k + 1, 1 + fields]: a row for each slot, its key in column 0, and a last row that counts
the keys. Keys are spread by multiplication and looked for from their slot on (linear probing); gaps that are
left by those removed are closed. Numba's own dictionaries are several times as slow.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

FREE: Final = np.iinfo(np.int64).min
"""Stands in slots without a key; may not be one."""
SLOTS: Final = 256
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
_HALF: Final = np.uint64(32)

Table = NDArray[np.int64]


def empty(fields: int) -> Table:
    """A table without keys, of rows of so many fields."""
    table = np.zeros((SLOTS + 1, 1 + fields), np.int64)
    table[:-1, 0] = FREE
    return table


def rows(table: Table) -> NDArray[Any]:
    """The rows [n] of all keys, in no order that means anything."""
    return table[:-1][table[:-1, 0] != FREE]


@njit(cache=True, nogil=True)
def find(table, key):
    """The row of a key, -1 where there is none."""
    mask = len(table) - 2
    at = np.int64((np.uint64(key) * _SPREAD) >> _HALF) & mask
    while table[at, 0] != key:
        if table[at, 0] == FREE:
            return -1
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def put(table, key):
    """The row of a key; a new one, whose fields are what they happen to be, where there was none.

    The table must not be `full`.
    """
    mask = len(table) - 2
    at = np.int64((np.uint64(key) * _SPREAD) >> _HALF) & mask
    while table[at, 0] != key:
        if table[at, 0] == FREE:
            table[at, 0] = key
            table[mask + 1, 0] += 1
            return at
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def remove(table, at):
    """Remove the key of a row; others may then be in other rows."""
    mask = len(table) - 2
    table[mask + 1, 0] -= 1
    hole, at = at, (at + 1) & mask
    while table[at, 0] != FREE:
        slot = np.int64((np.uint64(table[at, 0]) * _SPREAD) >> _HALF) & mask
        if (at - slot) & mask >= (at - hole) & mask:
            for column in range(table.shape[1]):
                table[hole, column] = table[at, column]
            hole = at
        at = (at + 1) & mask
    table[hole, 0] = FREE


@njit(cache=True, nogil=True)
def add_to(table, key, amount):
    """Add to the only field of a key, which is 0 where there is none; its row."""
    count = table[len(table) - 1, 0]
    at = put(table, key)
    table[at, 1] = amount + (table[at, 1] if table[len(table) - 1, 0] == count else 0)
    return at


@njit(cache=True, nogil=True)
def full(table):
    """Whether the table must be `larger` before another key is put into it."""
    size = len(table) - 1
    return 2 * table[size, 0] >= size


@njit(cache=True, nogil=True)
def larger(table):
    """A copy of the table with twice the slots."""
    size, columns = 2 * (len(table) - 1), table.shape[1]
    copy = np.zeros((size + 1, columns), np.int64)
    for at in range(size):
        copy[at, 0] = FREE
    for at in range(len(table) - 1):
        if table[at, 0] != FREE:
            place = put(copy, table[at, 0])
            for column in range(1, columns):
                copy[place, column] = table[at, column]
    return copy


@njit(cache=True, nogil=True)
def clear(table):
    """Remove all keys."""
    size = len(table) - 1
    for at in range(size):
        table[at, 0] = FREE
    table[size, 0] = 0
