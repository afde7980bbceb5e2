"""Recurrent PPO, an order of magnitude faster than sb3-contrib's and interchangeable with it.

    model = FastRecurrentPPO("MlpLstmPolicy", env, n_steps=512, batch_size=4096)
    model.learn(1_000_000)

`FastRecurrentPPO` is a `RecurrentPPO`: same constructor, policy interface, callbacks, logger, `save`/`load`
and `predict`. It works on any Stable-Baselines3 VecEnv with Box observations, not only on ours; actions may
be anything RecurrentPPO takes. The losses and gradients are those of sb3-contrib (a test holds them equal);
only the road differs:

1. The rollout is kept time-major; of the recurrent states only those at chunk starts. With a policy on a GPU
   it runs on a copy on the CPU, unless that has no compiled step (`policies.recurrent.CompiledForward`): for
   some dozens of environments a GPU spends its time on starting kernels.
2. Chunks are cut into sequences at episode starts, and a minibatch's sequences run packed, in one call per
   LSTM, without a reset or a padded step anywhere (`policies.packed_lstm`).
3. Where the environment publishes `surprises`, float32 (n_envs, K), what happened in the last step less its
   mean, the advantages are freed of what they explain (`train.control_variate`).
4. Several threads divide the work among them, instead of splitting every small matrix product: one takes the
   actor and one the critic, where they share nothing, of a share of the sequences each. How many is measured
   at the start.
5. Losses and their gradients take one compiled pass (`train.ppo_loss`).

PPO: Schulman et al. (2017). GAE: Schulman et al. (2016).
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from policies.recurrent import CnnRecurrentPolicy, CompiledForward, RecurrentPolicy
from train.control_variate import SurpriseControl
from train.ppo_loss import policy_loss, value_loss

for kind in (np.float32, np.float64):
    str(np.finfo(kind))  # NumPy caches the limits, and would warn if it first asked with denormals flushed

LOSSES = 4
"""The first entries of the statistics of a minibatch are losses: policy, value, entropy, prediction."""
KL = 5
"""Where the approximate Kullback-Leibler divergence stands among them."""

Gradients = tuple[Tensor | None, ...]
"""In the order of the policy's parameters; None for one that the loss does not depend on."""


class Batch(NamedTuple):
    """Steps of whole sequences, packed (see `policies.packed_lstm`): N steps, S sequences."""

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
    ):
        self.n_steps, self.n_envs, self.chunk_length = n_steps, n_envs, chunk_length
        self.gamma, self.gae_lambda, self.device = gamma, gae_lambda, device
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
        """GAE(lambda) and TD(lambda) returns, as SB3's RolloutBuffer.

        :param last_values: value of the observation after the last step, (E,).
        :param dones: whether the last step ended the episode, (E,).
        :param control: takes off the residuals what the stored surprises explain of them, and learns.
        """
        values, advantages = self.values.cpu().numpy(), np.empty_like(self.rewards)
        alive = 1 - np.concatenate([self.episode_starts[1:], dones[None]]).astype(np.float32)
        residuals = self.rewards - values
        residuals += self.gamma * alive * np.concatenate([values[1:], last_values[None]])
        if control is not None:
            seen, acted = (x.flatten(0, 1).cpu().numpy() for x in (self.observations, self.actions))
            explained = control(self.surprises.reshape(len(seen), -1), seen, acted, residuals.ravel())
            residuals -= explained.reshape(residuals.shape)
        gae = np.float32(0)
        for t in reversed(range(self.n_steps)):
            advantages[t] = gae = residuals[t] + self.gamma * self.gae_lambda * alive[t] * gae
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


