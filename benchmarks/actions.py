"""What a step costs under each action, as a ratio to spread and skew, and the picture of what they are worth.

python -m benchmarks.actions [picture.png]
python -m benchmarks.actions --book        the same costs on book
python -m benchmarks.actions --taking      what a market order is worth to a rule on nasdaq-msft
"""

from __future__ import annotations

import sys
import time

import numpy as np
from matplotlib.figure import Figure

from mmenv import make_config
from mmenv.desk.desk import Desk
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


BEHIND = (0, 1, 2)
"""Ticks behind the touch at which the rule quotes."""
SHED_AT = (3, 5, 7, 9)
"""Lots held from which it sheds one by a market order."""
EPISODES = 512
"""Half of them choose the rule, the others judge it."""


def values(behind: int, shed_at: int, taker_fee_bp: float) -> np.ndarray:
    """Value of each episode on nasdaq-msft, (EPISODES,), of quotes so many ticks behind the touch; with a
    market order of one lot at each decision at which as many lots are held, 0: never."""
    quote = {
        "name": "taker", "taker_fee_bp": taker_fee_bp,
        "max_half_spread": 8.0, "max_skew": 8.0, "max_distance": 7.0,
    }  # fmt: skip
    config = make_config({"name": "book", "preset": "nasdaq-msft"}, quote=quote)
    desk = Desk(config, EPISODES, autoreset=False)
    desk.seed(range(EPISODES))
    desk.reset()
    total, unit = np.zeros(EPISODES), config.market.price_scale
    for _ in range(config.horizon):
        away = (desk.get("spread") / 2 + 2 * behind) / unit
        held = desk.get("position")
        sheds = np.abs(held) >= shed_at if shed_at else np.zeros(EPISODES, bool)
        lots = np.where(sheds, -np.sign(held), 0)
        total += desk.step(config.quote.to_action(away, away, lots)).rewards
    return total


def taking(fee_bp: float) -> str:
    """What market orders add to the best of these rules: chosen on some paths, compared on the others."""
    chosen, judged = slice(None, None, 2), slice(1, None, 2)
    plain = {(behind, 0): values(behind, 0, fee_bp) for behind in BEHIND}
    shed = {(b, at): values(b, at, fee_bp) for b in BEHIND for at in SHED_AT}
    best, rule = (max(some, key=lambda key: float(some[key][chosen].mean())) for some in (plain, shed))
    more = shed[rule][judged] - plain[best][judged]
    error = 1.96 * more.std() / np.sqrt(len(more))
    low, high = more.mean() - error, more.mean() + error
    return (
        f"taker fee {fee_bp:g} bp: quotes {best[0]} ticks behind earn {plain[best][judged].mean():.2f}; "
        f"the best that shed, {rule[0]} behind, from {rule[1]} lots on, earn {more.mean():+.2f} "
        f"[{low:.2f}, {high:.2f}] beside them"
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--taking"]:
        for fee in (0.0, 1.0):
            print(taking(fee), flush=True)
        raise SystemExit
    on_book = sys.argv[1:] == ["--book"]
    if len(sys.argv) > 1 and not on_book:
        picture().savefig(sys.argv[1], dpi=100)
    for action, ratio in costs("book" if on_book else "brownian").items():
        print(f"{action}: {ratio:.2f} of the time of spread and skew")
