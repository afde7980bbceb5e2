"""Smaller weights: float16, and int8 with one scale for each row (output channel), calibrated.

The scale of a row is the one, from a grid, under which its output errs least on observations that the policy
meets: the squared error is d' E[x x'] d, with d the rounding errors of its weights and x what it reads. What
is left of the mean error, d' E[x], goes into the bias (Nagel et al. 2019, "Data-Free Quantization Through
Weight Equalization and Bias Correction", section 4.2). Activations and state stay float32.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mmenv.engine.products import product
from policies.network.layers import BIASES, OTHERS, WEIGHTS, Layer, Network
from policies.network.program import Program, step_rows

TOP = 127
SHRINK = np.linspace(0.5, 1.0, 41)
"""Scales that are tried, relative to the one that just holds the largest weight of the row."""


def to_float16(network: Network) -> Network:
    """Weights stored in half the space; they are widened to float32 when the policy is loaded."""
    return _with(network, [{n: a.astype(np.float16) for n, a in la.arrays.items()} for la in network.layers])


def to_int8(network: Network, observations: np.ndarray) -> Network:
    """Weights in int8, calibrated on `observations`, float32 (steps, streams, inputs), from the start of
    episodes."""
    seen = _readings(network, observations)
    return _with(network, [_quantise(layer, x) for layer, x in zip(network.layers, seen, strict=True)])


def _with(network: Network, arrays: list[dict[str, np.ndarray]]) -> Network:
    layers = [dataclasses.replace(la, arrays=new) for la, new in zip(network.layers, arrays, strict=True)]
    return dataclasses.replace(network, layers=tuple(layers))


def _readings(network: Network, observations: np.ndarray) -> list[np.ndarray]:
    """What each layer multiplies with its weights, (samples, inputs, and its own state where it has one)."""
    program = Program(network)
    states = np.zeros((observations.shape[1], network.state_size), np.float32)
    actions = np.empty((1, network.width_out), np.float32)
    samples = []
    for row in np.ascontiguousarray(observations, np.float32):
        for i in range(len(row)):
            step_rows(program.operations, row[i : i + 1], states[i : i + 1], actions)
            samples.append(program.memory.copy())
    memory = np.array(samples)
    found = []
    for i, layer in enumerate(network.layers):
        own = [i] if len(WEIGHTS[layer.kind]) > 1 else []
        places = [program.places[j] for j in (*network.reads(i), *own)]
        found.append(np.hstack([memory[:, at : at + size] for at, size in places]))
    return found


def _quantise(layer: Layer, x: np.ndarray) -> dict[str, np.ndarray]:
    names = WEIGHTS[layer.kind]
    weight = np.hstack([layer.real(name) for name in names]).astype(np.float64)
    second = product(x.T, x) / len(x)
    full = np.maximum(np.abs(weight).max(axis=1), 1e-12) / TOP
    best, scale = np.full(len(weight), np.inf), full
    for shrink in SHRINK:
        tried = shrink * full
        off = _rounded(weight, tried) * tried[:, None] - weight
        error = np.einsum("ri,ij,rj->r", off, second, off)
        scale, best = np.where(error < best, tried, scale), np.minimum(error, best)
    scale = scale.astype(np.float32)
    small = _rounded(weight, scale.astype(np.float64))
    arrays = dict(zip(names, np.hsplit(small.astype(np.int8), [layer.inputs]), strict=False))
    # The mean error of each product goes into the bias that is added to it.
    errors = np.hsplit((small * scale[:, None] - weight) * x.mean(axis=0), [layer.inputs])
    for name, error in zip(BIASES[layer.kind], errors, strict=False):
        arrays[name] = (layer.real(name) - error.sum(axis=1)).astype(np.float32)
    if len(BIASES[layer.kind]) > 1:  # they are only ever added to each other: zeros take no space in a file
        merged = {"lstm": 4, "gru": 2}[layer.kind] * layer.units
        arrays["bias_ih"][:merged] += arrays["bias_hh"][:merged]
        arrays["bias_hh"][:merged] = 0
    return arrays | {name: layer.arrays[name] for name in OTHERS[layer.kind]} | {"scale": scale}


def _rounded(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(weight / scale[:, None]), -TOP, TOP)
