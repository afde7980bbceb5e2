"""Orders of a ladder as they are shown: each with its price, its lots and its place, in every market."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

from mmenv import make_config
from mmenv.data.importer import Import
from mmenv.desk.desk import Desk
from mmenv.desk.levels import ASK, DISTANCE, LOTS, NO_PLACE, PLACE, QuotedLevels
from mmenv.env import NeuralMMEnv
from mmenv.observation import observation_features, observation_names
from mmenv.step.levels import AGE, AHEAD, LEFT, PRICE
from tests.helpers.captures import market, write

N, LEVELS = 3, 3
SIDES = ("ask", "bid")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    path = write(folder / "capture.gz", market(seconds=45, seed=3).lines)
    Import("binance", (path,), folder / "store", progress=False).run()
    return str(folder / "store")


def settings(name: str, store: str, levels: int = LEVELS) -> dict:
    """A market with a ladder of up to 6 lots a side."""
    replay = {"name": "replay", "store": store, "split": "all", "engine": "matcher"}
    return {
        "market": replay if name == "replay" else name,
        "quote": {"name": "ladder", "levels": levels},
        "risk": {"order_lots": 6, "position_limit": 8},
        "horizon": 100,
    }


def near(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Actions whose levels lie near the touch, some at one price."""
    actions = random.uniform(-1, 1, (*shape, 6)).astype(np.float32)
    actions[..., 0] = random.choice([-1.0, -0.95, -0.8], shape)
    actions[..., 1] = random.choice([0.0, 0.02], shape)
    actions[..., 2:4] = random.choice([-1.0, -0.97, -0.9], (*shape, 2))
    return actions


def started(name, store, **more):
    """A desk of N environments after their reset."""
    if name == "replay":
        pytest.importorskip("hftbacktest")
    desk = Desk(make_config(**settings(name, store) | more), N, autoreset=False)
    desk.seed(range(N))
    desk.reset()
    return desk


@pytest.mark.parametrize("name", ["brownian", "book", "replay"])
def test_each_order_is_what_was_asked_for(name, store):
    """Nearest first, all lots of the side, the nearest where the core has it; on a tape what was sent."""
    n, seen, random = N, 0, np.random.default_rng(0)
    desk = started(name, store)
    orders = QuotedLevels(desk)
    for _ in range(99):
        desk.step(near(random, n))
        found = orders.read()
        decided = desk.get("mid") - desk.get("move")
        for at, side in enumerate(SIDES):
            distance, lots = found[:, at, :, DISTANCE], found[:, at, :, LOTS]
            asked = desk.get(f"{side}_lots")
            assert (lots.sum(axis=1) == asked).all()
            nearest = desk.stages.ladder["before"][0, 1, :n] > 0  # the nearest level has lots
            gap = distance[:, 0] - desk.get(f"{side}_distance")
            assert (gap[nearest & (asked > 0)] == 0).all()
            assert (gap[asked > 0] >= 0).all()
            further = lots[:, 1:] > 0
            assert (np.diff(distance)[further] > 0).all()
            assert (lots[:, :-1][further] > 0).all()
            seen += int(further.sum())
            if name == "replay":
                sent = desk.external.quotes.reshape(n, 2, LEVELS, 2)[:, at]
                price = decided[:, None] + (1 if at == ASK else -1) * distance
                assert (lots == sent[..., 1]).all()
                assert (price == 2 * sent[..., 0])[lots > 0].all()
    assert seen > 100
    desk.close()


@pytest.mark.parametrize("name", ["brownian", "book", "replay"])
def test_places_are_those_of_the_orders_that_stand(name, store):
    """The nearest order's is the core's where it stands; others have theirs, without a book none has."""
    n, nearest, further, random = N, 0, 0, np.random.default_rng(1)
    desk = started(name, store)
    orders = QuotedLevels(desk)
    for _ in range(99):
        desk.step(near(random, n))
        found, decided = orders.read(), desk.get("mid") - desk.get("move")
        for at, side in enumerate(SIDES):
            price = decided + (1 if at == ASK else -1) * found[:, at, 0, DISTANCE]
            here = (desk.get(f"own_{side}_lots") > 0) & (desk.get(f"own_{side}") == price)
            here &= found[:, at, 0, LOTS] > 0
            place = found[:, at, :, PLACE]
            assert (place[:, 0] == desk.get(f"own_{side}_ahead"))[here].all()
            assert (place[found[:, at, :, LOTS] == 0] == NO_PLACE).all()
            nearest += int(here.sum())
            further += int((place[:, 1:] > 0).sum())
    assert (nearest > 100) == (further > 100) == (name != "brownian")
    desk.close()