class FastRecurrentPPO(RecurrentPPO):
    """Recurrent PPO, fast (module docstring). Arguments as sb3-contrib's `RecurrentPPO`, and:

    :param chunk_length: steps after which backpropagation through time is cut; None: the whole rollout
        (`n_steps`). Make it longer than the memory that the task needs.
    :param threads: CPU threads of the update; "auto" times 1, 2, ... on the first rollout and keeps the
        fastest (logged as `time/threads`). More of them sum gradients in another order: other last bits; not
        so two threads of an actor and a critic that share nothing.
    :param batch_size: steps per minibatch, rounded to whole chunks: `max(1, round(batch_size /
        chunk_length))` chunks, drawn without replacement from all environments. None: everything in one
        minibatch.
    :param prediction_coef: weight of the loss of predicting privileged observation entries, where the policy
        has any (see `RecurrentPolicy`).
    """

    policy_aliases: ClassVar[dict[str, type]] = {
        "MlpLstmPolicy": RecurrentPolicy,
        "CnnLstmPolicy": CnnRecurrentPolicy,
    }
    policy: RecurrentPolicy
    rollout_buffer: TimeMajorBuffer  # type: ignore[assignment]
    clip_range: Schedule
    clip_range_vf: Schedule | None
    _last_lstm_states: RNNStates  # type: ignore[assignment]
    _last_obs: Any
    _last_episode_starts: np.ndarray

    def __init__(
        self,
        policy: str | type[RecurrentPolicy],
        env: Any,
        *args: Any,
        chunk_length: int | None = None,
        threads: int | str = "auto",
        prediction_coef: float = 0.5,
        **kwargs: Any,
    ):
        if threads != "auto" and not (isinstance(threads, int) and threads >= 1):
            raise ValueError(f'threads={threads!r} is not valid; give a whole number from 1 or "auto".')
        self.chunk_length = chunk_length
        self.threads = threads
        self.prediction_coef = prediction_coef
        self.active_threads: int | None = None if threads == "auto" else int(threads)
        self.surprise_control: SurpriseControl | None = None
        self._iteration = 0
        # Scalars recorded before a checkpoint that are still to be written.
        self._resumed_log: dict[str, tuple[Any, Any]] = {}
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        if not isinstance(self.observation_space, spaces.Box):
            raise ValueError(
                f"observation_space={self.observation_space} is not a Box; flatten it with a wrapper."
            )
        chunk_length = self.n_steps if self.chunk_length is None else self.chunk_length
        if not 1 <= chunk_length <= self.n_steps:
            raise ValueError(f"chunk_length={chunk_length} is outside 1..n_steps={self.n_steps}.")
        super()._setup_model()
        if not isinstance(self.policy, RecurrentPolicy):
            raise ValueError(
                f"policy {type(self.policy).__name__} must subclass policies.recurrent.RecurrentPolicy."
            )
        self.rollout_policy = self.policy
        """What the rollout asks: the policy, or a copy on the CPU."""
        if self.device.type != "cpu":
            self.active_threads = 1
            copy = deepcopy(self.policy).to("cpu")
            if CompiledForward.knows(copy):
                self.rollout_policy = copy
        self._rollout_device = self.rollout_policy.device  # the policy looks for its own anew every time
        states = self._last_lstm_states
        self._last_lstm_states = RNNStates(*(tuple(self._for_rollout(x) for x in part) for part in states))
        surprises = getattr(self.env, "surprises", None)
        if self.surprise_control is None and surprises is not None:
            self.surprise_control = SurpriseControl()
        rnn = self.policy.lstm_actor
        self.rollout_buffer = TimeMajorBuffer(
            self.n_steps,
            self.n_envs,
            chunk_length,
            self.observation_space,
            self.action_space,
            (rnn.num_layers, rnn.hidden_size),
            self._rollout_device,
            self.device,
            self.gamma,
            self.gae_lambda,
            0 if surprises is None else surprises.shape[1],
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rollout_policy"]

    def _for_rollout(self, x: Any) -> Tensor:
        return torch.as_tensor(x, device=self._rollout_device)

    # Rollout ------------------------------------------------------------------------------------------------

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: TimeMajorBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer with `n_rollout_steps` of every environment; False if a callback stopped it."""
        assert self._last_obs is not None, "No previous observation was provided"
        buffer, policy = rollout_buffer, self.rollout_policy
        self.policy.set_training_mode(False)
        if policy is not self.policy:
            policy.load_state_dict(self.policy.state_dict())
            policy.set_training_mode(False)
        if self.use_sde:
            policy.reset_noise(env.num_envs)
        callback.on_rollout_start()

        forward = policy.for_rollout()
        truncated: list[tuple[int, np.ndarray, np.ndarray, tuple[Tensor, ...]]] = []
        for step in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and step % self.sde_sample_freq == 0:
                policy.reset_noise(env.num_envs)

            obs, episode_starts = self._last_obs, self._last_episode_starts
            buffer.episode_starts[step] = episode_starts
            if step % buffer.chunk_length == 0:
                buffer.store_states(step, self._last_lstm_states)
            drawn, values, log_probs, lstm_states = forward(obs, self._last_lstm_states, episode_starts)
            actions = drawn if isinstance(drawn, np.ndarray) else drawn.cpu().numpy()
            buffer.store(step, obs, actions, values, log_probs)

            clipped_actions = actions
            if isinstance(self.action_space, spaces.Box):
                low, high = self.action_space.low, self.action_space.high
                clipped_actions = np.minimum(np.maximum(actions, low), high)  # np.clip takes thrice the time
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            self.num_timesteps += env.num_envs
            buffer.rewards[step] = rewards
            if self.surprise_control is not None:
                buffer.surprises[step] = env.surprises  # type: ignore[attr-defined]

            callback.update_locals(locals())
            if not callback.on_step():
                return False

            ended = np.flatnonzero(dones)
            if len(ended):
                self._update_info_buffer([infos[i] for i in ended], dones[ended])
            cut = [
                i for i in ended if infos[i].get("TimeLimit.truncated") and "terminal_observation" in infos[i]
            ]
            if cut:
                observations = np.stack([infos[i]["terminal_observation"] for i in cut])
                truncated.append(
                    (step, np.array(cut), observations, tuple(s[:, cut] for s in lstm_states.vf))
                )

            self._last_obs = new_obs
            self._last_episode_starts = dones
            self._last_lstm_states = lstm_states

        self._bootstrap_truncated(truncated)
        last_values = self._values(self._last_obs, self._last_lstm_states.vf, self._last_episode_starts)
        buffer.compute_returns_and_advantage(last_values, self._last_episode_starts, self.surprise_control)
        buffer.cut_sequences()
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _bootstrap_truncated(
        self, truncated: list[tuple[int, np.ndarray, np.ndarray, tuple[Tensor, ...]]]
    ) -> None:
        """Truncation is not termination: add to the last reward what the critic expects after it.

        All in one forward pass: the weights do not change during a rollout.
        """
        if not truncated:
            return
        steps = np.concatenate([np.full(len(envs), step) for step, envs, _, _ in truncated])
        envs = np.concatenate([envs for _, envs, _, _ in truncated])
        observations = np.concatenate([observations for _, _, observations, _ in truncated])
        states = tuple(torch.cat([state[i] for _, _, _, state in truncated], dim=1) for i in range(2))
        values = self._values(observations, states, np.zeros(len(envs)))
        self.rollout_buffer.rewards[steps, envs] += self.gamma * values

    def _values(self, obs: np.ndarray, states: Any, episode_starts: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            starts = self._for_rollout(episode_starts).float()
            values = self.rollout_policy.predict_values(self._for_rollout(obs), states, starts)
            return values.flatten().cpu().numpy()

    # Update -------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Update the policy on the rollout in the buffer: `n_epochs` passes over it in minibatches."""
        policy, buffer = self.policy, self.rollout_buffer
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        self._clip = self.clip_range(self._current_progress_remaining)
        self._clip_vf = (
            None if self.clip_range_vf is None else self.clip_range_vf(self._current_progress_remaining)
        )
        if self.active_threads is None:
            self.active_threads = self._fastest_threads()

        parameters = list(policy.parameters())  # finding them takes a walk through all modules
        statistics: list[Tensor] = []
        stop = False
        with _workers(self.active_threads) as pool:
            for _ in range(self.n_epochs):
                epoch_start = len(statistics)
                for batches in self._minibatches(pool):
                    gradients, stats = self._gradients(batches, parameters, pool)
                    statistics.append(stats)
                    if self.target_kl is not None and stats[KL].item() > 1.5 * self.target_kl:
                        stop = True
                        break
                    for parameter, gradient in zip(parameters, self._clipped(gradients), strict=True):
                        parameter.grad = gradient
                    policy.optimizer.step()
                    policy.keep_exploring()
                self._n_updates += 1
                if stop:
                    break

        mean = torch.stack(statistics).mean(0).tolist()
        self.logger.record("train/policy_gradient_loss", mean[0])
        self.logger.record("train/value_loss", mean[1])
        self.logger.record("train/entropy_loss", mean[2])
        if self.policy.predictor is not None:
            self.logger.record("train/prediction_loss", mean[3])
        self.logger.record("train/clip_fraction", mean[4])
        self.logger.record("train/approx_kl", torch.stack(statistics[epoch_start:]).mean(0)[KL].item())
        self.logger.record("train/loss", (statistics[-1][:LOSSES] @ self._loss_weights()).item())
        values, returns = buffer.values.flatten().cpu().numpy(), buffer.returns.flatten().cpu().numpy()
        self.logger.record("train/explained_variance", explained_variance(values, returns))
        if hasattr(policy, "log_std"):
            self.logger.record("train/std", policy.log_std.exp().mean().item())
        if self.surprise_control is not None:
            self.logger.record("train/residual_variance_left", self.surprise_control.variance_left)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", self._clip)
        if self._clip_vf is not None:
            self.logger.record("train/clip_range_vf", self._clip_vf)
        self.logger.record("time/threads", self.active_threads)

    def _minibatches(self, pool: ThreadPoolExecutor) -> Iterator[list[Batch]]:
        """One epoch: all chunks, shuffled, in groups of about `batch_size` steps, cut up for the threads.

        Each is packed while the one before it is at work.
        """
        order = np.random.permutation(self.rollout_buffer.n_chunks)  # noqa: NPY002 (SB3 seeds this one)
        size = self._chunks_per_minibatch()
        packing = pool.submit(self._packed, order[:size], pool)
        for first in range(size, len(order), size):
            batches = packing.result()
            packing = pool.submit(self._packed, order[first : first + size], pool)
            yield batches
        yield packing.result()

    def _packed(self, chunks: np.ndarray, pool: ThreadPoolExecutor) -> list[Batch]:
        """The minibatch of these chunks, in as many shares as the threads need."""
        return self.rollout_buffer.batches(chunks, pool._max_workers // len(self._parts(pool)))

    def _parts(self, pool: ThreadPoolExecutor) -> tuple[str, ...]:
        """What of the policy is differentiated at a time (see `_loss_terms`)."""
        return ("actor", "critic") if self.policy.apart and pool._max_workers % 2 == 0 else ("both",)

    def _chunks_per_minibatch(self) -> int:
        if self.batch_size is None:
            return self.rollout_buffer.n_chunks
        return min(
            max(1, round(self.batch_size / self.rollout_buffer.chunk_length)), self.rollout_buffer.n_chunks
        )

    def _gradients(
        self, batches: list[Batch], parameters: list[nn.Parameter], pool: ThreadPoolExecutor
    ) -> tuple[Gradients, Tensor]:
        """Gradients of the loss on a minibatch with respect to `parameters`, and its statistics."""
        n = sum(len(batch.returns) for batch in batches)
        if self.normalize_advantage and n > 1:
            mean, std = self._advantage_moments(torch.cat([batch.advantages for batch in batches]))
            batches = [
                batch._replace(advantages=(batch.advantages - mean) / (std + 1e-8)) for batch in batches
            ]
        work = [(batch, part) for batch in batches for part in self._parts(pool)]
        results = list(pool.map(lambda job: self._share_gradients(job[0], job[1], parameters, n), work))
        gradients = tuple(
            functools.reduce(torch.add, found) if (found := [g for g in shares if g is not None]) else None
            for shares in zip(*(g for g, _ in results), strict=True)
        )
        return gradients, torch.stack([stats for _, stats in results]).sum(0)

    def _clipped(self, gradients: Gradients) -> Gradients:
        """Scaled to a norm of at most `max_grad_norm`. Never in place: two parameters may share a tensor."""
        found = [g for g in gradients if g is not None]
        norm = torch.nn.utils.get_total_norm(found, foreach=True)
        scaled = iter(torch._foreach_mul(found, (self.max_grad_norm / (norm + 1e-6)).clamp(max=1)))
        return tuple(None if g is None else next(scaled) for g in gradients)

    def _advantage_moments(self, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation by which the advantages of a minibatch, (n,), are normalised."""
        return advantages.mean(), advantages.std()

    def _share_gradients(
        self, batch: Batch, part: str, parameters: list[nn.Parameter], n: int
    ) -> tuple[Gradients, Tensor]:
        """One share's contribution to the mean over the `n` steps of the minibatch."""
        terms = self._loss_terms(batch, part) / n
        loss = terms[:LOSSES] @ self._loss_weights()
        return torch.autograd.grad(loss, parameters, allow_unused=True), terms.detach()

    def _loss_weights(self) -> Tensor:
        weights = [1.0, self.vf_coef, self.ent_coef, self.prediction_coef]
        return torch.tensor(weights, device=self.device)

    def _loss_terms(self, batch: Batch, part: str) -> Tensor:
        """Sums over the steps: policy, value, entropy and prediction loss, clipped steps, approximate KL.

        :param part: "actor", "critic" or "both": whose terms; the other's are 0.
        """
        policy, sizes, memory = self.policy, batch.batch_sizes, None
        seen, known = policy.features_of(batch.observations)
        policy_term = value_term = entropy_term = prediction_term = clipped = kl = seen.new_zeros(())
        if part != "critic":
            memory, latent = policy.actor_sequences(seen, batch.lstm_states.pi, sizes)
            policy_term, entropy_term, clipped, kl = policy_loss(
                policy, latent, batch.actions, batch.old_log_prob, batch.advantages, self._clip
            )
            surprise = policy.surprise(memory, batch.observations)
            if surprise is not None:
                prediction_term = surprise.sum()
        if part != "actor":
            latent = policy.critic_sequences(known, batch.lstm_states.vf, sizes, memory)
            clip = math.inf if self._clip_vf is None else self._clip_vf
            value_term = value_loss(policy.value_net, latent, batch.returns, batch.old_values, clip)
        return torch.stack([policy_term, value_term, entropy_term, prediction_term, clipped, kl])

    # Threads ------------------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "FastRecurrentPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> FastRecurrentPPO:
        """As SB3, with denormals flushed and torch at one thread: the update brings its own."""
        with _quiet():
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
            if reset_num_timesteps:
                self._iteration = 0
            for name, (value, excluded) in self._resumed_log.items():
                self.logger.record(name, value, excluded)
            self._resumed_log = {}
            callback.on_training_start(locals(), globals())
            assert self.env is not None
            while self.num_timesteps < total_timesteps:
                if not self.collect_rollouts(self.env, callback, self.rollout_buffer, self.n_steps):
                    break
                self._iteration += 1
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                if log_interval is not None and self._iteration % log_interval == 0:
                    self.dump_logs(self._iteration)
                self.train()
            callback.on_training_end()
        return self

    def _fastest_threads(self) -> int:
        """Time one minibatch's gradient (it changes nothing) on 1, 2, ... threads, the best of three each."""
        parameters, chunks = list(self.policy.parameters()), np.arange(self._chunks_per_minibatch())
        seconds = {}
        for threads in range(1, len(os.sched_getaffinity(0)) + 1):
            with _workers(threads) as pool:
                batches = self._packed(chunks, pool)
                self._gradients(batches, parameters, pool)  # the first call compiles and warms up
                times = []
                for _ in range(3):
                    start = time.perf_counter()
                    self._gradients(batches, parameters, pool)
                    times.append(time.perf_counter() - start)
            seconds[threads] = min(times)
        # More threads must earn their keep: what they gain here is lost where another process wants the core.
        return min(seconds, key=lambda threads: seconds[threads] * 1.15 ** (threads - 1))


def _quiet_thread() -> None:
    """One thread a library call, tiny numbers to zero (both are settings of the calling thread)."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@contextmanager
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    _quiet_thread()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


@contextmanager
def _workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(threads, thread_name_prefix="ppo", initializer=_quiet_thread) as pool:
        yield pool
