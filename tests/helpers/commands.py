"""Commands in the process of a test."""

from __future__ import annotations

import sys

import pytest

from train import cli


def neuralmm(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """Run the command in this process; what it ends with."""
    monkeypatch.setattr(sys, "argv", ["neuralmm", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code
    return None
