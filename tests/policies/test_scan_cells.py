"""The memories that scan: what their equations give, one step at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

from policies.network import lru, min_gru
from policies.network.lru import LRU
from policies.network.min_gru import MinGRU
from policies.network.scan_cell import scan

SIZES = np.array([7, 7, 5, 4, 1])


def gated(weights, x, state):
    """One layer of the minGRU's equations as they are written, over packed sequences."""
    gate, candidate = (x @ weights[0].T + weights[1]).chunk(2, 1)
    return averaged(gate.sigmoid(), candidate.tanh(), state)


def averaged(rate, new, state):
    """state + rate x (new - state), step by step."""
    out = []
    for b, r, u in zip(SIZES, rate.split(SIZES.tolist()), new.split(SIZES.tolist()), strict=True):
        state = state[:b] + r * (u - state[:b])
        out.append(state)
    return torch.cat(out)


def step_by_step(rnn, x, state):
    """The module's equations as they are written, over packed sequences."""
    for layer in range(rnn.num_layers):
        if isinstance(rnn, LRU):
            weight, bias, rate = rnn.filters(layer)
            driven = (x @ weight.T + bias).tanh()
            x = torch.cat([averaged(rate.expand_as(driven), driven, state[1][layer]), x], 1)
        x = gated(rnn.weights(layer), x, state[0][layer])
    return x


@pytest.mark.parametrize("hidden", [16, 21])
@pytest.mark.parametrize("way", ["compiled", "scan"])
@pytest.mark.parametrize("kind", [MinGRU, LRU])
def test_outputs_and_gradients(kind, way, hidden):
    """On and off the vector width, two layers, sequences of different lengths."""
    torch.manual_seed(0)
    rnn = kind(3, hidden, num_layers=2)
    state = (torch.rand(2, 7, hidden), torch.rand(2, 7, hidden))
    x = torch.randn(SIZES.sum(), 3)
    ways = {
        "compiled": lambda v: rnn.run_packed(v, state, SIZES),
        "scan": lambda v: rnn(PackedSequence(v, torch.from_numpy(SIZES)), state)[0].data,
    }

    def gradients(run):
        inputs = x.clone().requires_grad_()
        output = run(inputs)
        return output, *torch.autograd.grad(output.square().sum(), [inputs, *rnn.parameters()])

    for ours, theirs in zip(
        gradients(ways[way]), gradients(lambda v: step_by_step(rnn, v, state)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=3e-6, rtol=3e-5)


def test_scan_over_any_length():
    """In float64, where the loop is exact to rounding."""
    rng = torch.Generator().manual_seed(1)
    for length in (1, 2, 3, 64, 100):
        keep, add = (torch.rand(length, 2, 3, generator=rng, dtype=torch.float64) for _ in range(2))
        before = torch.rand(2, 3, generator=rng, dtype=torch.float64)
        h, expected = before, []
        for t in range(length):
            h = keep[t] * h + add[t]
            expected.append(h)
        torch.testing.assert_close(scan(keep, add, before), torch.stack(expected), rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", [MinGRU, LRU])
def test_states_after_a_sequence_and_their_bounds(kind):
    """What a sequence leaves behind continues it, and stays in (-1, 1) whatever was seen."""
    torch.manual_seed(2)
    rnn = kind(4, 64, num_layers=2)
    zeros = torch.zeros(2, 2, 64), torch.zeros(2, 2, 64)
    seen = torch.randn(50, 2, 4) * torch.tensor([1.0, 10.0, 1e3, 1e6])
    whole, ends = rnn(seen, zeros)
    first, between = rnn(seen[:20], zeros)
    second, after = rnn(seen[20:], between)
    torch.testing.assert_close(torch.cat([first, second]), whole, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(after, ends, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
        assert ours.abs().max() <= 1
    assert torch.equal(whole[-1], ends[0][-1])


def test_memories_of_all_lengths_at_first():
    """A minGRU's units forget at rates from one to 1/256 a step, an LRU's filters from 1/2 to 1/500."""
    rates = MinGRU(4, 64).weights(0)[1][:64].sigmoid().detach()
    assert rates[0] > 0.9
    assert rates[-1].item() == pytest.approx(1 / min_gru.LONGEST, rel=1e-5)
    assert (rates.diff() < 0).all()
    constants = -1 / torch.log1p(-LRU(4, 64).filters(0)[2].detach())
    assert constants[0].item() == pytest.approx(lru.SHORTEST, rel=1e-5)
    assert constants[-1].item() == pytest.approx(lru.LONGEST, rel=1e-3)
    steps = constants.log().diff()
    torch.testing.assert_close(steps, steps.mean().expand(63), rtol=1e-2, atol=0)


def test_filters_of_an_impulse():
    """After one step of something and then of what drives nothing, a filter forgets by its rate a step."""
    rnn = LRU(1, 8)
    with torch.no_grad():
        rnn.filter_weight_l0.fill_(2.0)
    x = torch.zeros(30, 1, 1)
    x[0] = 0.4
    _, filtered = rnn.scan_layer(0, x, torch.zeros(1, 8), torch.zeros(1, 8))
    rate = rnn.filters(0)[2]
    expected = [rate * np.tanh(0.8) * (1 - rate) ** t for t in range(30)]
    torch.testing.assert_close(filtered[:, 0], torch.stack(expected), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("delay", [16, 256])
@pytest.mark.parametrize("kind", [MinGRU, LRU])
def test_recall(kind, delay):
    """A cue at the start, then noise: its sign is told at the end, after 300 minibatches of 32 sequences.

    An LSTM with a forget bias of 2 recalls over 16 steps then, and not over 64.
    """
    torch.manual_seed(0)
    rnn, head = kind(2, 32), torch.nn.Linear(32, 1)
    parameters = [*rnn.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    sizes, zeros = np.full(delay + 1, 32), (torch.zeros(1, 32, 32), torch.zeros(1, 32, 32))
    right = []
    for _ in range(300):
        cue = 2.0 * torch.randint(0, 2, (32,)) - 1
        seen = torch.zeros(delay + 1, 32, 2)
        seen[0, :, 0], seen[:, :, 1] = cue, torch.randn(delay + 1, 32)
        said = head(rnn.run_packed(seen.flatten(0, 1), zeros, sizes)[-32:])[:, 0]
        optimizer.zero_grad()
        torch.nn.functional.softplus(-said * cue).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        right.append((said * cue > 0).float().mean().item())
    assert np.mean(right[-30:]) > 0.99
