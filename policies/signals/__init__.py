"""The neural systems beside the policy: order flow, adverse selection, multi-task, cross-asset, risk.

`signal` is what a trained one is (a network with names, and a card), `network` what is trained, `exact` what
no network can beat where that is known, `quoting` a policy from the multi-task network. Training and figures:
`train.signals`.
"""

from policies.signals import quoting  # noqa: F401  (registers the policy "multi-task")
from policies.signals.signal import SUFFIX, TrainedSignal, load, save

__all__ = ["SUFFIX", "TrainedSignal", "load", "save"]
