"""The page docs/play.md: its market, desk and network in JavaScript against those in Python."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mmenv.tasks import find_task
from mmenv.vector import NeuralMMVectorEnv
from policies.bundle import load
from train.zoo import bundle_of

PAGE = Path(__file__).parents[1] / "docs" / "play"
FIELDS = ("ask_fill", "bid_fill", "ask_distance", "bid_distance", "buy_lots", "sell_lots", "move")

SCRIPT = """
import { readFileSync } from "node:fs";
import { Desk, Network, distances, drawStep, generator } from "./market.js";
const { policy, steps } = JSON.parse(readFileSync(0));
const desk = new Desk(), network = new Network(policy), rows = [];
for (const s of steps) {
  const observation = desk.observe(), action = network.act(observation);
  rows.push({ observation: Array.from(observation), action, quotes: distances(action) });
  const market = { buys: s.buy_lots, sells: s.sell_lots, move: s.move };
  desk.account(s.ask_fill, s.bid_fill, s.ask_distance, s.bid_distance, market);
}
const random = generator(1), drawn = Array.from({ length: 20000 }, () => drawStep(random));
console.log(JSON.stringify({ rows, value: desk.value, position: desk.position, drawn }));
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict], float]:
    """What JavaScript made of an episode, what Python did in it, and what was earned."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the page is tested by node, which is not installed")
    spec = importlib.util.spec_from_file_location("play", PAGE.parent / "hooks" / "play.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    pytest.importorskip("mkdocs")
    spec.loader.exec_module(hook)
    task = find_task(hook.TASK)
    config, policy = task.config(), load(bundle_of(task)).policy()
    envs = NeuralMMVectorEnv(1, config=config, autoreset_mode="Disabled")
    observation, _ = envs.reset(seed=3)
    memory, steps, value = policy.reset(1), [], 0.0
    for _ in range(config.horizon):
        action, memory = policy.act(observation, memory)
        row = {"observation": observation[0].tolist(), "action": action[0].tolist()}
        row["quotes"] = [float(side[0]) for side in config.quote.to_distances(action)]
        observation, reward, *_ = envs.step(action)
        value += float(reward[0])
        scale = config.market.price_scale
        row |= {
            name: float(envs._desk.get(name)[0]) / (1 if name.endswith(("fill", "lots")) else scale)
            for name in FIELDS
        }
        steps.append(row)
    script = tmp_path_factory.mktemp("play") / "check.mjs"
    shutil.copy(PAGE / "market.js", script.parent)
    script.write_text(SCRIPT)
    (script.parent / "package.json").write_text('{"type": "module"}')
    given = json.dumps({"policy": hook.contents(), "steps": steps})
    out = subprocess.run([node, script], input=given, capture_output=True, text=True, check=True)
    return json.loads(out.stdout), steps, value


def test_the_desk_in_the_browser_observes_and_earns_what_ours_does(played):
    found, steps, value = played
    for ours, theirs in zip(steps, found["rows"], strict=True):
        assert theirs["observation"] == pytest.approx(ours["observation"], abs=2e-3)
        assert theirs["action"] == pytest.approx(ours["action"], abs=2e-3)
        assert theirs["quotes"] == pytest.approx(ours["quotes"], abs=2e-2)
    assert sum(step["ask_fill"] + step["bid_fill"] for step in steps) > 20
    assert found["value"] == pytest.approx(value, abs=0.05)


def test_the_market_in_the_browser_has_our_distribution(played):
    """Chance and reach of orders, deviation of the mid: within five errors of 20,000 steps."""
    market = find_task("brownian").config().market
    drawn = {name: np.array([step[name] for step in played[0]["drawn"]]) for name in ("buy", "sell", "move")}
    count = len(drawn["move"])
    chance = -np.expm1(-market.arrival_rate * market.step_seconds)
    for side in ("buy", "sell"):
        reach = drawn[side][drawn[side] >= 0]
        assert len(reach) / count == pytest.approx(chance, abs=5 * (chance * (1 - chance) / count) ** 0.5)
        assert reach.mean() == pytest.approx(
            1 / market.fill_decay, abs=5 / market.fill_decay / len(reach) ** 0.5
        )
    assert drawn["move"].std() == pytest.approx(market.volatility, rel=5 / (2 * count) ** 0.5)
    assert drawn["move"].mean() == pytest.approx(0, abs=5 * market.volatility / count**0.5)
