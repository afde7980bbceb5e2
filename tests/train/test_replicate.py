"""Tables of papers, computed here beside the paper's own."""

from __future__ import annotations

import numpy as np
import pytest

from train.replicate import PAPER, environment, glft2013, own_scheme


@pytest.mark.parametrize("gamma", [0.1, 0.01])
@pytest.mark.parametrize("symmetric", [False, True])
def test_avellaneda_and_stoikov_tables_1_and_2(gamma, symmetric):
    """Our environment and policy against the paper's scheme, within their errors; the paper's own figures
    within those and the 3% by which its profits are lower."""
    count = 1000
    scheme, ours = (make(gamma, symmetric, count) for make in (own_scheme, environment))
    error = scheme[2] / count**0.5
    assert ours[0] == pytest.approx(scheme[0], abs=0.01)
    assert ours[1] == pytest.approx(scheme[1], abs=4 * error)
    assert ours[[2, 4]] == pytest.approx(scheme[[2, 4]], rel=0.1)
    paper = np.array(PAPER[gamma][symmetric])
    assert ours[0] == pytest.approx(paper[0], abs=0.01)
    assert ours[1] == pytest.approx(paper[1], rel=0.035, abs=4 * error)
    assert ours[[2, 4]] == pytest.approx(paper[[2, 4]], rel=0.15)


def test_closed_form_quotes_are_close_where_inventory_is_small():
    sheet = glft2013()
    apart = dict(zip(sheet.columns["inventory"], map(float, sheet.columns["apart"]), strict=True))
    assert max(abs(apart[q]) for q in ("-5", "-2", "0", "2", "5")) <= 0.001
    assert abs(apart["20"]) > abs(apart["5"])
