"""Recurrent PPO, an order of magnitude faster than sb3-contrib's and interchangeable with it.

    model = FastRecurrentPPO("MlpLstmPolicy", env, n_steps=512, batch_size=4096)
    model.learn(1_000_000)

`FastRecurrentPPO` is a `RecurrentPPO`: same constructor, policy interface, callbacks, logger, `save`/`load`
and `predict`. It works on any Stable-Baselines3 VecEnv with Box observations, not only on ours; actions may
be anything RecurrentPPO takes. The losses and gradients are those of sb3-contrib (a test holds them equal);
only the road differs:

1. The rollout is kept time-major; of the recurrent states only those at chunk starts. With a policy on a GPU
   it runs on a copy on the CPU, unless that has no compiled step (`CompiledForward`): for some dozens of
   environments a GPU spends its time on starting kernels.
2. Chunks are cut into sequences at episode starts, and a minibatch's sequences run packed, in one call per
   LSTM, without a reset or a padded step anywhere (`policies.network.packed_lstm`).
3. Where the environment publishes `surprises`, float32 (n_envs, K), what happened in the last step less its
   mean, the advantages are freed of what they explain (`train.learner.control_variate`).
4. Several threads divide the work among them, instead of splitting every small matrix product: one takes the
   actor and one the critic, where they share nothing, of a share of the sequences each. How many is measured
   at the start.
5. Losses and their gradients take one compiled pass (`train.learner.ppo_loss`), and autograd has no part in
   the gradients of a policy whose parts know their own (`train.learner.direct`).

Here are set-up and rollout; `train.learner.update` has the update. PPO: Schulman et al. (2017). GAE: Schulman
et al. (2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mmenv.checks import require
from policies.network.recurrent import CnnRecurrentPolicy, CompiledForward, RecurrentPolicy
from train.learner.buffer import TimeMajorBuffer
from train.learner.control_variate import SurpriseControl
from train.learner.model_file import saved_objects
from train.learner.update import MinibatchUpdate, quiet_thread

for kind in (np.float32, np.float64):
    str(np.finfo(kind))  # NumPy caches the limits, and would warn if it first asked with denormals flushed


class Truncation(NamedTuple):
    """Episodes that were cut in a step: whose, what they showed last, and the critic's memory there."""

    step: int
    envs: np.ndarray
    observations: np.ndarray
    states: tuple[Tensor, ...]


