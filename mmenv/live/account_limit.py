"""The limit of loss over all desks of a folder, which a restart does not widen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mmenv.checks import ConfigError
from mmenv.files import replacing


class AccountLimit:
    """How far the desks of a folder are together below their best, kept in a file there.

    Parameters
    ----------
    folder
        Where their journals lie.
    limit
        Largest loss, currency of profits.
    mode
        "paper" or "live", which are counted apart.

    Raises
    ------
    ConfigError
        The file cannot be read.
    """

    def __init__(self, folder: Path, limit: float, mode: str) -> None:
        self.limit = limit
        self._file = folder / f"account-loss-{mode}.json"
        self.lost = 0.0
        """Below the best, currency of profits; at least 0."""
        self._wealth: dict[str, float] = {}
        self._saved = -1.0
        if self._file.exists():
            try:
                kept = json.loads(self._file.read_text())
                self.lost = float(kept["lost"])
                self._wealth = {name: float(value) for name, value in kept["wealth"].items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ConfigError(
                    f"{self._file} cannot be read, so what the account has lost is not known; look at the "
                    "journals, then delete it."
                ) from None

    def update(self, wealth: Mapping[str, float]) -> float | None:
        """Take in the profit of each desk since its session began, by the session's name.

        Returns what has been lost if that has reached the limit, from which it is then counted anew.

        A session that is new brings no loss, and one that is not there keeps its own.
        """
        change = sum(value - self._wealth.get(name, value) for name, value in wealth.items())
        known = wealth.keys() <= self._wealth.keys()
        self._wealth |= wealth
        self.lost = max(self.lost - change, 0.0)
        reached = self.lost if self.lost >= self.limit else None
        if reached is not None:
            self.lost = 0.0
        # A hundredth of the limit is all that a killed process forgets.
        if reached is not None or not known or abs(self.lost - self._saved) >= self.limit / 100:
            self.save()
        return reached

    def save(self) -> None:
        """Write it down."""
        with replacing(self._file) as temporary:
            temporary.write_text(json.dumps({"lost": self.lost, "wealth": self._wealth}))
        self._saved = self.lost
