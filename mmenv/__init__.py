"""NeuralMM: market making as a Gymnasium environment, from solvable markets to recorded ones.

Importing the package registers `NeuralMM-v0`:

    import gymnasium as gym
    env = gym.make("mmenv:NeuralMM-v0", market="hidden-regime")
    envs = gym.make_vec("mmenv:NeuralMM-v0", num_envs=1024)
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from mmenv.actions.spread_skew import SpreadSkew
    from mmenv.actions.spread_skew import SpreadSkew as QuoteConfig
    from mmenv.checks import ConfigError
    from mmenv.config import EnvConfig, make_config
    from mmenv.market.base import Market
    from mmenv.rewards.settings import RewardConfig
    from mmenv.step.risk import RiskConfig

_PLACES = {
    "ConfigError": "mmenv.checks:ConfigError",
    "EnvConfig": "mmenv.config:EnvConfig",
    "Market": "mmenv.market.base:Market",
    "QuoteConfig": "mmenv.actions.spread_skew:SpreadSkew",
    "RewardConfig": "mmenv.rewards.settings:RewardConfig",
    "RiskConfig": "mmenv.step.risk:RiskConfig",
    "SpreadSkew": "mmenv.actions.spread_skew:SpreadSkew",
    "make_config": "mmenv.config:make_config",
}
"""Where the public names come from. They are looked up when they are first asked for, for numba takes half a
second to import. `QuoteConfig` is the default action, by the name it had before there were others."""

__all__ = [
    "ConfigError",
    "EnvConfig",
    "Market",
    "QuoteConfig",
    "RewardConfig",
    "RiskConfig",
    "SpreadSkew",
    "make_config",
]

try:
    __version__ = version("neuralmm")
except PackageNotFoundError:  # run from a folder that nobody installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    found = globals()[name] = getattr(importlib.import_module(module), attribute)
    return found


gymnasium.register(
    id="NeuralMM-v0",
    entry_point="mmenv.env:NeuralMMEnv",
    order_enforce=False,  # it does so itself, and checks what it is given
    disable_env_checker=True,
    vector_entry_point="mmenv.vector:NeuralMMVectorEnv",
)

for _path in sorted(Path(__file__).with_name("tasks").glob("*.json")):
    gymnasium.register(  # frozen environments, see `mmenv.tasks`
        id=f"NeuralMM/{_path.stem}",
        entry_point="mmenv.tasks:make_env",
        order_enforce=False,
        disable_env_checker=True,
        vector_entry_point="mmenv.tasks:make_vector_env",
        kwargs={"task": _path.stem},
    )
