"""News of our orders as a venue tells them: a stream that is kept, and an account of when it was not."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar, Final

import orjson

from mmenv.live.orders import Fill, Stream, Trouble, VenueError
from mmenv.live.redact import redact
from mmenv.live.venues.client import RETRY_S
from mmenv.live.venues.news import News, NotTaken, Paid, Report
from mmenv.live.venues.requests import REQUEST_ERRORS, Requests, trouble_of
from mmenv.live.venues.tracker import TrackedOrder, Tracker
from mmenv.times import SECOND

KEEP_ALIVE_S: Final = 1_200.0
"""A stream that must be kept alive is this often."""
OWED_S: Final = 5.0
"""A stream that is silent for so long after an order that it must report is dead, open or not."""
LOOK_S: Final = 0.5
"""It is looked at this often."""
REFUSED: Final = (Trouble.BAD_KEY, Trouble.NO_RIGHTS)
"""Errors that waiting does not mend."""


class UserStream(ABC):
    """Keeps the stream of one account, and tells when it breaks and is back. Subclasses read what it says."""

    chatter: ClassVar[tuple[str, ...]] = ()
    """Messages that say nothing but that the connection lives."""

    def __init__(self, requests: Requests) -> None:
        self.opened = asyncio.Event()
        """Set once the stream has run, or the venue has refused us."""
        self.refused = ""
        """Why it has; empty if it has not."""
        self.paid = asyncio.Event()
        """Set when the venue says that funding was paid, or might have."""
        self.doubtful = asyncio.Event()
        """Set when a message could not be read."""
        self.requests, self.client = requests, requests.client
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self.keep_alive_s = KEEP_ALIVE_S
        self._broken = asyncio.Event()
        self._why = ""
        self._owing_ns = 0

    def attach(self, tracker: Tracker, compare: Callable[[], Awaitable[None]]) -> None:
        """Whom to tell, and what finds out, once the stream runs, what happened while it did not."""
        self._tracker, self._compare = tracker, compare

    # What each venue says

    @abstractmethod
    async def address(self) -> tuple[str, Any]:
        """Where the stream is, and a message to send first, if any."""

    @abstractmethod
    def read(self, message: Any) -> Iterable[News] | None:
        """What a message means; None if it is an answer to what was sent.

        May raise KeyError, TypeError, ValueError or AttributeError for one that is not as it should be.
        """

    async def log_in(self) -> None:
        """Say who we are and what we want to hear, by `send` and `answer`, where the address does not."""
        return

    async def keep_alive(self) -> None:
        """Do now and then what keeps the stream alive."""
        return

    async def send(self, message: Any) -> None:
        """Send over the stream's connection."""
        await self.client.clients[self._url].send(message)

    async def answer(self) -> Any:
        """The next message that is an answer."""
        return await self._answers.get()

    # Keeping it

    def owes(self, order: TrackedOrder) -> None:
        """The venue has taken the order, which the stream must report."""
        if not order.reported and not self._owing_ns:
            self._owing_ns = self.client.clock()

    async def keep(self) -> None:
        """Connect, and connect again, until cancelled."""
        tries = 0
        while True:
            url, reason = "", ""
            try:
                url, message = await self.address()
                self._url = url
                self._answers = asyncio.Queue()
                self.client.takers[url] = self._received
                self.client.ws_dial_backoff = {}
                self._broken.clear()
                self._why, self._owing_ns = "", 0
                await self._listen(url, message)
                reason, tries = self._why, 0
            except (*REQUEST_ERRORS, VenueError, TimeoutError) as error:
                reason, tries = redact(str(error)) or "no connection", tries + 1
                if trouble_of(error.__cause__ or error) in REFUSED and not self.opened.is_set():
                    self.refused = self._refusal(reason)
                    self.opened.set()
                    return
            finally:
                await self.client.hang_up(url)
                self.client.takers.pop(url, None)
            self._tracker.tell(Stream, ok=False, reason=reason)
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])

    def _refusal(self, reason: str) -> str:
        venue, wanted = self.client.venue, "the venue itself: one of its testnet needs --testnet"
        if self.client.testnet:
            wanted = "the testnet: one of the venue itself does not work there"
        return (
            f"{venue} does not accept the key ({reason.rstrip('.')}). It must be a key of {wanted}; it must "
            "have the right to trade, and from this address."
        )

    async def _listen(self, url: str, message: dict[str, Any] | None) -> None:
        """Run the stream at `url` until it breaks. Raises ccxt's errors."""
        client = self.client
        watch = asyncio.ensure_future(client.watch(url, "user", message, "user"))
        broken = asyncio.create_task(self._broken.wait())
        alive = asyncio.create_task(self.keep_alive())
        watched = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(client.answer_s):
                await asyncio.wait((watch, client.clients[url].connected), return_when="FIRST_COMPLETED")
                await self.log_in()
            await self._compare()
            self._tracker.tell(Stream, ok=True, reason="")
            if self.opened.is_set():
                # Or it may have been, while nobody heard of it.
                self.paid.set()
            self.opened.set()
            await asyncio.wait((watch, broken), return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
        finally:
            tasks = (watch, broken, alive, watched)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._owing_ns and self.client.clock() - self._owing_ns > OWED_S * SECOND:
                self.cut(f"nothing came for {OWED_S:g} s after an order")

    def _received(self, text: str | bytes) -> None:
        """A message of the stream. Half a message says nothing; the next comparison does."""
        if text in self.chatter:
            return
        try:
            message = orjson.loads(text)
            news = self.read(message)
            if news is None:
                self._answers.put_nowait(message)
                return
            for each in news:
                self._hear(each)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.doubtful.set()
        self._owing_ns = 0

    def _hear(self, news: News) -> None:
        if isinstance(news, Report):
            self._tracker.hear_report(news)
        elif isinstance(news, Fill):
            self._tracker.hear_fill(news)
        elif isinstance(news, NotTaken):
            self._tracker.hear_not_taken(news)
        elif isinstance(news, Paid):
            self.paid.set()
        else:
            self.cut(news.reason)

    def cut(self, why: str) -> None:
        """Begin the stream anew."""
        self._why = why
        self._broken.set()
