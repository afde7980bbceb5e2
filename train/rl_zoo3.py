"""Import this and rl_zoo3's `ppo_lstm` is `FastRecurrentPPO`: `--gym-packages mmenv train.rl_zoo3`."""

from rl_zoo3.utils import ALGOS

from train.learner.recurrent_ppo import FastRecurrentPPO

ALGOS["ppo_lstm"] = FastRecurrentPPO
