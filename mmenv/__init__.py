"""NeuralMM: market making as a Gymnasium environment, from solvable markets to recorded ones.

Importing the package registers `NeuralMM-v0`:

    import gymnasium as gym
    env = gym.make("mmenv:NeuralMM-v0", market="hidden-regime")
    envs = gym.make_vec("mmenv:NeuralMM-v0", num_envs=1024)
"""

from importlib.metadata import PackageNotFoundError, version

import gymnasium

from mmenv.actions.spread_skew import SpreadSkew
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.market.base import Market
from mmenv.rewards.settings import RewardConfig
from mmenv.step.risk import RiskConfig

QuoteConfig = SpreadSkew
"""The default action, by the name it had before there were others."""

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

gymnasium.register(
    id="NeuralMM-v0",
    entry_point="mmenv.env:NeuralMMEnv",
    order_enforce=False,  # it does so itself, and checks what it is given
    disable_env_checker=True,
    vector_entry_point="mmenv.vector:NeuralMMVectorEnv",
)
