"""Secrets, planted, come up nowhere."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ccxt")

import ccxt
from rich.console import Console

from mmenv.exchange import loopback
from mmenv.live.redact import hide, redact
from mmenv.live.screen import Screen
from mmenv.live.venues.base import Credentials
from tests.helpers import desks
from tests.helpers.desks import Runs
from tests.helpers.exchanges import tape

PLANTED = ("planted-key-5e1f", "planted-secret-77ab")


@pytest.mark.parametrize("venue", ["binance-usdm", "binance-spot"])
def test_what_is_planted_comes_up_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, capfd: Any, venue: str
) -> None:
    """Every fifth request fails with an error that names address and headers; the user stream breaks."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(desks, "KEY", Credentials(*PLANTED))
    monkeypatch.setattr(loopback, "ADDRESS", "http://exchange")
    sent: list[str] = []
    fetch = loopback._LoopbackClient.fetch

    async def failing(self: Any, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        sent.append(url)
        self.logger.debug("%s %s, Request: %s %s", method, url, headers, body)
        if len(sent) > 12 and len(sent) % 5 == 0:
            raise ccxt.RequestTimeout(f"binance {method} {url} {headers} {body}")
        return await fetch(self, url, method, headers, body)

    monkeypatch.setattr(loopback._LoopbackClient, "fetch", failing)
    runs = Runs(tape(tmp_path, venue), tmp_path, venue)
    keys: list[str] = []

    def lose(desk: Any) -> None:
        keys.append(runs.account.listen_key)
        runs.exchange.connections.cut()
        desk.command("error", f"somebody wrote secret={PLANTED[1]} into an error")

    runs((8.0, 5.0), acts=[(5.0, lose)])
    journals = b"".join(path.read_bytes() for path in tmp_path.glob("*.journal*"))
    console = Console(record=True, width=300)
    console.print(Screen(runs.desks).draw())
    errors = ["".join(traceback.format_exception(error)) for error in runs.errors]
    shown = [*(m for d in runs.desks for m in d.messages), *errors, caplog.text, *capfd.readouterr()]
    text = journals.decode(errors="replace") + "\n".join([*shown, console.export_text()])
    signatures = [url.rpartition("signature=")[2] for url in sent if "signature=" in url]
    assert len(signatures) > 20
    assert "RequestTimeout" in text or "binance POST" in text
    for secret in (*PLANTED, *filter(None, keys), *signatures):
        assert secret not in text


def test_what_is_signed_is_hidden() -> None:
    hide("kqvz1234")
    said = "GET /x?a=1&signature=abc123&b=2 {'X-MBX-APIKEY': 'zzz', 'n': 1} wss://h/ws/kqvz1234 apiKey: 'yy'"
    assert redact(said) == (
        "GET /x?a=1&signature=***&b=2 {'X-MBX-APIKEY': '***', 'n': 1} wss://h/ws/*** apiKey: '***'"
    )
    assert redact("an order of 5 lots at 6000") == "an order of 5 lots at 6000"
