"""The reward of a configuration: weights of profit and inventory penalty, and further terms."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mmenv.checks import require, require_number
from mmenv.engine.state import LEDGER
from mmenv.rewards.base import RewardTerm, check_terms, make_terms
from mmenv.rewards.inventory import InventoryPenalty
from mmenv.rewards.profit import Profit


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Weights of the profit-and-loss identity (`Profit`) and `InventoryPenalty`, and further terms."""

    spread_capture: float = 1.0
    adverse_selection: float = 1.0
    carry: float = 1.0
    fees: float = 1.0
    inventory_penalty: float = 0.01
    """phi: reward falls by phi x position^2 per second, price units."""
    terminal_penalty: float = 0.05
    """alpha: reward falls by alpha x position^2 at the end of the episode, price units."""
    risk_aversion: float = 0.0
    """gamma of exponential utility, per price unit x lot: a policy is worth its certainty equivalent,
    -log E exp(-gamma R) / gamma, R the reward of an episode. 0: the mean. Rewards stay what they are: it is
    what a policy is trained for, and what it is judged by."""
    shortfall_weight: float = 0.0
    """w: a policy is worth its mean less w times the expected shortfall, the mean loss of its worst episodes,
    price units x lots. In place of `risk_aversion`; rewards stay what they are."""
    shortfall_level: float = 0.05
    """Share of all episodes that are the worst; counts where `shortfall_weight` is above 0."""
    terms: tuple[RewardTerm, ...] = ()
    """Reward terms that are added: objects, names ("module:name" too), or dicts of `name` and weights."""

    def __post_init__(self) -> None:
        require_number(self, "risk_aversion", 0.0, 1e3)
        require_number(self, "shortfall_weight", 0.0, 1e3)
        require_number(self, "shortfall_level", 1e-3, 1.0)
        require(
            not (self.risk_aversion and self.shortfall_weight), "RewardConfig", "shortfall_weight",
            self.shortfall_weight, "0 beside a risk_aversion: a policy has one objective"
        )  # fmt: skip
        object.__setattr__(self, "terms", make_terms(self.terms))
        check_terms(self.terms, LEDGER)
        self.all_terms()  # checks the weights

    def all_terms(self) -> tuple[RewardTerm, ...]:
        """The terms of the reward, in the order in which they are added."""
        built_in = (
            cls(**{f.name: getattr(self, f.name) for f in fields(cls)}) for cls in (Profit, InventoryPenalty)
        )
        return (*built_in, *self.terms)
