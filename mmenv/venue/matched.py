"""Recorded tapes with our own matcher as the engine, as in paper trading; hftbacktest is not needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.events import BUY_FLAG
from mmenv.data.rows import BUY, SELL
from mmenv.data.tape import Tape
from mmenv.venue.by_order import change_level
from mmenv.venue.latency import Latency
from mmenv.venue.matcher import put
from mmenv.venue.paper import PaperVenue
from mmenv.venue.replay import ReplayVenue, Span, first_bad_quote
from mmenv.venue.settings import FIFO, ReplayConfig
from mmenv.venue.view import View
from mmenv.venue.working import Working


class MatcherVenue(ReplayVenue):
    """The lanes of `ReplayVenue`, each one a paper exchange that plays the tape."""

    def __init__(self, tapes: Sequence[Tape], n: int, config: ReplayConfig | None = None) -> None:
        super().__init__(tapes, n, config)
        if self.config.queue_model == FIFO:
            self.ahead = np.full((n, 2), -1, np.int64)
        self._papers: list[PaperVenue | None] = [None] * n
        self._local, self._exchange = np.zeros((2, n), np.int64)
        """The next event of each lane's tape that reaches us, and the next one that reaches the exchange."""
        self._now, self._ended = self.outcomes["time_ns"], self.outcomes["data_end"]

    def _open(self, lane: int, span: Span, local_ns: int) -> None:
        replay, config = self.replays[span.tape], self.config
        index = replay.start(local_ns)
        latency = Latency(config.order_latency_ns, self._round_trips(span, local_ns))
        self._set_lane(lane, span)
        view = View(replay.low_tick, replay.high_tick, self.outcomes[lane : lane + 1])
        working = Working(self.slots, config.position_limit_lots or np.iinfo(np.int64).max // 2)
        paper = PaperVenue(
            view, working, latency, config.queue_model, config.queue_exponent, config.partial_fills
        )
        levels = replay.levels[replay.bounds[index] : replay.bounds[index + 1]]
        _set_levels(view.book, levels, replay.orders)
        _set_levels(paper.book, levels, replay.orders)
        if replay.orders and len(levels):
            paper.book.arrivals[0] = int(levels["ival"].max())
        self._papers[lane] = paper
        self._local[lane] = self._exchange[lane] = replay.rows[index]
        self._elapse(lane, paper, local_ns)
        view.begin()

    def _advance(self, quotes: NDArray[np.int64], takers: NDArray[np.int64] | None) -> None:
        bad = first_bad_quote(self.lanes, quotes)
        if bad >= 0:
            self._refuse(bad, quotes)
        for lane, paper in enumerate(self._papers):
            assert paper is not None
            paper.view.begin()
            self.taken[lane] = 0
            if not self._ended[lane]:
                now_ns = int(self._now[lane])
                paper.quote(quotes[lane], now_ns)
                if takers is not None and takers[lane, 1]:
                    paper.market_order(int(takers[lane, 0]), int(takers[lane, 1]), now_ns)
                self._elapse(lane, paper, now_ns + self.config.decision_interval_ns)

    def close(self) -> None:
        """See `ReplayVenue.close`."""
        self.lanes["set"], self._papers = 0, [None] * self.n

    def _elapse(self, lane: int, paper: PaperVenue, until_ns: int) -> None:
        """Take a lane to `until_ns`, but never past the end of its span."""
        view, events = paper.view, self.replays[self.lane_tape[lane]].events
        end_ns = int(self.lanes["end_ns"][lane])
        time_ns = min(until_ns, end_ns)
        orders = self.config.queue_model == FIFO
        self._local[lane] = view.take_events(events, self._local[lane], time_ns, orders)
        self._exchange[lane], _ = paper.play_events(events, self._exchange[lane], time_ns)
        view.observe(time_ns)
        self.taken[lane] = paper.taken[0]
        if self.ahead is not None:
            self.ahead[lane] = paper.ahead()
        self._ended[lane] = time_ns >= end_ns or self._local[lane] >= len(events)


@njit(cache=True, nogil=True)
def _set_levels(book, levels, orders):
    """Levels or orders of a snapshot, EVENT [l], in an empty book."""
    for level in levels:
        if orders:
            change_level(book, level)
            continue
        side = BUY if level.ev & BUY_FLAG else SELL
        put(book, side, int(level.px), int(level.qty))
