"""The engines of a replay by name."""

from __future__ import annotations

from collections.abc import Sequence

from mmenv.checks import require
from mmenv.data.tape import Tape
from mmenv.venue.matched import MatcherVenue
from mmenv.venue.replay import ReplayVenue
from mmenv.venue.settings import ENGINES, ReplayConfig


def open_venue(engine: str, tapes: Sequence[Tape], n: int, config: ReplayConfig) -> ReplayVenue:
    """A venue that replays `tapes` in n lanes; see `ReplayVenue`.

    Raises
    ------
    ConfigError
        `engine` is none of ENGINES.
    ImportError
        The engine needs an extra that is not installed; the message names it.
    """
    require(engine in ENGINES, "Replay", "engine", engine, "one of " + ", ".join(ENGINES))
    if engine == "matcher":
        return MatcherVenue(tapes, n, config)
    from mmenv.venue.hft import HftVenue  # the extra `replay`, which not everybody has

    return HftVenue(tapes, n, config)
