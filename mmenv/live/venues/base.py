"""What a venue is: a place that takes orders, as a live desk reaches it.

A venue of your own is one folder or file:

    from mmenv.live.venues.base import Venue, register

    @register
    class Bazaar(Venue):
        name = "bazaar"

        def feed(self, symbol, keep=None): ...      # a mmenv.live.market_feed.MarketFeed
        async def orders(self, symbol): ...         # a mmenv.live.orders.OrderClient
        async def close(self): ...

Every command that takes a venue takes its name, "module:Bazaar" without registering it, and the name under
which a package offers it among its entry points of the group `neuralmm.venues`.
"""

from __future__ import annotations

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from mmenv.checks import ConfigError
from mmenv.live.market_feed import MarketFeed
from mmenv.live.orders import OrderClient
from mmenv.registry import PluginError, Registry

Clock = Callable[[], int]
"""Local time in nanoseconds since 1970."""
Keep = Callable[[int, bytes], None]
"""Is given the local time and the bytes of everything received, as it comes."""


@dataclass(frozen=True)
class Credentials:
    """An API key, its secret, and its passphrase where the venue gives one; never shown."""

    key: str
    secret: str
    passphrase: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"


class Venue(ABC):
    """A place that takes orders. Subclass and `register`; what is made of it is one connection to the place.

    Parameters
    ----------
    url
        Address of another server of the same protocol, such as "http://127.0.0.1:8080".
    credentials
        Key to an account, which orders need and market data does not.
    clock
        Local time.
    testnet
        Connect to the venue's testnet, where nothing is worth anything.

    Raises
    ------
    ConfigError
        It has no testnet.
    """

    name: ClassVar[str] = ""
    """Name in tapes, in journals and on the command line."""
    format: ClassVar[str] = ""
    """The importer's format of what is received, without which a venue cannot be recorded."""
    testnets: ClassVar[bool] = False
    """Whether it has a testnet."""
    example: ClassVar[str] = ""
    """A symbol as it writes them."""
    notes: ClassVar[str] = ""
    """What to know before trading there, for a table."""

    def __init__(
        self,
        url: str | None = None,
        credentials: Credentials | None = None,
        clock: Clock = time.time_ns,
        testnet: bool = False,
    ) -> None:
        if testnet and not self.testnets:
            raise ConfigError(f"testnet = True is not possible: {self.name} has none.")
        self.url, self.credentials, self.clock, self.testnet = url, credentials, clock, testnet

    @abstractmethod
    def feed(self, symbol: str, keep: Keep | None = None) -> MarketFeed:
        """Market data of a symbol, named as the venue does; not connected before it is opened."""

    @abstractmethod
    async def orders(self, symbol: str) -> OrderClient:
        """Orders of a symbol, by the credentials; its user stream does not run before it is opened.

        Raises
        ------
        ValueError
            The venue does not trade the symbol.
        VenueError
            It gives no answer.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect, when all feeds and orders have been closed."""


def check_venue(name: str, plugin: Any) -> None:
    """Raise `PluginError` for what is no venue that can be connected to."""
    if not (isinstance(plugin, type) and issubclass(plugin, Venue)):
        raise PluginError(
            f"venue {name!r} = {plugin!r} is not possible: it must be a subclass of {Venue.__module__}.Venue."
        )
    if inspect.isabstract(plugin):
        missing = ", ".join(sorted(plugin.__abstractmethods__))
        raise PluginError(f"venue {name!r} is not complete: {plugin.__qualname__} must also have {missing}.")
    if not plugin.name or "/" in plugin.name:
        raise PluginError(
            f"{plugin.__qualname__}.name = {plugin.name!r} is not possible: it must be a name for files."
        )


VENUES: Final[Registry[type[Venue]]] = Registry("venue", "mmenv.live.venues", check_venue)

V = TypeVar("V", bound=type[Venue])


def register(cls: V) -> V:
    """Class decorator: make the venue known under its `name`."""
    VENUES.register(cls.name, cls)
    return cls
