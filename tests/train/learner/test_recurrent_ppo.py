"""FastRecurrentPPO against sb3-contrib's RecurrentPPO, against arithmetic by hand, and against SIGKILL."""

from __future__ import annotations

import csv
import functools
import os
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from policies.network.packed_gru import GRU
from policies.network.packed_lstm import run_network, run_packed
from policies.network.recurrent import CompiledForward
from train.learner import ppo_loss, update
from train.learner.checkpoint import Checkpoint, load_latest, remaining_timesteps, resume_logger
from train.learner.recurrent_ppo import FastRecurrentPPO

STEPS, ENVS = 24, 6
CRITICS = {
    "separate": {"shared_lstm": False, "enable_critic_lstm": True},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "no critic LSTM": {"shared_lstm": False, "enable_critic_lstm": False},
}


class RandomEpisodes(VecEnv):
    """Noise to look at, episodes of 2 to 9 steps that end in termination or truncation, out of step."""

    def __init__(self, n_envs: int = ENVS, action_space: spaces.Space | None = None):
        box = spaces.Box(-1, 1, (2,), np.float32)
        super().__init__(n_envs, spaces.Box(-10, 10, (5,), np.float32), action_space or box)
        self.rng = np.random.default_rng(5)
        self.left = np.zeros(n_envs, int)

    def _observe(self):
        return self.rng.standard_normal((self.num_envs, 5), dtype=np.float32)

    def reset(self):
        self.left = self.rng.integers(2, 10, self.num_envs)
        return self._observe()

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        self.left -= 1
        dones = self.left == 0
        obs, last_obs, truncated = self._observe(), self._observe(), self.rng.random(self.num_envs) < 0.5
        infos = [
            {"terminal_observation": last_obs[i], "TimeLimit.truncated": bool(truncated[i])}
            if dones[i]
            else {}
            for i in range(self.num_envs)
        ]
        self.left[dones] = self.rng.integers(2, 10, dones.sum())
        rewards = self.actions.reshape(self.num_envs, -1).sum(1).astype(np.float32)
        rewards += obs.reshape(self.num_envs, -1)[:, 0]
        return obs, rewards, dones, infos

    def get_state(self):
        return {"rng": self.rng.bit_generator.state, "left": self.left.copy()}

    def set_state(self, state):
        self.rng.bit_generator.state, self.left = state["rng"], state["left"].copy()

    def close(self):
        pass

    def get_attr(self, name, indices=None):
        return [getattr(self, name, None)] * self.num_envs

    def set_attr(self, name, value, indices=None):
        raise NotImplementedError

    def env_method(self, name, *args, indices=None, **kwargs):
        raise NotImplementedError

    def env_is_wrapped(self, wrapper, indices=None):
        return [False] * self.num_envs


class Recall(RandomEpisodes):
    """A cue of +1 or -1 is shown once; `delay` steps later the action must name it. Reward 1 if it does."""

    def __init__(self, n_envs: int = 32, delay: int = 10):
        super().__init__(n_envs, spaces.Discrete(2))
        self.delay = delay

    def _observe(self):
        obs = np.zeros((self.num_envs, 5), np.float32)
        obs[:, 1] = self.rng.standard_normal(self.num_envs)
        obs[:, 0] = np.where(self.age == 0, 2.0 * self.cue - 1, 0)
        obs[:, 2] = self.age == self.delay
        return obs

    def reset(self):
        self.age = np.zeros(self.num_envs, int)
        self.cue = self.rng.integers(0, 2, self.num_envs)
        return self._observe()

    def step_wait(self):
        dones = self.age == self.delay
        rewards = np.where(dones, self.actions == self.cue, False).astype(np.float32)
        self.age = np.where(dones, 0, self.age + 1)
        self.cue[dones] = self.rng.integers(0, 2, dones.sum())
        obs = self._observe()
        infos = [{"terminal_observation": obs[i], "episode": {"r": rewards[i], "l": 1}} if dones[i] else {}
                 for i in range(self.num_envs)]  # fmt: skip
        return obs, rewards, dones, infos


