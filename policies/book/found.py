"""What was found on training paths, and how it is kept in a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.book.play import Rule
from policies.book.programme import Filter, Programme
from policies.book.rules import FAMILIES
from policies.book.several import ONE, Several
from policies.book.sizing import Sized


@dataclass(frozen=True)
class Found:
    """What was found on the training paths."""

    rules: dict[str, tuple[float, ...]]
    """The best parameters of each of `FAMILIES`."""
    filter: Filter
    programme: Programme
    told: Programme
    penalty: np.ndarray
    """Coefficients of the bound's penalty, (SEEN, PLACED) of `policies.book.penalty`: fitted, or none where
    these make the bound tighter on other training paths."""
    taking: Rule | None = None
    told_taking: Rule | None = None
    """By which the programmes send market orders, where the action has them."""
    all_lots: Sized | None = None
    sized: Sized | None = None
    told_sized: Sized | None = None
    """How the programmes play several lots, where the action has them: all of them always, and as is best."""


def pack(found: Found) -> dict[str, np.ndarray]:
    filtered = found.filter
    packed = {
        "weights": filtered.weights,
        "gaps": filtered.gaps,
        "filter": np.array([filtered.queue, filtered.long, filtered.trend, filtered.seconds]),
        "penalty": found.penalty,
    }
    for name, rule in (("taking", found.taking), ("told-taking", found.told_taking)):
        packed |= {name: np.array(rule)} if rule else {}
    for name in ("all_lots", "sized", "told_sized"):
        sized = getattr(found, name)
        packed |= {name: np.array((*sized.several, sized.scale))} if sized else {}
    for name, programme in (("programme", found.programme), ("told", found.told)):
        packed |= {f"{name}-table": programme.table, f"{name}-values": programme.values}
        packed[f"{name}-scale"] = np.array(programme.scale)
    return packed | {f"rule:{name}": np.array(given) for name, given in found.rules.items()}


def unpack(kept: dict[str, np.ndarray]) -> Found:
    queue, long, trend, seconds = kept["filter"].tolist()
    programme, told = (
        Programme(kept[f"{name}-table"], float(kept[f"{name}-scale"]), kept[f"{name}-values"])
        for name in ("programme", "told")
    )
    rules = {name: tuple(kept[f"rule:{name}"].tolist()) for name in FAMILIES}
    filtered = Filter(queue, long, kept["weights"], kept["gaps"], trend, seconds)
    taking = [Rule(*kept[name].tolist()) if name in kept else None for name in ("taking", "told-taking")]
    sized = [_sized(kept[name]) if name in kept else None for name in ("all_lots", "sized", "told_sized")]
    (rule, told_rule), (every, best, told_best) = taking, sized
    return Found(rules, filtered, programme, told, kept["penalty"], rule, told_rule, every, best, told_best)


def _sized(numbers: np.ndarray) -> Sized:
    *several, scale = numbers.tolist()
    whole = (int(x) if type(like) is int else x for x, like in zip(several, ONE, strict=True))
    return Sized(Several(*whole), scale)
