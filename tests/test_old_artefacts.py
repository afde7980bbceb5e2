"""Files that version 0.1.0 (commit 616e95f) wrote: they load, and act as they did."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mmenv import ConfigError, make_config
from mmenv.live.rerun import check, setup_of
from policies.bundle import REFERENCE_SEED, load
from policies.signals import load as load_signal
from train.evaluate import load as load_model
from train.learner.control_variate import SurpriseControl
from train.learner.model_file import unpickle
from train.live import choose
from train.run import LinearDecay, train
from train.settings import read_settings
from train.verify import Recorded, compare

OLD = Path(__file__).parent / "fixtures" / "version-0.1.0"


def size(model) -> float:
    """Sum of the absolute weights, which tells models apart on any machine."""
    return float(sum(p.detach().double().abs().sum() for p in model.policy.parameters()))


def test_a_model_loads_with_what_was_pickled_in_it():
    model, config = load_model(OLD / "run")
    assert config.schema_id == "4211b95496ff8636"
    assert size(model) == pytest.approx(92.040227, abs=1e-5)
    assert model.learning_rate == LinearDecay(0.0015)
    assert model.lr_schedule(0.5) == 0.00075
    assert type(model.surprise_control) is SurpriseControl


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(OLD / "run", folder)
    torch.set_num_threads(1)
    train(*read_settings(folder), folder)
    model, _ = load_model(folder / "last_model.zip")
    assert model.num_timesteps == 1200
    assert size(model) == pytest.approx(92.051974, abs=1e-3)


def test_a_bundle_does_what_torch_did():
    bundle = load(OLD / "policy.mmz")
    assert bundle.network.digest == "32bc8d4fea13b08ea85141568e1c79f2"
    assert bundle.evaluation["% of optimum"] == 23.15
    reference = Recorded(bundle.reference)
    found = compare(bundle.policy(), reference, bundle.config, 1, len(bundle.reference), REFERENCE_SEED)
    assert found.exact


def test_a_signal_is_the_same_signal():
    signal = load_signal(OLD / "risk.mms")
    assert signal.identity == "65b0588c0b7c5a51"
    config = make_config("hidden-regime", horizon=30, manager={"signal": OLD / "risk.mms"})
    assert config.manager.signal.identity == signal.identity


def test_a_calibration_gives_its_market():
    config = make_config(f"{OLD / 'tape.json'}:brownian")
    assert config.market.fill_decay == pytest.approx(1.8154931205571696)


def test_a_journal_is_played_again_by_its_policy():
    path = OLD / "paper.journal"
    setup = setup_of(path)
    limits = setup.config.risk.position_limit, setup.config.risk.order_lots
    chosen = choose("fixed-spread", {"half_spread": 0.3}, setup.market, *limits)
    assert chosen.name == setup.policy
    session, frames = check(path, chosen.player())
    assert (frames, session.fills, session.working.position) == (261, 25, -3)


def test_what_this_version_does_not_have_is_refused_in_a_sentence(monkeypatch):
    module = ModuleType("train.gone")
    module.Gone = type("Gone", (), {"__module__": "train.gone"})
    monkeypatch.setitem(sys.modules, "train.gone", module)
    data = pickle.dumps({"rate": module.Gone(), "values": np.zeros(2)})
    monkeypatch.delitem(sys.modules, "train.gone")
    with pytest.raises(ConfigError, match=r"names train\.gone\.Gone.*0\.1\.0 \(commit 616e95f\)"):
        unpickle(data)
