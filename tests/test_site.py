"""`benchmarks.site` finds what is wrong with a page, and nothing where nothing is."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.site import BROWSERS, Options, main

PAGES = {
    "good": "<div style='width:300px;overflow:auto'><p style='width:900px'>a wide table</p></div>",
    "broken": "<script>nowhere()</script>",
    "lacking": "<img src='/none.png'>",
    "wide": "<p style='width:700px'>for a desk</p>",
}


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium is installed")
def test_faults_of_a_page_are_found(tmp_path, capsys):
    for name, body in PAGES.items():
        (tmp_path / name).mkdir()
        text = f"<!doctype html><title>{name}</title><main>{body}</main>"
        (tmp_path / name / "index.html").write_text(text)
    assert main(Options(tmp_path)) == 3
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines()[:-1])
    assert told["good"] == "in order"
    assert "nowhere is not defined" in told["broken"]
    assert told["lacking"] == "/none.png is not there"
    assert told["wide"].startswith("at 390 pixels it needs 7")
    assert "p for a desk" in told["wide"]
