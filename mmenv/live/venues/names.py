"""Names of orders and trades, where a venue's are of another kind than a desk's."""

from __future__ import annotations

import re
from typing import Final

from mmenv.data.text import hash_text

HASH_BITS: Final = 22
"""What is left of 63 bits beside a time in milliseconds."""
_OURS: Final = re.compile(r"([0-9a-f]{1,16})-(\d{1,9})")
_THEIRS: Final = re.compile(r"nmm([0-9a-f]{1,16})x(\d{1,9})")


def number_of(text: str) -> int:
    """A number for an id that is none: the same for the same text."""
    return int(text) if text.isdigit() and len(text) < 19 else hash_text(text)


def number_in_time(time_ms: int, text: str) -> int:
    """A number for an id that is none, of something that happened then: later ones are larger."""
    return time_ms << HASH_BITS | hash_text(text) & ((1 << HASH_BITS) - 1)


def last_in_time(time_ms: int) -> int:
    """The largest number of what happened then."""
    return (time_ms + 1 << HASH_BITS) - 1


def time_in(number: int) -> int:
    """The milliseconds in what `number_in_time` gave."""
    return number >> HASH_BITS


def short_name(client_id: str, symbol: str) -> str:
    """A desk's id of an order in letters and digits alone, without the symbol: for venues that take no other,
    or no longer ones. Other ids stay as they are."""
    found = _OURS.fullmatch(client_id.removeprefix(f"nmm{symbol}"))
    return f"nmm{found[1]}x{found[2]}" if found is not None else client_id


def long_name(name: str, symbol: str) -> str:
    """What `short_name` made short."""
    found = _THEIRS.fullmatch(name)
    return f"nmm{symbol}{found[1]}-{found[2]}" if found is not None else name