def build(algorithm, env=None, policy=None, **kwargs):
    """A small model; ours with the forget bias and threads of stock unless told otherwise."""
    settings = {"n_steps": STEPS, "n_epochs": 2, "batch_size": STEPS * 2, "seed": 3, "device": "cpu"} | kwargs
    policy = {"lstm_hidden_size": 12, "net_arch": [9]} | (policy or {})
    if algorithm is FastRecurrentPPO:
        settings = {"threads": 1} | settings
        policy = {"forget_bias": 0.0} | policy
    return algorithm("MlpLstmPolicy", env or RandomEpisodes(), policy_kwargs=policy, **settings)


class Idle(BaseCallback):
    def _on_step(self):
        return True


def collect(model):
    """One rollout, without the update."""
    _, callback = model._setup_learn(10**6, Idle())
    torch.manual_seed(11)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


def evaluate(policy, obs, actions, states, batch_sizes):
    """Values and log-probabilities (N,) over packed sequences, and the actor's memory (N, H)."""
    seen, known = policy.features_of(obs)
    memory, latent = policy.actor_sequences(seen, states.pi, batch_sizes)
    values = policy.value_net(policy.critic_sequences(known, states.vf, batch_sizes, memory)).flatten()
    return values, policy.distribution(latent).log_prob(actions), memory


# The same numbers as sb3-contrib ----------------------------------------------------------------------------


