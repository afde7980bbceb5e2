"""The state of a session as bytes, from which it goes on without being played from its beginning.

A snapshot is a text, which says what is there and holds numbers and words, and arrays behind it. The same
state gives the same bytes, so a session that is played again must make the snapshots that are on record.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from mmenv.engine.memory import fill

MARK: Final = b"NeuralMM snapshot 1\n"
"""The first bytes of a snapshot, by which it is found in a journal."""
_HEAD: Final = struct.Struct(f"<{len(MARK)}s8sII")
"""Mark, layout, lengths of the text and of the policy's memory."""
_NAMED: Final = 2
"""Levels of dictionaries whose keys are names: the parts, and the attributes of each."""
_WORD: Final = 8
_SPARSE: Final = 1.5
"""Words of a sparse array's entry: its place, in four bytes, and its value."""

Kept = dict[str, Any]
"""Names and what they stand for: numbers, texts, decimals, arrays, and dictionaries and lists of them."""


def keep(owner: Any, *names: str) -> Kept:
    """These attributes of an object, to be given back by `give_back`."""
    return {name: getattr(owner, name) for name in names}


def give_back(owner: Any, kept: Kept) -> None:
    """Set attributes to what `keep` found; arrays, queues and dictionaries stay the objects that they are.

    Raises `ValueError` where an array has another size.
    """
    for name, value in kept.items():
        own = getattr(owner, name)
        if isinstance(own, np.ndarray):
            fill(own, value)
        elif isinstance(own, deque):
            own.clear()
            own.extend(value)
        elif isinstance(own, dict):
            own.clear()
            own.update(value)
        else:
            setattr(owner, name, value)


def pack(content: Kept, memory: bytes = b"") -> bytes:
    """A state as bytes, the policy's `memory` behind it."""
    arrays: list[NDArray[Any]] = []
    layout = hashlib.sha256()
    text = orjson.dumps(_plain(content, arrays, layout))
    parts = [_sparse(array) for array in arrays]
    head = _HEAD.pack(MARK, layout.digest()[:8], len(text), len(memory))
    return b"".join((head, text, *parts, memory))


def unpack(payload: bytes) -> tuple[Kept, bytes]:
    """What `pack` was given."""
    _, _, length, memory = _HEAD.unpack_from(payload)
    start, end = _HEAD.size + length, len(payload) - memory
    found = _found(orjson.loads(payload[_HEAD.size : start]), iter(_Arrays(payload[start:end])))
    return found, payload[end:]


def memory_of(payload: bytes) -> bytes:
    """The policy's memory in a snapshot."""
    *_, memory = _HEAD.unpack_from(payload)
    return payload[len(payload) - memory :]


def same_layout(first: bytes, second: bytes) -> bool:
    """Whether two snapshots hold things of the same names and types, as those of one version do."""
    return _HEAD.unpack_from(first)[:2] == _HEAD.unpack_from(second)[:2]


def _plain(value: Any, arrays: list[NDArray[Any]], layout: Any, depth: int = 0) -> Any:
    """What JSON can hold; arrays are put aside in their order.

    `layout` is told their types and the names of parts and attributes, but not the keys of what these hold.
    """
    if isinstance(value, np.ndarray):
        arrays.append(value)
        layout.update(str(value.dtype.descr).encode())
        return {"array": [value.dtype.str, value.shape]}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, dict):
        if depth < _NAMED:
            layout.update(" ".join(value).encode())
        return {"pairs": [[key, _plain(entry, arrays, layout, depth + 1)] for key, entry in value.items()]}
    if isinstance(value, (list, tuple, deque)):
        return [_plain(entry, arrays, layout, _NAMED) for entry in value]
    return value


def _found(value: Any, arrays: Iterator[Any]) -> Any:
    if isinstance(value, list):
        return [_found(entry, arrays) for entry in value]
    if not isinstance(value, dict):
        return value
    [(kind, held)] = value.items()
    if kind == "decimal":
        return Decimal(held)
    if kind == "pairs":
        return {key: _found(entry, arrays) for key, entry in held}
    # Records come as bare words, to be viewed as what they are.
    kind, shape = held
    dtype = np.dtype(kind)
    return next(arrays)[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def _sparse(array: NDArray[Any]) -> bytes:
    """An array as bytes: its words that are not zero, and where they are, if these are few."""
    plain = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    words = np.zeros(-(-len(plain) // _WORD), np.uint64)
    words.view(np.uint8)[: len(plain)] = plain
    places = np.flatnonzero(words).astype(np.uint32)
    if _SPARSE * len(places) >= len(words):
        return struct.pack("<II", len(words), 0xFFFFFFFF) + words.tobytes()
    return struct.pack("<II", len(words), len(places)) + places.tobytes() + words[places].tobytes()


class _Arrays:
    """Bytes of the arrays in a snapshot, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        at = 0
        while at < len(self._data):
            count, filled = struct.unpack_from("<II", self._data, at)
            at += 8
            words = np.zeros(count, np.uint64)
            if filled == 0xFFFFFFFF:
                words[:] = np.frombuffer(self._data, np.uint64, count, at)
                at += _WORD * count
            else:
                places = np.frombuffer(self._data, np.uint32, filled, at)
                words[places] = np.frombuffer(self._data[at + 4 * filled :], np.uint64, filled)
                at += (4 + _WORD) * filled
            yield words.view(np.uint8)
