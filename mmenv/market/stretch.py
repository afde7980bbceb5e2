"""Recorded tapes from given places on, in place of random ones, as markets of the desk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmenv.checks import ConfigError, require
from mmenv.market.replay import Replay, ReplayFeed, measure, open_venue, spans_of
from mmenv.market.units import Measured, Multiples, Symbol

if TYPE_CHECKING:
    # Tapes and engines take a while to import, and whoever simulates a market needs neither.
    from mmenv.data.tape import TapeInfo
    from mmenv.venue.replay import ReplayVenue, Span


class StretchFeed(ReplayFeed):
    """Connects lanes that start at given places to a desk.

    The first reset starts lane i at the local time `places[i][1]` of the span `places[i][0]`. Later ones
    start a new episode for the policy while the market, our orders in it and the position go on.
    """

    def __init__(
        self,
        venue: ReplayVenue,
        places: Sequence[tuple[Span, int]],
        multiples: Mapping[Symbol, Multiples] | None = None,
        own_fees: bool = False,
    ) -> None:
        super().__init__(venue, multiples, own_fees)
        self._places: list[tuple[Span, int] | None] = [*places]

    @property
    def time_ns(self) -> int:
        """Local time of the first lane."""
        return int(self.venue.outcomes["time_ns"][0])

    def reset(self, core: np.ndarray, lanes: np.ndarray) -> None:
        for lane in map(int, np.flatnonzero(lanes)):
            place, self._places[lane] = self._places[lane], None
            if place is not None:
                self.venue.start(lane, *place)
            self.begin(core, lane)


@dataclass(frozen=True, kw_only=True)
class Placed(Replay):
    """A replay from given places on, in the units of the market that it is taken from."""

    @property
    def whole(self) -> Replay:
        """The market that this is taken from: its training split sets the units."""
        return Replay(**settings_of(self))

    @property
    def measured(self) -> Measured:
        return measure(self.whole)


@dataclass(frozen=True, kw_only=True)
class Stretches(Placed):
    """Tapes of a store from given places on, one for each environment."""

    places: tuple[tuple[Span, int], ...] = ()
    """A span (`mmenv.venue.replay.Span`) and a local time in it for each environment."""

    def attach(self, n: int, horizon: int, position_limit: int) -> StretchFeed:
        # An episode may be longer than what is left of its span, which `horizon` would leave out.
        venue = open_venue(self, self.split, 1, position_limit, n)
        return StretchFeed(venue, self.places, self.measured.multiples, self.own_fees)


@dataclass(frozen=True, kw_only=True)
class Stretch(Placed):
    """One stretch of one tape in order of time. Past `end_ns` the episode is truncated."""

    tape: str = ""
    """The tape's file."""
    start_ns: int = 0
    end_ns: int = 0
    """Local time, nanoseconds."""

    @property
    def decisions(self) -> int:
        """How many decisions fit into it."""
        return (self.end_ns - self.start_ns) // self.step_ns

    def attach(self, n: int, horizon: int, position_limit: int) -> StretchFeed:
        # Slow to import.
        from mmenv.data.tape import Tape
        from mmenv.venue import engines
        from mmenv.venue.replay import Span

        if n != 1:
            raise ConfigError(f"n = {n} is not possible: a stretch of a tape is played by one environment.")
        config = self.venue_config("all", max(self.decisions, 1), position_limit)
        venue = engines.open_venue(self.engine, [Tape(self.tape)], 1, config)
        return StretchFeed(venue, [(Span(0, self.start_ns, self.start_ns, self.end_ns), self.start_ns)])


def settings_of(market: Replay) -> dict[str, Any]:
    """The settings that `market` has as a `Replay`."""
    return {field.name: getattr(market, field.name) for field in dataclasses.fields(Replay)}


def stretches(
    market: Replay, start_ns: int | None = None, end_ns: int | None = None
) -> list[tuple[TapeInfo, Stretch]]:
    """The stretches of `market`'s split between two local times, one for each tape, with what is known of it.

    Raises
    ------
    ConfigError
        The range holds no decision.
    """
    wanted = "one of a single symbol here, such as 'replay': several are for training and evaluation"
    require(market.quoted == 1, "EnvConfig", "market", market.name, wanted)
    tapes, spans = spans_of(market)
    chosen = []
    for span in spans:
        first = max(span.first_ns, start_ns if start_ns is not None else span.first_ns)
        last = min(span.end_ns, end_ns if end_ns is not None else span.end_ns)
        if last - first >= market.step_ns:
            tape = tapes[span.tape]
            own = dataclasses.replace(market, venue=tape.info.venue, symbol=tape.info.symbol, day="*")
            piece = Stretch(**settings_of(own), tape=str(tape.path), start_ns=first, end_ns=last)
            chosen.append((tape.info, piece))
    if not chosen:
        times = [np.datetime64(t, "ns") for s in spans for t in (s.first_ns, s.end_ns)]
        raise ConfigError(
            f"the range from {_when(start_ns)} to {_when(end_ns)} holds no decision: split {market.split!r} "
            f"of {market.store} runs from {min(times)} to {max(times)} UTC."
        )
    return chosen


def _when(time_ns: int | None) -> str:
    return "the beginning" if time_ns is None else f"{np.datetime64(time_ns, 'ns')}"
