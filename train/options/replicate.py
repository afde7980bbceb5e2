"""What `neuralmm replicate` is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro


@dataclass(frozen=True)
class Replicate:
    """Compute the tables of a paper here, beside the paper's own figures."""

    paper: tyro.conf.Positional[Literal["as2008", "glft2013", "cartea2015", "spooner2020", "gasperov2022"]]
    """as2008: Avellaneda and Stoikov (2008), tables 1 to 3; glft2013: Gueant, Lehalle and Fernandez-Tapia
    (2013), section 4; cartea2015: Cartea, Jaimungal and Penalva (2015), section 10.2; spooner2020: Spooner
    and Savani (2020), a market maker and an adversary; gasperov2022: Gasperov and Kostanjcar (2022), events
    that excite each other."""
    simulations: int = 1000
    """Of each figure; not of glft2013, which is computed."""
    steps: int = 1_000_000
    """Decisions that a policy is learned from, in spooner2020 and gasperov2022."""
