"""The space of a sweep: what is searched around which settings, from its file.

    [search]
    learning_rate = { log-uniform = [3e-4, 1e-2] }
    n_epochs = { choice = [1, 2, 4] }
    "reward.inventory_penalty" = { uniform = [0.0, 0.05] }

Bounds that are whole numbers give whole numbers. A name that is no setting of training is one of the
environment.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from mmenv.checks import ConfigError, check_keys
from train.settings import STUDY_STEPS, Settings, env_config, from_table

FIELDS = tuple(field.name for field in dataclasses.fields(Settings))

PROBLEM = ("market", "reward", "horizon", "maker_fee_bp", "randomise", "curriculum_episodes")
"""Environment settings that pose the problem. Trials may train under others and are judged under the base's;
quote, risk and features belong to the policy."""


@dataclass(frozen=True)
class Space:
    """What is searched around which settings."""

    base: Settings
    search: dict[str, BaseDistribution]

    def settings(self, chosen: Mapping[str, Any]) -> Settings:
        """The settings of a trial: the base with what was chosen."""
        own = {name: value for name, value in chosen.items() if name in FIELDS}
        environment = {name: value for name, value in chosen.items() if name not in FIELDS}
        posed = [name for name in environment if name.partition(".")[0] in PROBLEM]
        problem = env_config(self.base).to_dict()
        return dataclasses.replace(
            self.base,
            **own,
            set=(*self.base.set, *(f"{name}={json.dumps(value)}" for name, value in environment.items())),
            judged=(*self.base.judged, *(f"{name}={json.dumps(_at(problem, name))}" for name in posed)),
        )


def _at(content: Any, name: str) -> Any:
    for key in name.split("."):
        if not isinstance(content, dict) or key not in content:
            raise ConfigError(f"[search] {name}: there is no such setting of training or environment.")
        content = content[key]
    return content


def read_space(path: Path) -> Space:
    """The space that a TOML file describes; raises `ConfigError` where it is wrong."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    content = tomllib.loads(path.read_text())
    check_keys(path.name, content, ["base", "search"])
    base = dataclasses.replace(from_table(f"{path.name} [base]", content.get("base", {})), final_episodes=0)
    base = dataclasses.replace(base, threads=base.threads or 1, steps=base.steps or STUDY_STEPS)
    search = {name: distribution(name, spec) for name, spec in content.get("search", {}).items()}
    if not search:
        raise ConfigError(f"{path.name}: [search] is empty; name at least one setting to search.")
    for name in search:
        if name not in FIELDS:
            _at(env_config(base).to_dict(), name)
    return Space(base, search)


def distribution(name: str, spec: Any) -> BaseDistribution:
    """The distribution of `{uniform = [low, high]}`, `{log-uniform = [low, high]}` or `{choice = [...]}`."""
    kind, values = next(iter(spec.items())) if isinstance(spec, dict) and len(spec) == 1 else ("", spec)
    if kind == "choice" and isinstance(values, list) and values:
        return CategoricalDistribution(values)
    numbers = isinstance(values, list) and len(values) == 2 and all(type(v) in (int, float) for v in values)
    if kind not in ("uniform", "log-uniform") or not numbers or not values[0] < values[1]:
        raise ConfigError(
            f"[search] {name} = {spec} is not possible: write {{ uniform = [low, high] }}, "
            "{ log-uniform = [low, high] } or { choice = [...] }."
        )
    log = kind == "log-uniform"
    if log and values[0] <= 0:
        raise ConfigError(f"[search] {name}: a log-uniform range starts above 0, not at {values[0]}.")
    low, high = values
    whole = isinstance(low, int) and isinstance(high, int)
    return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)
