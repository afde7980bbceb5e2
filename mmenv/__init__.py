"""NeuralMM: market making as a Gymnasium environment, from solvable markets to recorded ones.

Importing the package registers `NeuralMM-v0`:

    import gymnasium as gym
    env = gym.make("mmenv:NeuralMM-v0", market="hidden-regime")
    envs = gym.make_vec("mmenv:NeuralMM-v0", num_envs=1024)
"""

import gymnasium

from mmenv.config import (
    ConfigError,
    EnvConfig,
    Market,
    QuoteConfig,
    RewardConfig,
    RiskConfig,
    make_config,
)

__all__ = ["ConfigError", "EnvConfig", "Market", "QuoteConfig", "RewardConfig", "RiskConfig", "make_config"]

gymnasium.register(
    id="NeuralMM-v0",
    entry_point="mmenv.env:NeuralMMEnv",
    order_enforce=False,  # it does so itself, and checks what it is given
    disable_env_checker=True,
    vector_entry_point="mmenv.vector:NeuralMMVectorEnv",
)
