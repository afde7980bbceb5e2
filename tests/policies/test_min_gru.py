"""The memory that scans: what the paper's recurrence gives, one step at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

from policies.network.min_gru import LONGEST, MinGRU, run_packed, scan

SIZES = np.array([7, 7, 5, 4, 1])


def step_by_step(rnn, x, state):
    """The module's equations as they are written, over packed sequences."""
    for layer in range(rnn.num_layers):
        gate, candidate = (x @ rnn.weights(layer)[0].T + rnn.weights(layer)[1]).chunk(2, 1)
        z, c, h, out = gate.sigmoid(), candidate.tanh(), state[0][layer], []
        for b, z_t, c_t in zip(SIZES, z.split(SIZES.tolist()), c.split(SIZES.tolist()), strict=True):
            h = (1 - z_t) * h[:b] + z_t * c_t
            out.append(h)
        x = torch.cat(out)
    return x


@pytest.mark.parametrize("hidden", [16, 21])
@pytest.mark.parametrize("way", ["compiled", "scan"])
def test_outputs_and_gradients(way, hidden):
    """On and off the vector width, two layers, sequences of different lengths."""
    torch.manual_seed(0)
    rnn = MinGRU(3, hidden, num_layers=2)
    state = (torch.rand(2, 7, hidden), torch.zeros(2, 7, hidden))
    x = torch.randn(SIZES.sum(), 3)
    ways = {
        "compiled": lambda v: run_packed(rnn, v, state, SIZES),
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


def test_memories_of_all_lengths_at_first():
    """The units forget at rates from one to 1/256 a step, and stay in (-1, 1) whatever they see."""
    rnn = MinGRU(4, 64)
    rates = rnn.weights(0)[1][:64].sigmoid().detach()
    assert rates[0] > 0.9
    assert rates[-1].item() == pytest.approx(1 / LONGEST, rel=1e-5)
    assert (rates.diff() < 0).all()
    seen = 1e6 * torch.randn(50, 2, 4)
    output, (hidden, _) = rnn(seen, (torch.zeros(1, 2, 64), torch.zeros(1, 2, 64)))
    assert output.abs().max() <= 1
    assert torch.equal(output[-1], hidden[0])
