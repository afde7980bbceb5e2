"""The local exchange from the command line: `python -m mmenv.exchange.serve`."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import tyro

from mmenv.data.tape import tapes
from mmenv.exchange.books import Account, Listing
from mmenv.exchange.exchange import VENUES, Exchange
from mmenv.exchange.faults import Faults
from mmenv.exchange.server import Server
from mmenv.times import SECOND


@dataclass(frozen=True)
class Serve:
    """Serve recorded tapes as Binance and Bybit do, until interrupted."""

    store: Path
    """Store of tapes."""
    symbol: tuple[str, ...] = ()
    """Symbols; all of the store, if none is given."""
    venue: str = "*"
    """Name of a venue, or a pattern of names; what the exchange does not speak is left out."""
    host: str = "127.0.0.1"
    """Address to serve on."""
    port: int = 8080
    """Port to serve on; 0 takes a free one."""
    speed: float = 1.0
    """Tape time that passes in a unit of time."""
    repeat: bool = True
    """Begin anew at the end of the tape."""
    queue_model: str = "risk-adverse"
    """How our place in the queue moves; see mmenv.venue.matcher."""
    key: str = "demo"
    """API key of the one account; its secret is the same."""
    faults: int | None = None
    """Seed of a random schedule of faults over the first ten minutes; otherwise none."""

    def run(self) -> None:
        """Serve. Raises `TapeError` if there is no such tape."""
        account = Account(self.key, self.key)
        found = [
            tape
            for symbol in self.symbol or ("*",)
            for tape in tapes(self.store, self.venue, symbol)
            if tape.info.venue in VENUES
        ]
        groups = itertools.groupby(found, key=lambda tape: (tape.info.venue, tape.info.symbol))
        listings = [
            Listing(list(days), queue_model=self.queue_model, repeat=self.repeat) for _, days in groups
        ]
        for listing in listings:
            account.balances |= {listing.base: Decimal(1000), listing.quote: Decimal(10_000_000)}
        faults = None if self.faults is None else Faults.random(self.faults, 600 * SECOND, count=30)

        async def serve() -> None:
            exchange = Exchange(
                listings, start_ns=time.time_ns(), speed=self.speed, accounts=[account], faults=faults
            )
            async with Server(exchange, self.host, self.port) as server:
                names = ", ".join(f"{listing.venue} {listing.symbol}" for listing in listings)
                print(f"{names} at {server.url}; API key and secret: {self.key}", flush=True)
                await asyncio.Event().wait()

        with suppress(KeyboardInterrupt):
            asyncio.run(serve())


def main() -> None:
    """Command line of `python -m mmenv.exchange.serve`."""
    try:
        tyro.cli(Serve, prog="python -m mmenv.exchange.serve").run()
    except (OSError, ValueError) as error:
        raise SystemExit(f"python -m mmenv.exchange.serve: {error}") from None


if __name__ == "__main__":
    main()