@pytest.mark.parametrize("name", ["brownian", "book", "replay"])
def test_a_policy_sees_every_order_that_is_left(name, store):
    """From the nearest on: price, lots, place and age, recounted from the market's own record. One order a
    side is shown as ever; at the start of an episode, and where there are no queues, there is none."""
    features = ("inventory", "orders", "queues")
    desk = started(name, store, features=features)
    one = make_config(**settings(name, store, levels=1) | {"features": features})
    plain = make_config(**settings(name, store) | {"quote": {}, "features": features})
    assert observation_features(one) == observation_features(plain)
    names, first = observation_names(desk.config), observation_names(one)
    at = names.index("ask_order_distance")
    assert [*first[: at + 8], *first[at + 8 :]] == [*names[: at + 8], *names[at + 8 * LEVELS :]]
    assert names[at + 12 : at + 16] == tuple(f"bid_2_order_{what}" for what in SHOWN)
    entries = slice(at, at + 8 * LEVELS)
    assert not desk.reset()[:, entries].any()
    random, stood, seen = np.random.default_rng(3), [{} for _ in range(2 * N)], 0
    for step in range(1, 100):
        out = desk.step(near(random, N))
        shown = out.observations[:, entries].reshape(N, LEVELS, 2, 4)
        assert ((shown >= -10) & (shown <= 10)).all()
        mid, half = (desk.get(name).astype(int) for name in ("mid", "spread"))
        orders = own_orders(desk, name)
        for lane, (at_side, side) in itertools.product(range(N), enumerate(SIDES)):
            before, direction = stood[2 * lane + at_side], 1 - 2 * at_side
            left = [order for order in orders[lane][at_side] if order[1] > 0]
            assert len({price for price, *_ in left}) == len(left)
            # Dearer asks stand further away, and cheaper bids.
            left.sort(key=lambda order: direction * order[0])
            now = {}
            for k in range(LEVELS):
                found = shown[lane, k, at_side]
                if k >= len(left):
                    assert not found.any()
                    continue
                price, lots, ahead, *age = left[k]
                now[price] = age[0] if age else before.get(price, -1) + 1
                touch, queue = mid[lane] + direction * half[lane] // 2, desk.get(f"best_{side}_lots")[lane]
                expected = [
                    np.clip(direction * (price - touch) / 2, -10, 10), lots / 6,
                    min(ahead / max(queue, 1), 10), min(now[price] / 100, 10),
                ]  # fmt: skip
                assert found.tolist() == pytest.approx(expected, rel=1e-6)
                seen += k > 0
            stood[2 * lane + at_side] = now
        assert step < 99 or (seen > 100) == (name != "brownian")
    desk.close()


SHOWN = ("distance", "lots", "ahead", "age")


def own_orders(desk, name):
    """By environment and side, (price in half-ticks, lots left, lots ahead) of each, and on tapes its age."""
    if name == "brownian":
        return np.zeros((N, 2, 0, 3), int)
    if name == "book":
        own = desk.stages.market[1].own
        parts = [2 * own["price"], own["left"], own["ahead"]]
        return np.stack([part[0, :, :LEVELS, :N] for part in parts], axis=-1).transpose(2, 0, 1, 3)
    orders = desk.stages.levels[1]["orders"][0, :, :, :LEVELS, :N]
    return orders[[PRICE, LEFT, AHEAD, AGE]].transpose(3, 1, 2, 0)


def test_one_order_a_side_has_no_levels():
    desk = Desk(make_config("brownian"), 1, autoreset=False)
    with pytest.raises(ValueError, match=r"'spread-skew' has one order a side"):
        QuotedLevels(desk)


def test_pictures_and_texts_show_every_order(store):
    """Lines, lots at their end and the text are of the orders that the desk had, decision by decision."""
    env = NeuralMMEnv(**settings("book", store), render_mode="rgb_array")
    env.reset(seed=3)
    random, known = np.random.default_rng(2), []
    orders = QuotedLevels(env._desk)
    for _ in range(60):
        mid = env._desk.get("mid")[0]
        env.step(near(random))
        known.append((mid, orders.read()[0].copy()))
    seen, unit = env._screen.history.of(0), env.config.market.price_scale
    env.render()
    picture, text = env._screen._pictures[0], env._screen.text(0)
    for at, side in enumerate(SIDES):
        sign = 1 if at == ASK else -1
        for k in range(LEVELS):
            name = f"{side}_{k + 1}"
            lots = np.array([order[at, k, LOTS] for _, order in known])
            price = np.array([(mid + sign * order[at, k, DISTANCE]) / unit for mid, order in known])
            price[lots == 0] = np.nan
            assert seen[name][1:].tolist() == pytest.approx(price.tolist(), nan_ok=True)
            assert np.nan_to_num(seen[f"{name}_lots"][1:]).tolist() == lots.tolist()
            if k:
                drawn = picture._outer[name].get_ydata() + seen["mid"][0]
                assert drawn[1:] == pytest.approx(price, nan_ok=True)
            assert picture._lots[name].get_text() == (str(lots[-1]) if lots[-1] else "")
            if lots[-1]:
                assert f"{price[-1]:.2f} x {lots[-1]}" in text
            ahead = known[-1][1][at, k, PLACE]
            assert ahead < 0 or f"x {lots[-1]} behind {ahead}" in text
    assert np.isfinite(seen["ask_2"]).sum() > 20
    twin = copy.deepcopy(env)
    for action in near(random, 10):
        for one in (env, twin):
            one.step(action)
    assert np.array_equal(env.render(), twin.render())


def test_pictures_of_one_level_are_those_of_spread_and_skew():
    frames = []
    for quote in ({"name": "spread-skew"}, {"name": "ladder", "levels": 1}):
        env = NeuralMMEnv("book", quote=quote, horizon=30, render_mode="rgb_array")
        env.reset(seed=3)
        for action in near(np.random.default_rng(0), 30):
            env.step(action[: len(env.config.quote.entries)])
        frames.append((env.render().tobytes(), env._screen.text(0)))
    assert frames[0] == frames[1]
