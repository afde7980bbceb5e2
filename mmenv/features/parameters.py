"""Parameters: what the episode drew, where a family of markets is trained on (see `mmenv.family`); for a
critic, or for a policy that is told which market it is in."""

from __future__ import annotations

import numpy as np
from numba import prange
from numba.np.numpy_support import carray

from mmenv.config import ConfigError, EnvConfig
from mmenv.features import Feature, Group, register
from mmenv.kernel import EMPTY, LANES, PARAMETERS, stage

F = np.float32


@stage(EMPTY)
def observe(core, own, params, out):  # type: ignore[no-untyped-def]
    s = carray(core, 1)[0]
    p = carray(params, 1)[0]
    x = carray(out, (PARAMETERS, LANES))
    for k in range(p.parameters):
        for i in prange(s.count):
            x[k, i] = min(max(s.marks[k, i], F(-3)), F(3))


def features(config: EnvConfig) -> tuple[Feature, ...]:
    """An entry for each parameter that is drawn."""
    if not config.randomise:
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
        for d in config.randomise
    )


register(Group(name="parameters", features=features, observe=observe))
