"""Names of orders and trades, where a venue's are of another kind than a desk's."""

from __future__ import annotations

import re
from typing import Final

from mmenv.data.text import hash_text

HASH_BITS: Final = 22
"""What is left of 63 bits beside a time in milliseconds."""
_OURS: Final = re.compile(r"([0-9a-f]{1,12})-(\d{1,9})")
_THEIRS: Final = re.compile(r"nmm([0-9a-f]{6})([0-9a-f]{1,12})x(\d{1,9})")


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


def symbol_tag(symbol: str) -> str:
    """Six hexadecimal digits for a symbol: desks that begin together send orders of the same numbers, and a
    venue takes each id of an account once."""
    return f"{hash_text(symbol) & 0xFFFFFF:06x}"


def session_and_number(client_id: str, symbol: str) -> tuple[str, str] | None:
    """When the session began, in hexadecimal digits, and the order's number in a desk's id of an order; None
    for other ids."""
    start = f"nmm{symbol}"
    found = _OURS.fullmatch(client_id.removeprefix(start)) if client_id.startswith(start) else None
    return (found[1], found[2]) if found is not None else None


def short_name(client_id: str, symbol: str) -> str:
    """A desk's id of an order in at most 31 letters and digits, for venues that take no other, or no longer
    ones. Other ids stay as they are."""
    found = session_and_number(client_id, symbol)
    return f"nmm{symbol_tag(symbol)}{found[0]}x{found[1]}" if found is not None else client_id


def long_name(name: str, symbol: str) -> str:
    """What `short_name` made short; the names of other symbols, and of others, stay as they are."""
    found = _THEIRS.fullmatch(name)
    return f"nmm{symbol}{found[2]}-{found[3]}" if found and found[1] == symbol_tag(symbol) else name
