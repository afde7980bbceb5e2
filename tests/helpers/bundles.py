"""Bundles of untrained networks, for any action."""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmarks.latency import random_network
from mmenv.config import EnvConfig
from mmenv.observation import observation_names
from policies.bundle import Bundle
from policies.network.layers import Layer
from train.export import first_actions


def random_bundle(config: EnvConfig, spread: float = 0.0, name: str = "random") -> Bundle:
    """A network of random weights with as many outputs as the action has numbers, and what it does recorded.

    `spread` is about what the first number of the action is: at -1, the half-spread is the smallest.
    """
    network, numbers = random_network(len(observation_names(config)), 16, 3), len(config.quote.entries)
    weight = np.random.default_rng(0).normal(0, 0.15, (numbers, 64)).astype(np.float32)
    bias = np.zeros(numbers, np.float32)
    if spread:
        weight[:2] *= np.float32(0.1)
        bias[0] = spread
    last = Layer("dense", {"weight": weight, "bias": bias}, "identity")
    network = dataclasses.replace(network, layers=(*network.layers[:-1], last))
    units = config.market.price_scale, float(config.market.lot_scale)
    bundle = Bundle(network, config, units=units, name=name)
    return dataclasses.replace(bundle, reference=first_actions(bundle.policy(), config))
