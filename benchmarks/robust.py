"""What training on a family can come to, exactly: fixed, random and adversarial choice of the member.

`python -m benchmarks.robust [--drift 0.1]`. The family and the held-out members are those of
`neuralmm population brownian`. Every policy is the best of all that see time and position and are not told
the member (`policies.solver.blind_family`), so where a learner without memory arrives when it has converged:
for the nominal market; for members that are drawn, by what they are worth or by the percentage of their
optimum; and against an adversary who chooses the member, by the same. With a drift he may also move the mid
against whoever holds a position. Each cell is a percentage of the exact optimum of that member.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console
from tqdm import tqdm

from mmenv.config import EnvConfig, make_config
from mmenv.desk.family import even_points, member
from mmenv.market.varied import distributions
from mmenv.sheet import Sheet
from policies.solver.blind_family import BlindFamily, Quotes, Round
from train.experiments.members import able
from train.options.experiments import Population

DECIDES = ("arrival_rate", "fill_decay")
"""Parameters that change what is best; the volatility changes no mean."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the best policies that are not told the member make of held-out members of `brownian`."""

    drift: float = 0.0
    """The most that the adversary moves the mid against a position, price units a second; members with half
    of it and without any are in the family too."""
    members: int = 32
    """Rates and decays in the family."""
    rounds: int = 100
    """Of the game against the adversary."""


@dataclass(frozen=True)
class Member:
    """A market of the family."""

    values: Mapping[str, float]
    drift: float

    def config(self) -> EnvConfig:
        nominal = make_config("brownian")
        return member(able(nominal, [self.values]), self.values)

    @property
    def name(self) -> str:
        told = {**self.values, **({"drift": self.drift} if self.drift else {})}
        return ", ".join(f"{name} {value:g}" for name, value in told.items())


def family_of(members: list[Member]) -> BlindFamily:
    return BlindFamily([each.config() for each in members], [each.drift for each in members])


def optima(members: list[Member]) -> np.ndarray:
    """Exact value of each member to who is told it, (members,)."""
    return np.array([family_of([each]).best(np.ones(1))[1][0] for each in members])


def read(options: Options) -> tuple[list[Member], list[Member]]:
    """The family, and the held-out members."""
    content = tomllib.loads((Population.known / "brownian.toml").read_text())
    drawn = [d for d in distributions(content["variants"]["family"]["randomise"]) if d.name in DECIDES]
    drifts = np.unique([0.0, options.drift / 2, options.drift])
    family = [
        Member({d.name: d.draw(float(u)) for d, u in zip(drawn, point, strict=True)}, float(drift))
        for point in even_points(options.members, len(drawn))
        for drift in drifts
    ]
    held_out = [
        Member({k: v for k, v in values.items() if k in DECIDES}, drift)
        for drift in dict.fromkeys((0.0, options.drift))
        for values in content["members"]["final"]
    ]
    return family, held_out


def told(rounds: list[Round], members: list[Member]) -> str:
    """How the game went."""
    weights = np.mean([one.weights for one in rounds], axis=0)
    mixed = np.mean([one.scores for one in rounds], axis=0).min()
    pure, bound = max(one.least for one in rounds), min(one.expected for one in rounds)
    choices = "; ".join(f"{members[k].name} ({weights[k]:.0%})" for k in np.argsort(-weights)[:3])
    return (
        f"quotes that score {pure:.3f} in the worst member; {mixed:.3f} where each episode draws those of a "
        f"round; no policy more than {bound:.3f}. The adversary chooses {choices}."
    )


def main(options: Options) -> None:
    """Print the table."""
    members, held_out = read(options)
    family, own, out = family_of(members), optima(members), optima(held_out)
    even = np.full(len(members), 1 / len(members))
    found: dict[str, Quotes] = {"nominal": family_of([Member({}, 0.0)]).best(np.ones(1))[0]}
    found["drawn,\nby value"] = family.best(even)[0]
    found["drawn,\nby percent"] = family.best(even / own)[0]
    notes = []
    with tqdm(total=2 * options.rounds, unit=" rounds", leave=False) as bar:
        for by, scale in (("value", np.full(len(members), own.mean())), ("percent", own)):
            rounds = family.play(options.rounds, scale, progress=bar.update)
            found[f"adversary,\nby {by}"] = max(rounds, key=lambda one: one.least).quotes
            notes.append(f"Adversary by {by}: {told(rounds, members)}")
    judged = {name: 100 * family_of(held_out).values(quotes) / out for name, quotes in found.items()}
    inside = {name: family.values(quotes) for name, quotes in found.items()}
    columns = {"member": [each.name.replace(", ", ",\n") for each in held_out] + ["worst", "mean"]}
    columns["member"] += ["family: value", "family: percent", "family: worst"]
    for name in found:
        scores, percents = judged[name], 100 * inside[name] / own
        numbers = [*scores, scores.min(), scores.mean()]
        columns[name] = [f"{x:.1f}" for x in (*numbers, inside[name].mean(), percents.mean(), percents.min())]
    legend = [f"Percent of the exact optimum of each member. {len(members)} members in the family.", *notes]
    Sheet("brownian: policies that are not told the member", columns, legend).print(Console())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
