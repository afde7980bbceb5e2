"""Parameters: what the episode drew, where a family of markets is trained on (see `mmenv.desk.family`); for a
critic, or for a policy that is told which market it is in."""

from __future__ import annotations

from numba import prange

from mmenv.checks import ConfigError
from mmenv.engine.maths import F
from mmenv.engine.stage import stage
from mmenv.engine.state import TILE
from mmenv.features.base import Feature, Group, register
from mmenv.market.base import Market
from mmenv.market.varied import Distribution


@stage(out=TILE)
def observe(s, w, p, x):
    for k in range(p.parameters):
        for i in prange(s.count):
            x.rows[k, i] = min(max(s.range_place[k, i], F(-3)), F(3))


def features(market: Market, randomise: tuple[Distribution, ...]) -> tuple[Feature, ...]:
    """An entry for each parameter that is drawn."""
    if not randomise:
        raise ConfigError(
            "features names 'parameters', but no parameter is drawn: leave the group out, or set `randomise`."
        )
    return tuple(
        Feature(
            f"parameter_{d.name}",
            -3,
            3,
            f"{d.name} of this episode: -1 for {d.low:g}, 1 for {d.high:g}"
            + (", on a log scale" if d.kind == "log-uniform" else ""),
        )
        for d in randomise
    )


register(Group(name="parameters", features=features, observe=observe))
