"""Venues by name: those that are there, those of others, and what is none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("ccxt")

from mmenv.checks import ConfigError
from mmenv.live.orders import VenueError
from mmenv.live.recorder import Record
from mmenv.live.rerun import check, decisions
from mmenv.live.venues.base import VENUES
from mmenv.registry import PluginError
from tests.helpers.bazaar import Bazaar
from tests.helpers.exchanges import VENUES as NAMES
from tests.helpers.exchanges import tape
from train.live import paper_desks
from train.options.desks import Paper


def test_binances_markets_are_venues() -> None:
    assert set(NAMES) <= set(VENUES)
    for name in NAMES:
        assert VENUES.find(name).name == name


def test_a_desk_trades_at_a_venue_of_ones_own(tmp_path: Path) -> None:
    """Found as "module:name", without an edit anywhere else; its own name is the journal's."""
    Bazaar.tape = tape(tmp_path, "binance-usdm")
    options = Paper(
        policy="fixed-spread", parameters={"half_spread": 0.5}, venue="tests.helpers.bazaar:Bazaar",
        symbol=("SPICE",), journals=tmp_path, price_unit=4, lot_unit=20.0, warm_up=0.3, seconds=2.0,
    )  # fmt: skip

    async def session() -> None:
        async with paper_desks(options) as [desk]:
            await desk.run(options.seconds)

    closed = Bazaar.closed
    asyncio.run(session())
    path = tmp_path / "paper-bazaar-SPICE.journal"
    assert len(decisions(path)) > 5
    assert Bazaar.closed == closed + 1
    check(path)


def test_without_a_network_a_recording_fails(tmp_path: Path) -> None:
    """Nobody listens at that port: nothing can be recorded, which is no success."""
    record = Record(
        "binance-usdm", ("BTCUSDT",), tmp_path, url="http://127.0.0.1:9", seconds=0.5, progress=False
    )
    with pytest.raises(VenueError, match="nothing was recorded of BTCUSDT"):
        record.run()


def test_a_venue_whose_captures_no_importer_reads_is_not_recorded(tmp_path: Path) -> None:
    record = Record("tests.helpers.bazaar:Bazaar", ("SPICE",), tmp_path, progress=False)
    with pytest.raises(ConfigError, match=r"Record\.venue = .*importer"):
        record.run()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("binance-usmd", "venue = 'binance-usmd' is not known. Did you mean 'binance-usdm'?"),
        ("tests.helpers.bazaar:Bazar", "has no 'Bazar'"),
        ("tests.helpers.bazaar:TapeFeed", "must be a subclass of mmenv.live.venues.base.Venue"),
        ("tests.helpers.bazaar:Unfinished", "Unfinished must also have feed, orders"),
        ("tests.helpers.bazaar:Nameless", "Nameless.name = '' is not possible"),
        ("no_such_module:Bazaar", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_no_venue_gets_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(PluginError) as error:
        VENUES.find(name)
    assert sentence in str(error.value)
