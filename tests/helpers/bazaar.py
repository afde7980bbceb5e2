"""A venue of one's own, as another package would bring it: it plays a tape and takes no orders."""

from __future__ import annotations

from mmenv.data.tape import Tape
from mmenv.live.orders import OrderClient, VenueError
from mmenv.live.tape_feed import TapeFeed
from mmenv.live.venues.base import Keep, Venue, register


@register
class Bazaar(Venue):
    """See the module; `tape` must be set."""

    name = "bazaar"
    tape: Tape
    closed = 0

    def feed(self, symbol: str, keep: Keep | None = None) -> TapeFeed:
        return TapeFeed(self.tape)

    async def orders(self, symbol: str) -> OrderClient:
        raise VenueError("the bazaar takes no orders")

    async def close(self) -> None:
        Bazaar.closed += 1


class Nameless(Bazaar):
    """A venue whose journals would have no name."""

    name = ""


class Unfinished(Venue):
    """A venue that cannot be connected to."""

    name = "unfinished"

    async def close(self) -> None: ...
