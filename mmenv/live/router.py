"""Carries a desk's orders to a real venue, and what the venue says about them to the session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final, TypeVar

from mmenv.checks import ConfigError
from mmenv.live.execution import LiveExecution
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import (
    Fill,
    Funding,
    OpenOrder,
    Order,
    OrderClient,
    Reject,
    Stream,
    Terms,
    Trouble,
    VenueError,
)
from mmenv.live.plan import Plan
from mmenv.live.relisting import terms_of
from mmenv.live.session import Session
from mmenv.live.setup import Outgoing
from mmenv.live.tasks import Tasks
from mmenv.times import SECOND

T = TypeVar("T")

SLEEP_S: Final = 0.05
"""Pause between two looks at whether something has happened."""
RETRY_S: Final = 1.0
"""Pause before a venue that gave no usable answer is asked again."""
LOOKS: Final = 4
"""A position must differ from the venue's so often in a row, for fills may be on their way."""
GRACE_S: Final = 5.0
"""How long a desk that stops waits for its orders to be gone."""


class OrderRouter:
    """Orders of one desk. `tasks` runs the requests that nobody waits for; `note` shows a message, `doubt` is
    called where the venue's answer says that the symbol is not what it was."""

    def __init__(
        self,
        client: OrderClient,
        plan: Plan,
        tasks: Tasks,
        clock: Callable[[], int],
        note: Callable[[str], None],
        doubt: Callable[[], None],
    ) -> None:
        self._client, self._plan, self._tasks = client, plan, tasks
        self._clock, self._note, self._doubt = clock, note, doubt

    async def first_books(self, instrument: Instrument) -> dict[str, Any]:
        """Fields of a new session's `Setup`: what it must know of the account and of the venue's limits.

        Raises `ConfigError` where the desk would not be alone.
        """
        terms = terms_of(instrument)
        return await self._answer(lambda: self._first_books(Decimal(instrument.lot_size))) | {
            "min_lots": terms.min_lots,
            "reduces": instrument.reduces,
            "min_value": terms.min_value,
        }

    async def _first_books(self, lot: Decimal) -> dict[str, Any]:
        if found := await self._client.open_orders():
            names = ", ".join(order.client_id for order in found)
            raise ConfigError(
                f"{self._plan.symbol} has open orders that no journal knows ({names}): cancel them, a desk "
                "must be alone with its symbol."
            )
        held = await self._client.holdings()
        size = Decimal(held.size)
        lots = int(size / lot)
        return {
            "last_trade": await self._client.newest_trade(),
            "position": 0 if held.owned else lots,
            "baseline": lots if held.owned else 0,
            "dust": f"{size - lots * lot:f}" if size != lots * lot else "0",
        }

    async def terms(self) -> Terms | None:
        """What the venue charges this account, None if it does not say."""
        return await self._answer(self._client.terms)

    async def cancelled(self) -> list[OpenOrder]:
        """The orders that were open; now none is."""
        standing = await self._answer(self._cancelled)
        if standing:
            self._note(f"{len(standing)} orders were open; they are cancelled")
        return standing

    async def _cancelled(self) -> list[OpenOrder]:
        standing = await self._client.open_orders()
        await self._client.cancel_all()
        while await self._client.open_orders():
            await asyncio.sleep(SLEEP_S)
        return standing

    async def reconcile(self, session: Session, cancelled: list[OpenOrder]) -> None:
        """After a restart: cancel all, hear the missed fills, compare orders and position.

        `cancelled` were open, too. The session then goes on, or halts naming the difference.
        """
        standing, missed, position = await self._answer(lambda: self._books(session))
        for event in missed:
            session.hear(event)
        if Decimal(position) != session.expected_position:
            await self._look_back(session)
        session.account([*cancelled, *standing], position, self._clock())
        self._note(f"compared with the venue: {len(missed)} events missed, {len(standing)} orders open since")

    async def _books(self, session: Session) -> tuple[list[OpenOrder], list[Fill | Funding], str]:
        """What was open and has been cancelled, fills and funding that may be missing, the position then."""
        assert isinstance(session.execution, LiveExecution)
        standing = await self._cancelled()
        execution = session.execution
        fills = await self._client.fills(execution.told_until, execution.open_ids)
        paid = await self._client.funding(execution.funded_ns or session.setup.start_ns)
        missed: list[Fill | Funding] = [*fills, *paid]
        return standing, missed, (await self._client.holdings()).size

    async def _look_back(self, session: Session) -> None:
        """Hear all fills again: one that was never told may be older than those that were, where its order is
        not ours, as a liquidation's."""
        assert isinstance(session.execution, LiveExecution)
        since = session.execution.known_since(session.setup.last_trade)
        ours = session.execution.open_ids
        for fill in await self._answer(lambda: self._client.fills(since, ours)):
            session.hear(fill)

    async def _answer(self, question: Callable[[], Awaitable[T]]) -> T:
        """The venue's answer, however often it must be asked."""
        while True:
            try:
                return await question()
            except VenueError as error:
                self._note(f"comparing with the venue: {error}")
                await asyncio.sleep(RETRY_S)

    # While the desk runs

    async def listen(self, session: Session) -> None:
        """Hand what the venue says to the session, until the client is closed."""
        broken = False
        async for event in self._client.events():
            session.hear(event)
            if isinstance(event, Stream):
                if event.ok and broken:
                    self._tasks.start(self._compare_position(session))
                broken = not event.ok
            if isinstance(event, Reject):
                self._note(f"rejected: {event.reason}")
                if event.kind in (Trouble.BAD_ORDER, Trouble.CLOSED):
                    self._doubt()

    async def _compare_position(self, session: Session) -> None:
        """After an interruption of the reports: where the position stays another than the venue's, hear all
        fills again."""
        with suppress(VenueError):
            for _ in range(LOOKS):
                expected = session.expected_position
                held = Decimal((await self._client.holdings()).size)
                if held in (expected, session.expected_position):
                    return
                await asyncio.sleep(RETRY_S)
            await self._look_back(session)

    async def stay_alive(self) -> None:
        """Keep the venue's countdown from cancelling our orders; it does once we are gone."""
        while True:
            with suppress(VenueError):
                if not await self._client.cancel_after(self._plan.countdown_s):
                    return
            await asyncio.sleep(self._plan.countdown_s / 3)

    def send(self, session: Session, outgoing: Outgoing) -> None:
        """Send what a decision wants sent."""
        assert isinstance(session.execution, LiveExecution)
        if outgoing.cancel_all:
            self.cancel_all()
        for command in outgoing.commands:
            name = session.execution.client_id(int(command["id"]))
            if command["lots"] == 0:
                self._tasks.start(self._client.cancel(name))
                continue
            order = Order(
                client_id=name,
                side=int(command["side"]),
                tick=int(command["tick"]),
                lots=int(command["lots"]),
                post_only=not outgoing.at_once,
                at_once=outgoing.at_once,
                reduce_only=outgoing.reduce_only,
            )
            self._tasks.start(self._client.submit(order))

    def cancel_all(self) -> None:
        """Cancel all orders of the symbol, however often the venue must be asked."""
        self._tasks.start(self._until_cancelled())

    async def _until_cancelled(self) -> None:
        while True:
            try:
                await self._client.cancel_all()
                return
            except VenueError as error:
                self._note(str(error))
                await asyncio.sleep(RETRY_S)

    def adopt(self, instrument: Instrument) -> None:
        """Speak in the units of an instrument that has changed."""
        self._client.adopt(instrument)

    async def finish(self, session: Session) -> None:
        """Cancel all, and wait until no order is open, or for GRACE_S."""
        until = self._clock() + round(GRACE_S * SECOND)
        self.cancel_all()
        while self._clock() < until and session.working.slots["id"].any():
            await asyncio.sleep(SLEEP_S)
        with suppress(VenueError):
            if left := await self._client.open_orders():
                await self._client.cancel_all()
                self._note(f"{len(left)} orders were still open at the end; cancelled again")
