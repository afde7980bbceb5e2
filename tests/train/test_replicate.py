"""Tables of papers, computed here beside the paper's own."""

from __future__ import annotations

import numpy as np
import pytest

from train.replicate import PAPER, environment, glft2013, own_scheme


@pytest.mark.parametrize("gamma", PAPER)
@pytest.mark.parametrize("symmetric", [False, True])
def test_avellaneda_and_stoikov_tables(gamma, symmetric):
    """The paper's scheme, run here, gives the paper's figures, and so do our environment and policy; but not
    where quotes would cross the mid, which only the scheme lets them."""
    count = 1000
    paper, scheme = np.array(PAPER[gamma][symmetric]), own_scheme(gamma, symmetric, count)
    crosses = gamma == 1.0 and not symmetric
    for found in (scheme,) if crosses else (scheme, environment(gamma, symmetric, count)):
        errors = (found[2] ** 2 / count + paper[2] ** 2 / count) ** 0.5  # of the difference of two means
        assert found[0] == pytest.approx(paper[0], abs=0.015)
        assert found[1] == pytest.approx(paper[1], abs=3 * errors)
        assert found[[2, 4]] == pytest.approx(paper[[2, 4]], rel=0.15)


def test_closed_form_quotes_are_close_where_inventory_is_small():
    sheet = glft2013()
    apart = dict(zip(sheet.columns["inventory"], map(float, sheet.columns["apart"]), strict=True))
    assert max(abs(apart[q]) for q in ("-5", "-2", "0", "2", "5")) <= 0.001
    assert abs(apart["20"]) > abs(apart["5"])
