"""What `neuralmm replicate` is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro


@dataclass(frozen=True)
class Replicate:
    """Compute the tables of a paper here, beside the paper's own figures."""

    paper: tyro.conf.Positional[Literal["as2008", "glft2013"]]
    """as2008: Avellaneda and Stoikov (2008), tables 1 to 3; glft2013: Gueant, Lehalle and Fernandez-Tapia
    (2013), section 4."""
    simulations: int = 1000
    """Of as2008."""
