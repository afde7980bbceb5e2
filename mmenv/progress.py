"""Progress that fits where it is seen: a bar in a terminal or a notebook, in a log a line now and then."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from tqdm import tqdm

LOG_SECONDS: Final = 10.0
"""A log gets a line no more often than this."""


class LogLines(tqdm):
    """A bar whose states are lines of their own: what is read later would show a bar as one smeared line."""

    monitor_interval = 0  # no thread that watches over a bar which nobody sees

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any) -> None:
        self._next = time.monotonic() + LOG_SECONDS
        kept = options.get("bar_format") or (
            "{desc}{percentage:3.0f}% of {total_fmt}{unit}, {elapsed} so far, {remaining} left"
            if options.get("total") or hasattr(iterable, "__len__")
            else "{desc}{n_fmt}{unit}, {elapsed} so far"
        )
        super().__init__(
            iterable, **options | {"bar_format": kept, "mininterval": LOG_SECONDS, "leave": False}
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOG_SECONDS
            print(str(self).rstrip(": "), file=self.fp, flush=True)

    def clear(self, nolock: bool = False) -> None:
        """There is nothing to take back."""

    def close(self) -> None:
        self._next = float("inf")
        super().close()


@contextmanager
def ticking(text: str) -> Iterator[None]:
    """In a terminal, `text` and the seconds that the block has taken, until it is over; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield
        return
    over, begun = threading.Event(), time.monotonic()

    def tick() -> None:
        shown = f"{text} ..."
        while True:
            print(shown, end="\r", file=sys.stderr, flush=True)
            if over.wait(1.0):
                print(" " * len(shown), end="\r", file=sys.stderr, flush=True)
                return
            shown = f"{text} ... {time.monotonic() - begun:.0f} s"

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """A `tqdm` bar of the kind that fits standard error; takes what `tqdm` takes."""
    if sys.stderr.isatty():
        return tqdm(iterable, **options)
    if "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as widget

        return widget(iterable, **options)
    return LogLines(iterable, **options)
