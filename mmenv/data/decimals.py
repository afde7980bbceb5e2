"""Decimals as whole numbers: prices and sizes are exact, whatever their venue writes."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.rows import CaptureError

DECIMALS: Final = 8
"""Prices and sizes of a `RAW` row are integers in units of 10^-DECIMALS, or of an importer's finer ones."""
MORE_DECIMALS: Final = (8, 12, 16)
"""What is tried in turn: at sixteen places numbers up to 922 fit into 64 bits."""

ONE: Final = 10**DECIMALS
"""The number one in these units."""

INVALID: Final = np.iinfo(np.int64).min
"""What `parse_decimals` returns for text that is no decimal, or one that does not fit."""
TOO_FINE: Final = INVALID + 1
"""What it returns for a decimal of more places than asked for."""

_NEWLINE, _PLUS, _MINUS, _POINT, _ZERO, _NINE, _E, _CAPITAL_E = b"\n+-.09eE"
POWERS: Final = np.array([10**power for power in range(19)], np.int64)
"""Of ten."""
_ROOM: Final = (np.iinfo(np.int64).max - 9) // POWERS
"""By power of ten: up to here a number can be multiplied by it and take one more digit."""


class Places(NamedTuple):
    """Decimal places of the prices and of the sizes of `RAW` rows."""

    price: int = DECIMALS
    size: int = DECIMALS

    def finer(self, price: bool, size: bool) -> Places:
        """The next finer ones of either; the same where there are none."""
        return Places(_finer(self.price) if price else self.price, _finer(self.size) if size else self.size)


def _finer(places: int) -> int:
    return min((more for more in MORE_DECIMALS if more > places), default=places)


def places_of(text: str) -> int:
    """Decimal places that a decimal needs of those in `MORE_DECIMALS`; the most where it is none of them."""
    for places in MORE_DECIMALS:
        if parse_decimals(np.frombuffer(f"{text}\n".encode(), np.uint8), 1, places, places)[0] != TOO_FINE:
            return places
    return MORE_DECIMALS[-1]


def decimal_text(units: int, places: int = DECIMALS) -> str:
    """The decimal that `units` of 10^-places stand for, without trailing zeros: 10000000 -> '0.1'."""
    whole, fraction = divmod(units, 10**places)
    return f"{whole}.{fraction:0{places}d}".rstrip("0").rstrip(".")


def decimal_units(name: str, text: str, places: int = DECIMALS) -> int:
    """Inverse of `decimal_text` for a positive decimal. Raises `CaptureError` naming the field `name`."""
    units = int(parse_decimals(np.frombuffer(f"{text}\n".encode(), np.uint8), 1, places, places)[0])
    if units <= 0:
        raise CaptureError(f"{name} = {text!r} is not possible: it must be a positive decimal such as 0.01.")
    return units


@njit(cache=True, nogil=True)
def parse_decimals(
    text: NDArray[np.uint8], count: int, even: int = DECIMALS, odd: int = DECIMALS
) -> NDArray[np.int64]:
    """Decimals [count] of the bytes of a text, each ended by a newline; as `parse_decimal` of each line.

    The first, third, ... are in units of 10^-even, the others of 10^-odd: prices and sizes by turns.
    """
    out = np.full(count, INVALID, np.int64)
    line, begin = 0, np.int64(0)
    for place, byte in enumerate(text):
        if byte == _NEWLINE:
            if line < count:
                out[line] = parse_decimal(text, begin, place, odd if line % 2 else even)
            line += 1
            begin = np.int64(place + 1)
    return out


@njit(cache=True, nogil=True)
def parse_decimal(text, begin, end, decimals):
    """The decimal text[begin:end] as an integer in units of 10^-decimals.

    A power of ten may follow ("1e-7"). TOO_FINE where it has a non-zero digit beyond `decimals` places,
    INVALID where the text is no decimal or does not fit.
    """
    place, negative = begin, begin < end and text[begin] == _MINUS
    if negative:
        place += 1
    # The number is value x 10^(zeros - fraction): its last zeros are counted, not multiplied in.
    value, digits, zeros, fraction, point = np.int64(0), 0, 0, 0, False
    while place < end:
        byte = text[place]
        if byte == _POINT and not point:
            point = True
        elif _ZERO <= byte <= _NINE:
            digits += 1
            zeros += 1
            if point:
                fraction += 1
            if byte != _ZERO:
                value = _shifted(value, zeros)
                if value < 0:
                    return INVALID
                value += byte - _ZERO
                zeros = 0
        else:
            break
        place += 1
    power = zeros - fraction + decimals
    if place < end:
        if text[place] != _E and text[place] != _CAPITAL_E:
            return INVALID
        place += 1
        sign = -1 if text[place] == _MINUS else 1
        if text[place] == _MINUS or text[place] == _PLUS:
            place += 1
        # Two digits say more than fits.
        if not 0 < end - place <= 2:
            return INVALID
        exponent = 0
        for at in range(place, end):
            if not _ZERO <= text[at] <= _NINE:
                return INVALID
            exponent = 10 * exponent + text[at] - _ZERO
        power += sign * exponent
    if digits == 0:
        return INVALID
    if value > 0 and power < 0:
        return TOO_FINE
    value = _shifted(value, power) if value > 0 else value
    if value < 0:
        return INVALID
    return -value if negative else value


@njit(cache=True, nogil=True)
def short_decimal(text, begin, end, decimals):
    """As `parse_decimal` of digits with or without a point that surely fit; negative for any other text.

    The text is read at one place only: more would have each call count its references to it, which takes
    longer than the digits do.
    """
    value, point = np.int64(0), end
    for place in range(begin, end):
        digit = np.int64(text[place]) - _ZERO
        if 0 <= digit <= 9:
            value = 10 * value + digit
        elif digit == _POINT - _ZERO and point == end:
            point = place
        else:
            return np.int64(-1)
    fraction = max(end - point - 1, 0)
    digits = end - begin - (point < end)
    if digits == 0 or fraction > decimals or digits + decimals - fraction > 19:
        return np.int64(-1)
    # Nineteen digits fit into 64 bits without a sign: what does not fit with one is negative here.
    found = value * POWERS[decimals - fraction]
    return found if found < 9 * 10**18 else np.int64(-1)


@njit(cache=True, nogil=True)
def _shifted(value, power):
    """value x 10^power with room for one more digit, or -1."""
    if value == 0 or power == 0:
        return value
    if power >= len(POWERS) or value > _ROOM[power]:
        return np.int64(-1)
    return value * POWERS[power]
