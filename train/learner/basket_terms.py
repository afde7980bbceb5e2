"""What the residuals of several quoted assets are regressed on: the fills, by positions, and pairs of them.

Of a fill of asset i the spread captured is its distance, and what the position is worth thereafter changes by
about -(2 q + e)' A e: a number, products with the positions, and where limits are near with their products.
Two fills of one step are worth other than each alone: by 2 A_ij, a hedge of one another or not. Orders of
different assets and sides are independent, so products of their surprises have mean zero too.

So few terms explain more of the residuals than all products of single surprises with action and observation,
in a small part of the time: docs/basket.md has both.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from mmenv.config import EnvConfig
from mmenv.features.surprise import FEATURES
from mmenv.observation import by_asset, observation_names

Array = np.ndarray

SIDES = ("ask_fill_surprise", "bid_fill_surprise")


class BasketTerms:
    """The terms of `train.learner.control_variate.SurpriseControl` for a market of several assets."""

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        names, assets = observation_names(config), range(1, config.market.quoted + 1)
        wanted = [f"asset_{k}_inventory" for k in assets]
        self._positions = [names.index(name) for name in wanted if name in names]
        published = [feature.name for feature in FEATURES]
        self._fills = [
            [(asset - 1) * len(published) + published.index(side) for side in SIDES] for asset in assets
        ]

    def __call__(self, surprises: Array, observations: Array, actions: Array) -> Array:
        """Terms (N, M) of surprises (N, K), observations (N, F) and actions (N, A), all float32."""
        n, config = len(actions), self._config
        held = np.concatenate([np.ones((n, 1), np.float32), observations[:, self._positions]], axis=1)
        inside = by_asset(config, np.clip(actions, -1.0, 1.0).astype(np.float32))
        quoted = [side.reshape(n, -1) for side in config.quote.to_distances(inside)]
        terms = []
        for asset, columns in enumerate(self._fills):
            own = held[:, 1 + asset : 2 + asset]
            for column, distance in zip(columns, quoted, strict=True):
                known = [distance[:, asset : asset + 1], held, own * held[:, 1:]]
                terms.append(surprises[:, column : column + 1] * np.concatenate(known, axis=1))
        fills = [surprises[:, column] for columns in self._fills for column in columns]
        pairs = [(one * other)[:, None] for one, other in combinations(fills, 2)]
        return np.concatenate([*terms, *pairs], axis=1).astype(np.float32)