@pytest.mark.parametrize("losses", ["compiled", "torch"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("critic", CRITICS)
def test_rollout_losses_and_gradients_equal_stock(critic, threads, losses, monkeypatch):
    """Same weights, same seed: the rollout, the GAE, two epochs of minibatches, every gradient and weight."""
    if losses == "torch":  # as on a GPU
        monkeypatch.setattr(ppo_loss, "on_cpu", lambda weight: False)
    settings = {"clip_range_vf": 0.1, "ent_coef": 0.01, "learning_rate": 1e-2}
    stock = build(RecurrentPPO, policy=CRITICS[critic], **settings)
    ours = build(FastRecurrentPPO, policy=CRITICS[critic], threads=threads, **settings)
    ours.policy.load_state_dict(stock.policy.state_dict())
    expected, buffer = collect(stock), collect(ours)
    assert buffer.episode_starts[1:].sum() > 20  # resets in the middle
    for name in (
        "observations",
        "actions",
        "rewards",
        "episode_starts",
        "values",
        "log_probs",
        "advantages",
        "returns",
    ):
        np.testing.assert_allclose(
            np.asarray(getattr(buffer, name)), getattr(expected, name), atol=2e-6, err_msg=name
        )

    # The same minibatches: whole environments, in order.
    monkeypatch.setattr(np.random, "randint", lambda *_: 0)
    monkeypatch.setattr(np.random, "permutation", np.arange)
    stock.train()
    ours.train()
    for name, value in stock.logger.name_to_value.items():
        assert ours.logger.name_to_value[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    for (name, a), b in zip(stock.policy.named_parameters(), ours.policy.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5, msg=name)
        torch.testing.assert_close(b, a, rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("critic", [*CRITICS, "shapes the memory", "reads the memory"])
def test_gradients_without_autograd_are_the_bytes_of_autograds(critic, cell, layers):
    """Of actor, critic and both, with what the memory predicts, and terms that are clipped."""
    told = {"privileged": 2, "unpredicted": 1}
    policy = (
        CRITICS.get(critic)
        or {
            "shapes the memory": {**CRITICS["shared"], "critic_gradient": True},
            "reads the memory": {**CRITICS["no critic LSTM"], "critic_reads_memory": True},
        }[critic]
    )
    policy = policy | {"cell": cell, "n_lstm_layers": layers} | ({} if policy["shared_lstm"] else told)
    settings = {"clip_range": 0.01, "clip_range_vf": 0.1, "ent_coef": 0.01, "learning_rate": 1e-2}
    model = build(FastRecurrentPPO, policy=policy, **settings)
    collect(model)
    model.train()  # the policy is then no longer that of the rollout
    assert model._direct
    parameters = list(model.policy.parameters())
    (batch,) = model.rollout_buffer.batches(np.arange(ENVS), shares=1)
    for part in ("actor", "critic", "both") if model.policy.apart else ("both",):
        results = []
        for model._direct in (True, False):
            gradients, terms = model._share_gradients(batch, part, parameters, 100)
            results.append((*gradients, terms))
        for ours, autograds in zip(*results, strict=True):
            assert (ours is None) == (autograds is None)
            assert ours is None or torch.equal(ours, autograds)
        clipped = results[0][-1][update.STATISTICS.index("clip_fraction")]
        assert (clipped > 0) == (part != "critic")


@pytest.mark.parametrize("chunk_length", [5, 8, STEPS])
@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"cell": "gru"},
        {"cell": "mingru"},
        {"cell": "lru"},
        {"n_lstm_layers": 2},
        {"cell": "lru", "n_lstm_layers": 2},
        {"activation_fn": torch.nn.ReLU},
    ],
    ids=str,
)
def test_before_an_update_the_batch_repeats_the_rollout(policy, chunk_length):
    """Whatever the cell and the chunks, a rollout evaluated again under the same weights gives its values."""
    model = build(FastRecurrentPPO, policy=policy, chunk_length=chunk_length)
    buffer = collect(model)
    batches = buffer.batches(np.arange(buffer.n_chunks), shares=3)
    assert sum(len(b.returns) for b in batches) == STEPS * ENVS
    for batch in batches:
        values, log_prob, _ = evaluate(model.policy, *batch[:2], batch.lstm_states, batch.batch_sizes)
        torch.testing.assert_close(values, batch.old_values, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(log_prob, batch.old_log_prob, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("hidden", [16, 21])
@pytest.mark.parametrize("kind", [torch.nn.LSTM, GRU])
def test_compiled_networks_equal_torch(kind, hidden):
    """Outputs and all gradients of packed cells and the tanh network, on and off the vector width."""
    torch.manual_seed(0)
    batch_sizes = np.array([7, 7, 5, 4, 1])
    rnn = kind(3, hidden, num_layers=2)
    head = torch.nn.Sequential(
        torch.nn.Linear(hidden, 33), torch.nn.Tanh(), torch.nn.Linear(33, 5), torch.nn.Tanh()
    )
    states = (torch.randn(2, 7, hidden), torch.randn(2, 7, hidden))
    x = torch.randn(batch_sizes.sum(), 3)

    def gradients(run_lstm, run_head):
        inputs = x.clone().requires_grad_()
        output = run_head(run_lstm(inputs))
        return output, *torch.autograd.grad(
            output.square().sum(), [inputs, *rnn.parameters(), *head.parameters()]
        )

    run = rnn.run_packed if kind is GRU else functools.partial(run_packed, rnn)
    packed = gradients(lambda v: run(v, states, batch_sizes), lambda v: run_network(head, v))
    sizes = torch.from_numpy(batch_sizes)
    plain = gradients(lambda v: rnn(torch.nn.utils.rnn.PackedSequence(v, sizes), states)[0].data, head)
    for a, b in zip(packed, plain, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("critic", ["memoryless", "reads the actor's memory", "lstm"])
def test_actor_does_not_see_privileged_entries(critic):
    """Other privileged entries: the same actions, other values; compiled, stock and packed paths agree."""
    kwargs = {"privileged": 2, "enable_critic_lstm": critic == "lstm", "shared_lstm": False}
    kwargs["critic_reads_memory"] = critic == "reads the actor's memory"
    model = build(FastRecurrentPPO, policy={"lstm_hidden_size": 16, **kwargs})
    policy = model.policy
    obs = torch.randn(ENVS, 5)
    other = torch.cat([obs[:, :3], torch.randn(ENVS, 2)], 1)
    states = RNNStates(*[(torch.randn(1, ENVS, 16), torch.randn(1, ENVS, 16)) for _ in range(2)])
    starts = torch.zeros(ENVS)
    results = []
    assert isinstance(policy.for_rollout(), CompiledForward)
    for forward in (policy._forward_arrays, policy.for_rollout()):
        for seen in (obs, other):
            torch.manual_seed(0)
            outcome = forward(seen.numpy(), states, starts.numpy())
            results.append((*map(torch.as_tensor, outcome[:3]), outcome[3]))
    for (actions, values, log_prob, _), (same, differ, same_log_prob, _) in (results[:2], results[2:]):
        assert torch.equal(actions, same)
        assert torch.equal(log_prob, same_log_prob)
        assert not torch.isclose(values.flatten(), differ.flatten()).any()
    for ours, stock in zip(results[2][:3], results[0][:3], strict=True):
        torch.testing.assert_close(ours.flatten(), stock.flatten(), rtol=1e-4, atol=1e-5)
    values, log_prob, memory = evaluate(policy, obs, results[0][0], states, np.array([ENVS]))
    surprise = policy.surprise(memory, obs)
    torch.testing.assert_close(values, results[0][1].flatten(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(log_prob, results[0][2], rtol=1e-4, atol=1e-5)
    assert surprise.shape == (ENVS,)
    values, log_prob, _ = policy.evaluate_actions(obs, results[0][0], states, starts)
    torch.testing.assert_close(values.flatten(), results[0][1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(log_prob, results[0][2], rtol=1e-4, atol=1e-5)
    # The value depends on what came before, exactly where the critic has a memory to know it from.
    forgetful = policy.for_rollout()(obs.numpy(), states, np.ones(ENVS))[1]
    assert np.isclose(forgetful, results[2][1]).all() == (critic == "memoryless")


def test_truncated_reward_by_hand():
    """r + gamma V(terminal observation), with the critic's memory of that episode; terminations untouched."""
    seen: list[tuple[int, int, np.ndarray, float, bool]] = []

    class Watch(Idle):
        def _on_step(self):
            rewards, dones, infos, step = (self.locals[k] for k in ("rewards", "dones", "infos", "step"))
            for i in np.flatnonzero(dones):
                info = infos[i]
                seen.append((step, i, info["terminal_observation"], rewards[i], info["TimeLimit.truncated"]))
            return True

    model = build(FastRecurrentPPO, gamma=0.9)
    _, callback = model._setup_learn(1, Watch())
    model.collect_rollouts(model.env, callback, model.rollout_buffer, STEPS)
    buffer, policy = model.rollout_buffer, model.policy
    assert {truncated for *_, truncated in seen} == {True, False}
    for step, i, last_obs, reward, truncated in seen:
        start = max(t for t in range(step + 1) if buffer.episode_starts[t, i])
        episode = torch.cat([buffer.observations[start : step + 1, i], torch.as_tensor(last_obs)[None]])
        latent = policy.lstm_critic(episode)[0][-1]
        value = policy.value_net(policy.mlp_extractor.forward_critic(latent)).item()
        assert buffer.rewards[step, i] == pytest.approx(reward + (0.9 * value if truncated else 0), abs=1e-5)


# It learns, saves and predicts ------------------------------------------------------------------------------


@pytest.mark.parametrize("forgetful", [True, False])
def test_a_forgetful_policy_acts_on_what_it_sees_alone(forgetful):
    """Also after updates, which must not open its memory; an ordinary one remembers."""
    model = build(FastRecurrentPPO, policy={"forgetful": forgetful, **CRITICS["separate"]})
    model.learn(STEPS * ENVS * 2)
    obs, states = model.env.reset(), tuple(torch.randn(1, ENVS, 12).numpy() for _ in range(2))
    fresh, _ = model.policy.predict(obs, deterministic=True)
    later, _ = model.policy.predict(obs, states, np.zeros(ENVS, bool), deterministic=True)
    assert np.allclose(fresh, later, atol=1e-5) == forgetful


def test_the_noise_falls_to_its_floor_as_the_training_ends():
    """Each rollout's actions are drawn with no more than what is left of the first deviation; updates that
    reward noise would have more."""
    policy = {"log_std_init": -1.0, "min_std": 0.1, "falling_std": True}
    model = build(FastRecurrentPPO, policy=policy, ent_coef=1.0)
    seen = []

    class Watch(Idle):
        def _on_rollout_end(self):
            seen.append(self.model.policy.log_std.exp().tolist())

    rollouts = 8
    model.learn(STEPS * ENVS * rollouts, Watch())
    expected = [max(np.exp(-1.0) * (1 - k / rollouts), 0.1) for k in range(rollouts)]
    assert np.ptp(seen, axis=1).max() == 0
    assert np.array(seen)[:, 0] == pytest.approx(expected, rel=1e-5)
    assert expected[-1] == 0.1


class UntilKnown(Idle):
    """Ends the training when of the last hundred answers nearly all were right."""

    def _on_step(self):
        answers = [episode["r"] for episode in self.model.ep_info_buffer]
        return len(answers) < 100 or np.mean(answers) <= 0.95


@pytest.mark.parametrize("cell", ["lstm", "gru", "mingru", "lru"])
def test_recall_over_ten_steps(cell):
    """Solved only with memory across ten steps of noise; without it half of the answers are right."""
    policy = {"cell": cell, "forget_bias": 2.0, "lstm_hidden_size": 32, "net_arch": [32], **CRITICS["shared"]}
    settings = {"n_steps": 64, "batch_size": 512, "n_epochs": 4, "learning_rate": 4e-3, "gamma": 0.95}
    model = build(FastRecurrentPPO, Recall(), policy, **settings)
    model.learn(most := 64 * 32 * 40, UntilKnown())
    assert model.num_timesteps < most


def test_rollout_on_a_copy_gives_the_same_bytes():
    """As with a policy on a GPU, whose rollouts run on a copy on the CPU: each follows the last update."""
    plain, copied = build(FastRecurrentPPO), build(FastRecurrentPPO)
    copied.rollout_policy = deepcopy(copied.policy)
    for model in (plain, copied):
        set_random_seed(0)
        model.learn(3 * model.n_steps * model.n_envs)
    for a, b in zip(plain.policy.parameters(), copied.policy.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("critic", CRITICS)
def test_actor_and_critic_apart_learn_the_same_bytes(critic):
    """Where they share nothing, a thread for each changes nothing."""
    weights = []
    for threads in (1, 2):
        model = build(FastRecurrentPPO, policy=CRITICS[critic], threads=threads, ent_coef=0.01)
        set_random_seed(0)
        model.learn(3 * model.n_steps * model.n_envs)
        weights.append(torch.nn.utils.parameters_to_vector(model.policy.parameters()))
    assert model.policy.apart == (critic != "shared")
    assert torch.equal(*weights) == model.policy.apart


def test_save_load_predict(tmp_path):
    """A loaded model acts the same, step after step, with resets; the rollout's step is `forward`."""
    model = build(FastRecurrentPPO, policy={"cell": "lstm", "forget_bias": 1.0}, chunk_length=8)
    model.learn(STEPS * ENVS)
    model.save(tmp_path / "model.zip")
    loaded = FastRecurrentPPO.load(tmp_path / "model.zip", device="cpu")
    assert loaded.chunk_length == 8
    rng, states = np.random.default_rng(0), [None, None]
    for step in range(5):
        obs, starts = (
            rng.standard_normal((ENVS, 5), dtype=np.float32),
            rng.random(ENVS) < (1 if step == 0 else 0.3),
        )
        both = [m.predict(obs, states[k], starts, deterministic=True) for k, m in enumerate((model, loaded))]
        states = [state for _, state in both]
        np.testing.assert_array_equal(both[0][0], both[1][0])

    outcomes = []
    assert isinstance(model.policy.for_rollout(), CompiledForward)
    for forward in (model.policy._forward_arrays, model.policy.for_rollout()):
        torch.manual_seed(0)
        *outcome, states = forward(obs, model._last_lstm_states, starts)
        outcomes.append((*outcome, *states.pi, *states.vf))
    for a, b in zip(*outcomes, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5)


class RandomImages(RandomEpisodes):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def _observe(self):
        return self.rng.integers(0, 256, (self.num_envs, 1, 36, 36), dtype=np.uint8)


def test_images_train():
    """Actor and critic share the network that looks at the images: both train it."""
    settings = {"n_steps": STEPS, "batch_size": STEPS * 2, "threads": 2, "device": "cpu"}
    policy = {"lstm_hidden_size": 8, "features_extractor_kwargs": {"features_dim": 6}}
    model = FastRecurrentPPO("CnnLstmPolicy", RandomImages(), policy_kwargs=policy, **settings)
    before = [p.clone() for p in model.policy.features_extractor.parameters()]
    model.learn(STEPS * ENVS)
    for a, b in zip(before, model.policy.features_extractor.parameters(), strict=True):
        assert not torch.equal(a, b)


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3])], ids=str)
def test_other_action_spaces_train(space):
    model = build(
        FastRecurrentPPO, RandomEpisodes(action_space=space), policy={"cell": "gru", **CRITICS["shared"]}
    )
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(STEPS * ENVS)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


def test_clear_refusals():
    with pytest.raises(ValueError, match="threads = 0"):
        build(FastRecurrentPPO, threads=0)
    with pytest.raises(ValueError, match="chunk_length = 25"):
        build(FastRecurrentPPO, chunk_length=STEPS + 1)
    with pytest.raises(ValueError, match="cell = 'rnn'"):
        build(FastRecurrentPPO, policy={"cell": "rnn"})
    with pytest.raises(ValueError, match="forgetful = True"):
        build(FastRecurrentPPO, policy={"cell": "gru", "forgetful": True})


# Resume -----------------------------------------------------------------------------------------------------

TOTAL = STEPS * ENVS * 8


class KillAt(Idle):
    def __init__(self, timesteps):
        super().__init__()
        self.at = timesteps

    def _on_step(self):
        if self.num_timesteps >= self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return True


def run(folder: Path, kill_at: int = 10**9):
    """Start or resume the run in `folder`, to the end or until killed."""
    callbacks = [Checkpoint(folder), KillAt(kill_at)]
    if any(folder.glob("*.ckpt")):
        model = load_latest(folder, RandomEpisodes(), device="cpu")
        model.set_logger(resume_logger(folder, ["csv", "tensorboard"], model))
        return model.learn(remaining_timesteps(model), callbacks, log_interval=2, reset_num_timesteps=False)
    model = build(FastRecurrentPPO, learning_rate=lambda left: 1e-2 * left)
    model.set_logger(configure(str(folder), ["csv", "tensorboard"]))
    return model.learn(TOTAL, callbacks, log_interval=2)


def scalars(folder: Path):
    with open(folder / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    clock = {"time/fps", "time/time_elapsed"}
    return [{k: float(v) for k, v in row.items() if v and k not in clock} for row in rows]


def assert_same_model(a, b):
    for x, y in zip(a.policy.state_dict().values(), b.policy.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    for x, y in zip(a.policy.optimizer.state.values(), b.policy.optimizer.state.values(), strict=True):
        assert all(torch.equal(x[k], y[k]) for k in ("step", "exp_avg", "exp_avg_sq"))


def test_killed_twice_ends_with_the_same_bytes(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run(whole)
    # In the fourth rollout, with scalars recorded and not yet written, and in the fifth, with none.
    for kill_at in (3 * STEPS * ENVS + 7, 4 * STEPS * ENVS + 50):
        result = subprocess.run([sys.executable, __file__, str(parts), str(kill_at)], check=False)
        assert result.returncode == -signal.SIGKILL
    resumed = run(parts)
    assert resumed.num_timesteps == expected.num_timesteps == TOTAL
    assert_same_model(resumed, expected)
    assert scalars(parts) == scalars(whole)
    assert len(scalars(whole)) == 4
    assert len(list(parts.glob("*.ckpt"))) == 2
    assert not list(parts.glob("*.tmp"))


def test_damaged_checkpoint_falls_back(tmp_path):
    expected = run(tmp_path)
    newest = max(tmp_path.glob("*.ckpt"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged"):
        resumed = run(tmp_path)
    assert_same_model(resumed, expected)
    with pytest.raises(ValueError, match="run that got further"):
        build(FastRecurrentPPO).learn(TOTAL, Checkpoint(tmp_path))
    for path in tmp_path.glob("*.ckpt"):
        path.write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="no sound"), pytest.warns(UserWarning, match="checkpoint"):
        run(tmp_path)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
