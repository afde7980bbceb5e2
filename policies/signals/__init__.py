"""Signals: order flow, adverse selection, multi-task, cross-asset, risk.

`signal` is what a trained one is (a network with names, and a card), `network` what is trained, `exact` what
no network can beat where that is known. May import: `mmenv`, `policies.archive`, `policies.network`,
`policies.solver`.
"""

from policies.signals.signal import SUFFIX, TrainedSignal, load, save, to_bytes

__all__ = ["SUFFIX", "TrainedSignal", "load", "save", "to_bytes"]
