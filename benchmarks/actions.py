"""What a step costs under each action, as a ratio to spread and skew, and the picture of what they are worth.

python -m benchmarks.actions [picture.png]
python -m benchmarks.actions --book        the same costs on book
python -m benchmarks.actions --ladder picture.png     an episode of a ladder on book as it is drawn
"""

from __future__ import annotations

import sys
import time

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave

from mmenv import make_config
from mmenv.env import NeuralMMEnv
from mmenv.vector import NeuralMMVectorEnv
from policies.solver.orders import Orders, OrdersRecursion

ENVIRONMENTS, STEPS, ROUNDS = 1024, 100, 7
ACTIONS = {
    "spread-skew": {},
    "taker": {"quote": {"name": "taker"}},
    "size": {"quote": {"name": "size"}, "risk": {"order_lots": 3}},
    "ladder of 3": {"quote": {"name": "ladder", "levels": 3}, "risk": {"order_lots": 3}},
}
HALF_SPREADS = np.linspace(0, 1, 11)


def costs(market: str) -> dict[str, float]:
    """Time of a step of `ENVIRONMENTS` over that of spread and skew: the median of rounds in which all take
    turns."""
    envs = {
        name: NeuralMMVectorEnv(ENVIRONMENTS, market=market, num_threads=1, **settings)
        for name, settings in ACTIONS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in envs}
    for one in envs.values():
        one.reset(seed=0)
    for _ in range(ROUNDS):
        for name, one in envs.items():
            width = one.single_action_space.shape[0]
            actions = np.random.default_rng(0).uniform(-1, 1, (ENVIRONMENTS, width)).astype(np.float32)
            started = time.perf_counter()
            for _ in range(STEPS):
                one.step(actions)
            times[name].append(time.perf_counter() - started)
    plain = np.array(times["spread-skew"])
    return {name: float(np.median(np.array(found) / plain)) for name, found in times.items()}


def picture() -> Figure:
    """What a market order is worth by what it pays, and when the optimum sends one."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    worth, orders = figure.subplots(1, 2)
    limit = make_config("brownian").risk.position_limit

    def best(taker_lots: int, cost: float) -> tuple[np.ndarray, float]:
        found, values = OrdersRecursion.of(
            make_config("brownian"), Orders(((1,),), taker_lots, cost)
        ).optimise()
        return found.taker[0], values[limit]

    plain = best(0, 0.0)[1]
    for lots in (1, 2):
        worth.plot(
            HALF_SPREADS, [100 * (best(lots, c)[1] / plain - 1) for c in HALF_SPREADS], label=f"{lots}"
        )
    worth.set(xlabel="half-spread paid, price units", ylabel="value over spread and skew, %")
    worth.legend(title="most lots")
    for cost in (0.0, 0.25, 0.5):
        orders.step(np.arange(-limit, limit + 1), best(2, cost)[0], where="mid", label=f"pays {cost:g}")
    orders.set(xlabel="inventory, lots", ylabel="market order of the optimum, lots")
    orders.legend()
    return figure


def episode() -> np.ndarray:
    """An episode of three orders a side on `book`, uint8 (600, 800, 3): the nearest at the touch, a tick
    further out for every three lots held, new every tenth decision."""
    env = NeuralMMEnv(
        "book",
        quote={"name": "ladder", "levels": 3, "max_distance": 8.0},
        risk={"order_lots": 6, "position_limit": 20},
        horizon=120,
        render_mode="rgb_array",
    )
    env.reset(seed=5)
    action, position = np.zeros(0, np.float32), 0.0
    for t in range(env.config.horizon):
        if t % 10 == 0:
            lean = position / 3
            near, far = 0.5 + max(-lean, 0.0), 0.5 + max(lean, 0.0)
            action = env.config.quote.to_action(near, far, 2.0, 2.0, 1.0, 1.0)
        position = env.step(action)[4]["ledger"]["position"]
    frame: np.ndarray = env.render()
    return frame


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ladder"]:
        imsave(sys.argv[2], episode())
        raise SystemExit
    on_book = sys.argv[1:] == ["--book"]
    if len(sys.argv) > 1 and not on_book:
        picture().savefig(sys.argv[1], dpi=100)
    for action, ratio in costs("book" if on_book else "brownian").items():
        print(f"{action}: {ratio:.2f} of the time of spread and skew")
