"""Policies: analytic, optimal, trained. Importing it makes `.mms` files, signals, known to `NeuralMM-v0`."""

from __future__ import annotations

from pathlib import Path

from mmenv.signals import Signal, register_loader


def _load(path: Path) -> Signal:
    """The trained signal in a file; what reads it is imported only then."""
    from policies.signals import load

    return load(path)


register_loader(".mms", _load)
