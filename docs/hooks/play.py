"""Hook of mkdocs: what the page `play` loads, from the bundle of the task and its exact optimum."""

from __future__ import annotations

import base64
import json

import numpy as np
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from mmenv.tasks import find_task
from policies.bundle import load
from policies.optimal import solve
from train.baselines import CACHE
from train.zoo import bundle_of

TASK = "brownian"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the network's layers and the optimal quotes."""
    files.append(File.generated(config, "play/policy.json", content=json.dumps(contents())))
    return files


def contents() -> dict[str, object]:
    """Layers in order, and the optimum's distances of ask and bid, float32 (steps, inventories, 2)."""
    task = find_task(TASK)
    layers = [
        {
            "kind": layer.kind,
            "activation": layer.activation,
            "units": layer.units,
            "arrays": {name: text(layer.real(name)) for name in layer.arrays},
        }
        for layer in load(bundle_of(task)).network.layers
    ]
    best = solve(
        task.config(), "optimum", cache=CACHE
    )  # on this market nothing that is seen matters: one node
    quotes = np.stack([best.ask[:, 0], best.bid[:, 0]], axis=-1)
    return {"layers": layers, "optimum": text(quotes[: task.config().horizon])}


def text(array: np.ndarray) -> str:
    """The array's floats as text."""
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
