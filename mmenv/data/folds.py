"""Walk-forward splits of a store by day: train on some days, pass over some, test on the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmenv.data.tape import TapeError


@dataclass(frozen=True)
class Fold:
    """Days of one split, each a range as `--day` and a market's `day` take it."""

    train: str
    test: str


def walk_forward(
    days: Sequence[str], train: int, test: int, purge: int, expanding: bool = False
) -> list[Fold]:
    """Folds whose tests follow one another and lie after all that their training has seen.

    Parameters
    ----------
    days
        Recorded days in order, such as 2024-08-08.
    train, test
        Days of each part; of the first training where it is `expanding`: later ones begin with the same day.
    purge
        Days left out between the two, in which positions, orders and slow quantities of the training run out
        (Lopez de Prado 2018, chapter 7).

    Raises
    ------
    TapeError
        There are not enough days for one fold.
    """
    least = train + purge + test
    if min(train, test) < 1 or purge < 0:
        raise TapeError(f"train {train}, test {test}, purge {purge}: give at least 1, 1 and 0 days")
    if len(days) < least:
        raise TapeError(
            f"train = {train}, purge = {purge} and test = {test} need {least} days, and there are "
            f"{len(days)}: give fewer, or import more"
        )
    folds = []
    for begin in range(0, len(days) - least + 1, test):
        tested = days[begin + train + purge : begin + least]
        trained = days[0 if expanding else begin : begin + train]
        folds.append(Fold(f"{trained[0]}..{trained[-1]}", f"{tested[0]}..{tested[-1]}"))
    return folds