class FastRecurrentPPO(MinibatchUpdate):
    """Recurrent PPO, fast (module docstring). Arguments as sb3-contrib's `RecurrentPPO`, and those below.

    Parameters
    ----------
    chunk_length
        Steps after which backpropagation through time is cut; None: the whole rollout (`n_steps`). Make it
        longer than the memory that the task needs.
    threads
        CPU threads of the update; "auto" times 1, 2, ... on the first rollout and keeps the fastest (logged
        as `time/threads`). More of them sum gradients in another order: other last bits; not so two threads
        of an actor and a critic that share nothing.
    batch_size
        Steps per minibatch, rounded to whole chunks: `max(1, round(batch_size / chunk_length))` chunks, drawn
        without replacement from all environments. None: everything in one minibatch.
    noise_memory
        How much of the exploration noise of a decision lasts to the next one, from 0 to below 1: noise is
        then autoregressive, e' = noise_memory x e + std x normal, and the deviation that the policy learns is
        that of what is new in it. What lasts is known before the decision, so it shifts the mean and changes
        no likelihood ratio: the update stays what it is. Independent noise leaves a queue and joins it again
        at every other decision; lasting noise can hold a place. Source: Eberhard, Hollenstein, Pinneri and
        Martius (2023), "Pink noise is all you need: colored noise exploration in deep reinforcement
        learning".
    risk_aversion
        c of exponential utility, per unit of reward; 0: the mean is learned for. Else the critic learns
        certainty equivalents V = -log E exp(-c R) / c of what is still to come: a residual d becomes
        (1 - exp(-c d)) / c, whose mean is zero just there, and later ones count exp(-c d) as much. Source:
        Mihatsch and Neuneier (2002), "Risk-sensitive reinforcement learning"; Howard and Matheson (1972).
    prediction_coef
        Weight of the loss of predicting privileged observation entries, where the policy has any (see
        `RecurrentPolicy`).
    """

    policy_aliases: ClassVar[dict[str, type]] = {
        "MlpLstmPolicy": RecurrentPolicy,
        "CnnLstmPolicy": CnnRecurrentPolicy,
    }
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
        noise_memory: float = 0.0,
        risk_aversion: float = 0.0,
        **kwargs: Any,
    ):
        counted = threads == "auto" or (isinstance(threads, int) and threads >= 1)
        _require(counted, "threads", threads, 'a whole number from 1, or "auto"')
        _require(0 <= noise_memory < 1, "noise_memory", noise_memory, "a number from 0 to below 1")
        _require(0 <= risk_aversion < np.inf, "risk_aversion", risk_aversion, "a number from 0")
        self.noise_memory = noise_memory
        self.risk_aversion = risk_aversion
        self._lasting_noise: np.ndarray | None = None
        self.chunk_length = chunk_length
        self.threads = threads
        self.prediction_coef = prediction_coef
        self.active_threads = None if threads == "auto" else int(threads)
        self.surprise_control = None
        self._iteration = 0
        # Scalars recorded before a checkpoint that are still to be written.
        self._resumed_log: dict[str, tuple[Any, Any]] = {}
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        space: Any = self.observation_space
        _require(isinstance(space, spaces.Box), "observation_space", space, "a Box: use a wrapper")
        chunk_length = self.n_steps if self.chunk_length is None else self.chunk_length
        inside = 1 <= chunk_length <= self.n_steps
        _require(inside, "chunk_length", chunk_length, f"from 1 to n_steps, {self.n_steps}")
        with _quiet():  # orthogonal weights are made by a decomposition, whose sums threads would share
            super()._setup_model()
        kind = type(self.policy)
        ours = issubclass(kind, RecurrentPolicy)
        _require(ours, "policy", kind.__name__, "a policies.network.recurrent.RecurrentPolicy")
        self.rollout_policy = self.policy
        """What the rollout asks: the policy, or a copy on the CPU."""
        if self.device.type != "cpu":
            self.active_threads = 1
            copy = deepcopy(self.policy).to("cpu")
            if CompiledForward.knows(copy):
                self.rollout_policy = copy
        if self.noise_memory and not CompiledForward.knows_mean(self.rollout_policy):
            raise ValueError(
                f"noise_memory={self.noise_memory} needs tanh heads and Gaussian actions, no gSDE; set it to "
                "0, or leave use_sde and activation_fn as they are by default."
            )
        self._rollout_device = self.rollout_policy.device  # the policy looks for its own anew every time
        self._take_states(self._last_lstm_states)
        surprises = getattr(self.env, "surprises", None)
        if self.surprise_control is None and surprises is not None:
            self.surprise_control = self._make_control()
        rnn = self.policy.lstm_actor
        self.rollout_buffer = TimeMajorBuffer(
            self.n_steps,
            self.n_envs,
            chunk_length,
            space,
            self.action_space,
            (rnn.num_layers, rnn.hidden_size),
            self._rollout_device,
            self.device,
            self.gamma,
            self.gae_lambda,
            0 if surprises is None else surprises.shape[1],
            self.risk_aversion,
        )

    def _make_control(self) -> SurpriseControl:
        """The control of surprises, on the terms that the environment knows to explain most, if it says."""
        return SurpriseControl(terms=getattr(self.env, "surprise_terms", None))

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: Any,
        env: Any = None,
        device: Any = "auto",
        custom_objects: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> FastRecurrentPPO:
        """Load as the parent does; the classes in the file may have had other places when it was written."""
        objects = saved_objects(path) | (custom_objects or {})
        return super().load(path, env, device, objects, **kwargs)

    @property
    def iteration(self) -> int:
        """Rollouts made so far."""
        return self._iteration

    def go_on(self, states: Any, log: dict[str, tuple[Any, Any]]) -> None:
        """Continue from the recurrent states of a checkpoint (None: from none, for fresh episodes) and the
        scalars that it had still to log."""
        if states is not None:
            self._take_states(states)
        self._resumed_log = log

    def _take_states(self, states: Any) -> None:
        self._last_lstm_states = RNNStates(*(tuple(self._for_rollout(x) for x in part) for part in states))

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

        for each in (policy, self.policy):
            if each.std_left is not None:
                each.std_left = self._current_progress_remaining
                each.hold()
        forward = policy.for_rollout()
        truncated: list[Truncation] = []
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

            if self.noise_memory:
                actions = self._with_lasting_noise(actions, forward.mean_drawn, episode_starts)  # type: ignore[attr-defined]
            clipped_actions = actions
            if isinstance(self.action_space, spaces.Box):
                low, high = self.action_space.low, self.action_space.high
                clipped_actions = np.minimum(np.maximum(actions, low), high)  # np.clip takes thrice the time
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            self.num_timesteps += env.num_envs
            buffer.rewards[step] = rewards
            if self.surprise_control is not None:
                buffer.surprises[step] = env.surprises  # type: ignore[attr-defined]

            # With the names that sb3-contrib's loop has, down to the variables of a loop that has ended.
            stock = {"n_steps": step, "obs_tensor": self._for_rollout(obs), "idx": len(dones) - 1}
            callback.update_locals(locals() | stock | {"done_": dones[-1]})
            if not callback.on_step():
                return False

            ended = np.flatnonzero(dones)
            if len(ended):
                self._update_info_buffer([infos[i] for i in ended], dones[ended])
                truncated += _truncations(step, ended, infos, lstm_states.vf)

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

    def _with_lasting_noise(
        self, drawn: np.ndarray, mean: np.ndarray, episode_starts: np.ndarray
    ) -> np.ndarray:
        """The actions drawn, with what lasts of the noise before; an episode starts without any."""
        lasting = self._lasting_noise
        if lasting is None or lasting.shape != drawn.shape:
            lasting = np.zeros_like(drawn)
        lasting = np.where(episode_starts[:, None], np.float32(0), lasting)
        self._lasting_noise = np.float32(self.noise_memory) * (lasting + drawn - mean)
        return drawn + lasting

    def _bootstrap_truncated(self, truncated: list[Truncation]) -> None:
        """Truncation is not termination: add to the last reward what the critic expects after it.

        All in one forward pass: the weights do not change during a rollout.
        """
        if not truncated:
            return
        steps = np.concatenate([np.full(len(cut.envs), cut.step) for cut in truncated])
        envs = np.concatenate([cut.envs for cut in truncated])
        observations = np.concatenate([cut.observations for cut in truncated])
        states = tuple(torch.cat([cut.states[i] for cut in truncated], dim=1) for i in range(2))
        values = self._values(observations, states, np.zeros(len(envs)))
        self.rollout_buffer.rewards[steps, envs] += self.gamma * values

    def _values(self, obs: np.ndarray, states: Any, episode_starts: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            starts = self._for_rollout(episode_starts).float()
            values = self.rollout_policy.predict_values(self._for_rollout(obs), states, starts)
            return values.flatten().cpu().numpy()

    # The loop -----------------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "FastRecurrentPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> FastRecurrentPPO:
        """Train as SB3 does, with denormals flushed and torch at one thread: the update brings its own."""
        with _quiet():
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
            if reset_num_timesteps:
                self._iteration = 0
            for name, (value, excluded) in self._resumed_log.items():
                self.logger.record(name, value, excluded)
            self._resumed_log = {}
            callback.on_training_start(locals() | {"iteration": self._iteration}, globals())
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


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    require(condition, "FastRecurrentPPO", name, value, allowed)


def _truncations(step: int, ended: np.ndarray, infos: Any, states: Any) -> list[Truncation]:
    """Those of the episodes that `ended` in a step which were cut, if any."""
    cut = [i for i in ended if infos[i].get("TimeLimit.truncated") and "terminal_observation" in infos[i]]
    if not cut:
        return []
    observations = np.stack([infos[i]["terminal_observation"] for i in cut])
    return [Truncation(step, np.array(cut), observations, tuple(state[:, cut] for state in states))]


@contextmanager
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    quiet_thread()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
