"""Tables of numbers by key do what dictionaries do, however their keys collide and come and go."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.data import table

# Few slots, so that keys meet; and the ends of what a key may be.
keys = st.one_of(st.integers(0, 400), st.sampled_from([2**63 - 1, -(2**63) + 1, 2**62 + 7]))
steps = st.lists(st.tuples(st.sampled_from(["put", "put", "remove", "add", "clear"]), keys, st.integers()))


@settings(deadline=None, max_examples=200)
@given(steps.filter(lambda found: [step[0] for step in found].count("clear") < 3), st.integers(0, 900))
def test_a_table_is_a_dictionary(found: list[tuple[str, int, int]], more: int) -> None:
    rows, known = table.empty(2), dict[int, tuple[int, int]]()
    for step, key, value in [*found, *(("put", 7 * key, key) for key in range(more)), *found]:
        value %= 1 << 40
        if table.full(rows):
            rows = table.larger(rows)
        at = table.find(rows, key)
        assert (at >= 0) == (key in known)
        if step == "put":
            at = table.put(rows, key)
            rows[at, 1:] = value, value + 1
            known[key] = value, value + 1
        elif step == "add":
            at = table.add_to(rows, key, value)
            before = known.get(key, (0, int(rows[at, 2])))
            known[key] = before[0] + value, before[1]
        elif step == "remove" and at >= 0:
            table.remove(rows, at)
            del known[key]
        elif step == "clear":
            table.clear(rows)
            known.clear()
    assert {int(key): (int(one), int(two)) for key, one, two in table.rows(rows)} == known
    assert rows[-1, 0] == len(known)
