"""Import this and rl_zoo3's `ppo_lstm` is `FastRecurrentPPO`: `--gym-packages mmenv train.zoo`."""

from rl_zoo3.utils import ALGOS

from train.learner.recurrent_ppo import FastRecurrentPPO

ALGOS["ppo_lstm"] = FastRecurrentPPO
