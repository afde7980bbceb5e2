"""Where books and trades stand in the JSON messages of a venue, and how compiled code is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmenv.data.formats.json_text import FACTOR, START
from mmenv.data.formats.json_work import inner, pairs_at

BOOK, TRADE, SNAPSHOT, CHANGE, ALONE = 1, 2, 4, 8, 16
"""What a word says of its message: that it holds books or trades, all levels or new sizes alone; that it is a
book itself, where it is one and no book lies in it."""

SYMBOL, TIME, OTHER_TIME, UPDATE, PREVIOUS = range(1, 6)
DEAL_SYMBOL, DEAL_TIME, DEAL_ID, DEAL_SIDE, DEAL_PRICE, DEAL_SIZE = range(6, 12)
BIDS, ASKS, CHANGES, BID, ASK, CHANGED, PRICE, SIZE, SIDE = range(12, 21)
BOOK_HERE, DEAL_HERE, BOTH_HERE, WORD, NUMBERED = range(21, 26)
FLAGS: Final = 64
"""From here on a word, less this: what it says."""

_PLACES: Final = {
    "symbol": SYMBOL,
    "time": TIME,
    "other_time": OTHER_TIME,
    "update": UPDATE,
    "previous": PREVIOUS,
    "numbered": NUMBERED,
}
"""Roles by the fields of a `Layout` that name their paths."""
_ROOM: Final = 512


class Layout(NamedTuple):
    """Where things stand.

    A path is keys with points between; "[]" is an item of a list, "[0]" the first one of a list that is named
    in `numbered`, and ".0" a number or text in a list. A bar stands between paths of messages that come in
    two forms.
    """

    words: Mapping[str, Mapping[str, int]]
    """What a text there says, up to its first point; a message with another text is left alone."""
    book: str
    """The object that is a book; "" is the message."""
    deal: str
    symbol: str
    time: str
    bids: str
    asks: str
    level: tuple[str, str]
    """Of an item of `bids` or `asks`: its price and its size."""
    deals: Mapping[int, str]
    """Where in `deal` there are DEAL_SYMBOL, DEAL_TIME, ..."""
    other_time: str = ""
    """Stands for `time` where that is missing."""
    update: str = ""
    previous: str = ""
    follows: bool = False
    """Updates are numbered one by one."""
    changes: str = ""
    """A list of sides, prices and sizes in place of `bids` and `asks`."""
    numbered: str = ""
    buy: str = "buy"
    iso: bool = False
    """Times are ISO 8601 and not milliseconds."""
    maker: bool = False
    """The side of a trade is the maker's."""
    sell: str = "sell"
    history: bool = False
    """A snapshot of trades tells what was before."""
    says_which: bool = False
    """Every book says whether it holds all levels; elsewhere one that does not say so holds them."""


class Compiled(NamedTuple):
    """A `Layout` as `scan` takes it."""

    table: Any
    """int64 [_ROOM, 2], hashes of paths and words, 0 where there is none, and their roles."""
    buy: Any
    """Bytes of the side of a buyer, and of a seller."""
    sell: Any
    iso: bool
    maker: bool
    follows: bool
    text_ids: bool
    history: bool
    says_which: bool
    own_symbols: bool
    """Each book and trade of a message names its symbol."""
    keyed: bool
    """Levels are objects and not lists."""
    price_key: Any
    """Bytes of the keys of price and size in them."""
    size_key: Any


def compiled(layout: Layout, text_ids: bool) -> Compiled:
    """A layout as `scan` takes it; `text_ids`: trades are told apart by a hash of the text of their ids."""
    items = {"bids": (BIDS, BID), "asks": (ASKS, ASK), "changes": (CHANGES, CHANGED)}
    roles: dict[str, int] = {}
    for name, role in _PLACES.items():
        roles |= dict.fromkeys(filter(None, getattr(layout, name).split("|")), role)
    for name, (container, item) in items.items():
        price, size = layout.level if name != "changes" else ("1", "2")
        for path in filter(None, getattr(layout, name).split("|")):
            roles |= {
                path: container,
                f"{path}[]": item,
                f"{path}[].{price}": PRICE,
                f"{path}[].{size}": SIZE,
            }
            roles |= {f"{path}[].0": SIDE} if name == "changes" else {}
    for path in layout.deal.split("|"):
        roles |= {f"{path}.{name}".lstrip("."): role for role, name in layout.deals.items()}
    roles |= dict.fromkeys(layout.words, WORD)
    for path, words in layout.words.items():
        roles |= {f"{path}={word}": FLAGS + flags for word, flags in words.items()}
    books, deals = layout.book.split("|"), layout.deal.split("|")
    for path in {*books, *deals}:
        here = BOTH_HERE if path in books and path in deals else BOOK_HERE if path in books else DEAL_HERE
        roles[f"{path}{{"] = here
    buy, sell, price_key, size_key = (
        np.frombuffer(text.encode(), np.uint8) for text in (layout.buy, layout.sell, *layout.level)
    )
    inside = bool(books[0]) and layout.symbol.startswith(books[0])
    return Compiled(
        hashed(roles), buy, sell, layout.iso, layout.maker, layout.follows, text_ids, layout.history,
        layout.says_which, inside, not layout.level[0].isdigit(), price_key, size_key,
    )  # fmt: skip


def hashed(roles: Mapping[str, int]) -> NDArray[np.int64]:
    """The table [_ROOM, 2] in which `role_of` finds what stands at a path."""
    table = np.zeros((_ROOM, 2), np.int64)
    for path, role in roles.items():
        found = hash_of(path.encode())
        at = found % _ROOM
        while table[at, 0]:
            at = (at + 1) % _ROOM
        table[at] = np.uint64(found).astype(np.int64), role
    return table


def hash_of(text: bytes) -> int:
    """The hash that `hash_bytes` gives of all of a text: not worth compiling."""
    found = int(START)
    for byte in text:
        found = (found ^ byte) * int(FACTOR) % (1 << 64)
    return found


@inner
def role_of(path, table):
    """What stands at a path, or what a word says; 0 where nothing is asked for."""
    known, hashed = pairs_at(table, _ROOM), np.int64(path)
    at = np.int64(path % np.uint64(_ROOM))
    while known[at, 0] != 0:
        if known[at, 0] == hashed:
            return known[at, 1]
        at = (at + 1) % _ROOM
    return np.int64(0)
