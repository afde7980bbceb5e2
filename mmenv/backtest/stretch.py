"""A stretch of one recorded tape, from a given start to a given end, as a market of the desk."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmenv.config import ConfigError, EnvConfig
from mmenv.desk import Desk
from mmenv.market.replay import Replay, ReplayFeed, give_events, measure, take_quotes

if TYPE_CHECKING:
    from mmenv.venue.replay import ReplayVenue


@dataclass(frozen=True, kw_only=True)
class Stretch(Replay):
    """One stretch of a tape in order of time, in the units of the market `Replay` it is taken from.

    The first reset starts at `start_ns`. Later ones start a new episode for the policy while the market, our
    orders in it and the position go on. Past `end_ns` the episode is truncated.
    """

    tape: str = ""
    """The tape's file."""
    start_ns: int = 0
    end_ns: int = 0
    """Local time, nanoseconds."""

    @property
    def whole(self) -> Replay:
        """The market this is a stretch of: its training split sets the units."""
        return Replay(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Replay)})

    @property
    def price_scale(self) -> int:
        return measure(self.whole).price_scale

    @property
    def lot_scale(self) -> float:
        return measure(self.whole).lot_scale

    def attach(self, config: EnvConfig, n: int) -> StretchFeed:
        from mmenv.data.tape import Tape
        from mmenv.venue.paper import MatcherVenue
        from mmenv.venue.replay import ReplayVenue

        if n != 1:
            raise ConfigError(f"n = {n} is not possible: a stretch of a tape is played by one environment.")
        kind = MatcherVenue if self.engine == "matcher" else ReplayVenue
        decisions = max(int((self.end_ns - self.start_ns) // round(self.step_seconds * 1e9)), 1)
        venue = kind([Tape(self.tape)], 1, self.venue_config("all", decisions, config.risk.position_limit))
        return StretchFeed(venue, self.start_ns, self.end_ns)


def stretch(market: Replay, tape: Path, start_ns: int, end_ns: int) -> Stretch:
    """The stretch of `tape` from `start_ns` to `end_ns`, settings as in `market`."""
    settings = {f.name: getattr(market, f.name) for f in dataclasses.fields(Replay)}
    return Stretch(**settings, tape=str(tape), start_ns=start_ns, end_ns=end_ns)


class StretchFeed(ReplayFeed):
    """Connects the one lane of a venue to a desk, see `Stretch`."""

    def __init__(self, venue: ReplayVenue, start_ns: int, end_ns: int) -> None:
        super().__init__(venue)
        self._times = start_ns, end_ns
        self._event: np.ndarray | None = None

    @property
    def compiled(self) -> bool:
        """Whether hftbacktest plays the exchange, whose step can be called from compiled code."""
        from mmenv.venue.replay import ReplayVenue

        return type(self.venue) is ReplayVenue

    @property
    def time_ns(self) -> int:
        """Local time now."""
        assert self._event is not None
        return int(self._event[0])

    def reset(self, desk: Desk, lanes: np.ndarray) -> None:
        from mmenv.venue.replay import Span

        if self._event is None:
            start, end = self._times
            self._event = self.venue.start(0, Span(0, start, start, end), start)
        self.begin(desk, 0, self._event)

    def advance(self, desk: Desk) -> None:
        take_quotes(desk.core, self._windows, self._quotes)
        events = self.venue.advance(self._quotes)
        give_events(desk.core, events)
        self._event = events[0]


def stretches(
    market: Replay, start_ns: int | None = None, end_ns: int | None = None
) -> list[tuple[Any, Stretch]]:
    """The stretches of `market`'s split between two local times, one for each tape, with their `TapeInfo`.

    Raises `ConfigError` where the range holds no decision.
    """
    from mmenv.data.tape import tapes
    from mmenv.venue.replay import ReplayVenue

    found = tapes(Path(market.store), market.venue, market.symbol, market.day)
    with ReplayVenue(found, 1, market.venue_config(market.split, 1, 1)) as venue:
        spans = venue.spans
    step_ns = round(market.step_seconds * 1e9)
    chosen = []
    for span in spans:
        first = max(span.first_ns, start_ns if start_ns is not None else span.first_ns)
        last = min(span.end_ns, end_ns if end_ns is not None else span.end_ns)
        if last - first >= step_ns:
            tape = found[span.tape]
            own = dataclasses.replace(market, venue=tape.info.venue, symbol=tape.info.symbol, day="*")
            chosen.append((tape.info, stretch(own, tape.path, first, last)))
    if not chosen:
        times = [np.datetime64(t, "ns") for s in spans for t in (s.first_ns, s.end_ns)]
        raise ConfigError(
            f"the range from {_when(start_ns)} to {_when(end_ns)} holds no decision: split {market.split!r} "
            f"of {market.store} runs from {min(times)} to {max(times)} UTC."
        )
    return chosen


def _when(time_ns: int | None) -> str:
    return "the beginning" if time_ns is None else f"{np.datetime64(time_ns, 'ns')}"
