"""Proximal policy optimisation in one file of plain PyTorch, in the manner of CleanRL, on NeuralMM-v0.

    python examples/cleanrl_ppo.py --market brownian --total-timesteps 2000000

Nothing here is made for this environment but its name: it shows that any loop over a gymnasium vector
environment trains on it. In `brownian` the exact optimum is a mean return of 77.0, and a policy that sees
only the present can reach it. In `hidden-regime` it cannot: `neuralmm train` trains a recurrent policy.

Source: Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal policy optimization algorithms" (2017).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Normal
from tqdm import tqdm


@dataclass
class Args:
    market: str = "brownian"
    seed: int = 1
    total_timesteps: int = 2_000_000
    num_envs: int = 256
    num_steps: int = 64
    minibatch_size: int = 4096
    update_epochs: int = 10
    learning_rate: float = 1e-3
    gamma: float = 0.97
    gae_lambda: float = 0.9
    clip_coef: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    threads: int = 1


class Agent(nn.Module):
    """Gaussian policy and value, two hidden layers each."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.critic = network(observations, 1, gain=1.0)
        self.actor_mean = network(observations, actions, gain=0.01)
        self.actor_logstd = nn.Parameter(torch.full((actions,), -1.0))

    def policy(self, observations: Tensor) -> Normal:
        return Normal(self.actor_mean(observations), self.actor_logstd.exp())

    def value(self, observations: Tensor) -> Tensor:
        return self.critic(observations).squeeze(-1)


def network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    def layer(a: int, b: int, gain: float = 2**0.5) -> nn.Linear:
        linear = nn.Linear(a, b)
        nn.init.orthogonal_(linear.weight, gain)
        nn.init.zeros_(linear.bias)
        return linear

    return nn.Sequential(layer(inputs, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, outputs, gain))


def advantages(rewards: Tensor, values: Tensor, dones: Tensor, args: Args) -> Tensor:
    """Generalised advantage estimates (T, n) from values (T + 1, n); `dones` ends the episode at t."""
    result = torch.zeros_like(rewards)
    last = torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        alive = 1.0 - dones[t]
        error = rewards[t] + args.gamma * alive * values[t + 1] - values[t]
        result[t] = last = error + args.gamma * args.gae_lambda * alive * last
    return result


def main(args: Args) -> float:
    """Train; returns what the policy earns in 1,024 new episodes, without exploration."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    shuffle = np.random.default_rng(args.seed)

    envs = gym.make_vec("mmenv:NeuralMM-v0", num_envs=args.num_envs, market=args.market)
    envs = statistics = gym.wrappers.vector.RecordEpisodeStatistics(envs, buffer_length=1000)
    envs = gym.wrappers.vector.NormalizeReward(envs, gamma=args.gamma)

    shape = (args.num_steps, args.num_envs)
    observed = envs.single_observation_space.shape[0]
    acted = envs.single_action_space.shape[0]
    agent = Agent(observed, acted)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    observations, actions = torch.zeros((*shape, observed)), torch.zeros((*shape, acted))
    logprobs, rewards, dones = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
    values = torch.zeros((args.num_steps + 1, args.num_envs))

    started = time.monotonic()
    next_observation = torch.as_tensor(envs.reset(seed=args.seed)[0])
    updates = max(1, args.total_timesteps // (args.num_envs * args.num_steps))
    progress = tqdm(range(updates), desc=args.market, unit="update")
    for update in progress:
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - update / updates)

        with torch.no_grad():
            for t in range(args.num_steps):
                policy = agent.policy(next_observation)
                observations[t], actions[t] = next_observation, policy.sample()
                logprobs[t] = policy.log_prob(actions[t]).sum(-1)
                values[t] = agent.value(next_observation)
                numpy_obs, reward, terminated, truncated, _ = envs.step(actions[t].numpy())
                next_observation = torch.as_tensor(numpy_obs)
                rewards[t] = torch.as_tensor(reward)
                dones[t] = torch.as_tensor(terminated | truncated)
            values[-1] = agent.value(next_observation)
        advantage = advantages(rewards, values, dones, args)

        batch = [
            x.flatten(0, 1) for x in (observations, actions, logprobs, advantage, advantage + values[:-1])
        ]
        for _ in range(args.update_epochs):
            order = torch.as_tensor(shuffle.permutation(len(batch[0])))
            for rows in order.split(args.minibatch_size):
                loss = ppo_loss(agent, *(x[rows] for x in batch), args)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()

        if statistics.return_queue:
            steps = (update + 1) * args.num_envs * args.num_steps
            rate = f"{steps / (time.monotonic() - started):,.0f}"
            progress.set_postfix({"return": f"{np.mean(statistics.return_queue):.2f}", "steps/s": rate})
    envs.close()
    return evaluate(agent, args)


@torch.no_grad()
def evaluate(agent: Agent, args: Args, episodes: int = 1024) -> float:
    """Mean return of the mean action, one episode in each environment."""
    envs = gym.make_vec("mmenv:NeuralMM-v0", num_envs=episodes, market=args.market)
    observation, _ = envs.reset(seed=args.seed + 1_000_000)
    returns, running = np.zeros(episodes), np.ones(episodes, bool)
    while running.any():
        action = agent.actor_mean(torch.as_tensor(observation)).numpy()
        observation, reward, terminated, truncated, _ = envs.step(action)
        returns += reward * running
        running &= ~(terminated | truncated)
    envs.close()
    return float(returns.mean())


def ppo_loss(
    agent: Agent,
    observation: Tensor,
    action: Tensor,
    logprob: Tensor,
    advantage: Tensor,
    target: Tensor,
    args: Args,
) -> Tensor:
    """The clipped surrogate, plus the value's squared error, minus the entropy bonus."""
    policy = agent.policy(observation)
    ratio = (policy.log_prob(action).sum(-1) - logprob).exp()
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    surrogate = torch.min(advantage * ratio, advantage * clipped).mean()
    value_error = 0.5 * (agent.value(observation) - target).square().mean()
    return args.vf_coef * value_error - surrogate - args.ent_coef * policy.entropy().sum(-1).mean()


if __name__ == "__main__":
    print(f"mean return of 1,024 new episodes, without exploration: {main(tyro.cli(Args)):.2f}")
