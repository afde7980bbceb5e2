"""A rollout cut into chunks of time, and its minibatches as packed sequences."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from torch import Tensor

from train.learner.control_variate import SurpriseControl


class Batch(NamedTuple):
    """Steps of whole sequences, packed (see `policies.network.packed_lstm`): N steps, S sequences."""

    observations: Tensor  # (N, *observation shape)
    actions: Tensor  # (N, *action shape)
    old_values: Tensor  # (N,)
    old_log_prob: Tensor  # (N,)
    advantages: Tensor  # (N,)
    returns: Tensor  # (N,)
    lstm_states: RNNStates  # before each sequence, (layers, S, H) each
    batch_sizes: np.ndarray  # int64, (longest sequence,)


class TimeMajorBuffer:
    """A rollout of T = `n_steps` steps of E environments, every array (T, E, ...), cut into chunks of time.

    A *chunk* is `chunk_length` steps of one environment, the unit that is shuffled into minibatches; the
    recurrent state at its start is stored. The rollout lies on one device, minibatches go to another or the
    same. Chunks are numbered `k * E + e` for the k-th chunk of environment e.
    """

    def __init__(
        self,
        n_steps: int,
        n_envs: int,
        chunk_length: int,
        observation_space: spaces.Box,
        action_space: Any,
        state_shape: tuple[int, int],
        rollout_device: torch.device,
        device: torch.device,
        gamma: float,
        gae_lambda: float,
        n_surprises: int = 0,
        risk_aversion: float = 0.0,
    ):
        self.n_steps, self.n_envs, self.chunk_length = n_steps, n_envs, chunk_length
        self.gamma, self.gae_lambda, self.device = gamma, gae_lambda, device
        self.risk_aversion = risk_aversion
        self.n_chunks = -(-n_steps // chunk_length) * n_envs

        def tensor(*shape: Any, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=rollout_device)

        obs_dtype = torch.from_numpy(np.zeros(1, observation_space.dtype)).dtype
        act_dtype = torch.from_numpy(np.zeros(1, action_space.dtype)).dtype
        self.observations = tensor(n_steps, n_envs, *observation_space.shape, dtype=obs_dtype)
        self.actions = tensor(n_steps, n_envs, *action_space.shape, dtype=act_dtype)
        self.values, self.log_probs = tensor(n_steps, n_envs), tensor(n_steps, n_envs)
        self.advantages, self.returns = tensor(n_steps, n_envs), tensor(n_steps, n_envs)
        # (chunk, hidden and cell of actor then critic, layer, unit)
        self.chunk_states = tensor(self.n_chunks, 4, *state_shape)
        self.rewards = np.zeros((n_steps, n_envs), np.float32)
        self.episode_starts = np.ones((n_steps, n_envs), bool)
        self.surprises = np.zeros((n_steps, n_envs, n_surprises), np.float32)

        rows = self.observations, self.actions, self.values, self.log_probs
        # NumPy writes at a fraction of torch's cost.
        self._rows: list[Any] = [x.numpy() for x in rows] if rollout_device.type == "cpu" else list(rows)

    def store(self, step: int, *row: np.ndarray | Tensor) -> None:
        """Observations, actions, values and log-probabilities of a step."""
        for into, x in zip(self._rows, row, strict=True):
            into[step] = x if isinstance(into, np.ndarray) else torch.as_tensor(x)

    def store_states(self, step: int, states: RNNStates) -> None:
        """Keep the recurrent states before `step`, which must start a chunk."""
        first = step // self.chunk_length * self.n_envs
        stacked = torch.stack([*states.pi, *states.vf])  # (4, layers, E, H)
        self.chunk_states[first : first + self.n_envs] = stacked.permute(2, 0, 1, 3)

    def compute_returns_and_advantage(
        self, last_values: np.ndarray, dones: np.ndarray, control: SurpriseControl | None = None
    ) -> None:
        """GAE(lambda) and TD(lambda) returns, as SB3's RolloutBuffer; with a risk aversion c those of
        certainty equivalents: see `FastRecurrentPPO`.

        Parameters
        ----------
        last_values
            Value of the observation after the last step, (E,).
        dones
            Whether the last step ended the episode, (E,).
        control
            Takes off the residuals what the stored surprises explain of them, and learns.
        """
        values, advantages = self.values.cpu().numpy(), np.empty_like(self.rewards)
        alive = 1 - np.concatenate([self.episode_starts[1:], dones[None]]).astype(np.float32)
        residuals = self.rewards - values
        residuals += self.gamma * alive * np.concatenate([values[1:], last_values[None]])
        passed: Any = self.gamma * self.gae_lambda * alive  # what of a later advantage counts earlier
        if self.risk_aversion > 0:
            factors = np.exp(-self.risk_aversion * residuals)
            residuals = (1 - factors) / np.float32(self.risk_aversion)
            passed = passed * factors
        if control is not None:
            seen, acted = (x.flatten(0, 1).cpu().numpy() for x in (self.observations, self.actions))
            explained = control(self.surprises.reshape(len(seen), -1), seen, acted, residuals.ravel())
            residuals -= explained.reshape(residuals.shape)
        gae = np.float32(0)
        for t in reversed(range(self.n_steps)):
            advantages[t] = gae = residuals[t] + passed[t] * gae
        self.advantages.copy_(torch.from_numpy(advantages))
        self.returns.copy_(torch.from_numpy(advantages + values))

    def cut_sequences(self) -> None:
        """Cut the chunks at episode starts; call once the rollout is complete."""
        starts = self.episode_starts.copy()
        starts[:: self.chunk_length] = True
        env, step = np.nonzero(
            starts.T
        )  # environment-major, so that a sequence ends where the next one starts
        after = np.append(step[1:], 0)
        self.sequence_length = np.where(after > step, after, self.n_steps) - step
        self.sequence_start = step * self.n_envs + env  # flat index (t, e) of its first step
        self.sequence_chunk = step // self.chunk_length * self.n_envs + env
        # Only a chunk that starts inside an episode inherits a state.
        self.sequence_inherits = (step % self.chunk_length == 0) & ~self.episode_starts[step, env]

    def batches(self, chunks: np.ndarray, shares: int) -> list[Batch]:
        """The sequences of these chunks, dealt into at most `shares` batches of about equal work."""
        wanted = np.zeros(self.n_chunks, bool)
        wanted[chunks] = True
        sequences = np.flatnonzero(wanted[self.sequence_chunk])
        sequences = sequences[np.argsort(-self.sequence_length[sequences], kind="stable")]
        return [self._pack(sequences[i::shares]) for i in range(min(shares, len(sequences)))]

    def _pack(self, sequences: np.ndarray) -> Batch:
        lengths = self.sequence_length[sequences]  # falling
        batch_sizes = np.searchsorted(-lengths, -np.arange(lengths[0]), side="left")
        step = np.repeat(np.arange(lengths[0]), batch_sizes)
        first_row = np.cumsum(batch_sizes) - batch_sizes
        sequence = np.arange(len(step)) - first_row[step]

        def gather(x: Tensor, rows: np.ndarray) -> Tensor:
            return x.index_select(0, torch.from_numpy(rows).to(x.device)).to(self.device)

        rows = self.sequence_start[sequences][sequence] + step * self.n_envs

        def take(x: Tensor) -> Tensor:
            return gather(x.flatten(0, 1), rows)

        inherits = torch.from_numpy(self.sequence_inherits[sequences].astype(np.float32)).to(self.device)
        states = gather(self.chunk_states, self.sequence_chunk[sequences]) * inherits.view(-1, 1, 1, 1)
        states = states.permute(1, 2, 0, 3).contiguous()
        return Batch(
            take(self.observations),
            take(self.actions),
            take(self.values),
            take(self.log_probs),
            take(self.advantages),
            take(self.returns),
            RNNStates((states[0], states[1]), (states[2], states[3])),
            batch_sizes,
        )
