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
from mmenv.live.venues.base import VENUES, Credentials
from mmenv.live.venues.names import long_name, number_in_time, short_name, time_in
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


def test_the_page_has_the_table_of_the_registry() -> None:
    page = Path("docs/live.md").read_text()
    for name, venue in VENUES.items():
        if venue.__module__.startswith("mmenv."):
            what = (venue.__doc__ or "").partition("\n")[0].rstrip(".")
            testnet = "yes" if venue.testnets else "no"
            row = f"| `{name}` | {what} | {venue.example} | {venue.format} | {testnet} | {venue.notes} |"
            assert row in page


def test_a_venue_without_a_testnet_says_so() -> None:
    with pytest.raises(ConfigError, match=r"testnet = True is not possible: bazaar has none"):
        Bazaar(testnet=True)


def test_keys_are_of_the_form_that_the_venue_gives() -> None:
    with pytest.raises(ConfigError, match="okx have a passphrase"):
        VENUES.find("okx")(credentials=Credentials("key", "secret"))
    with pytest.raises(ConfigError, match="hyperliquid needs the account's address"):
        asyncio.run(VENUES.find("hyperliquid")(credentials=Credentials("key", "secret")).orders("BTC"))


@pytest.mark.parametrize("number", ["18c2f3a4b5c-7", "0-123456789", "ffffffffffff-999999999"])
@pytest.mark.parametrize("symbol", ["BTC", "BTCUSDT", "BTC-USDT-SWAP", "kPEPE", "1000PEPEUSDT", "abcdef"])
def test_an_order_has_one_name_in_each_form(symbol: str, number: str) -> None:
    """Which no other symbol's order has: desks of an account that begin together count alike."""
    name = f"nmm{symbol}{number}"
    short = short_name(name, symbol)
    assert short.isalnum()
    assert len(short) <= 32
    assert long_name(short, symbol) == name
    assert short_name(f"nmmETH{number}", "ETH") != short
    assert long_name(short, "ETH") == short
    assert short_name(f"nmmETH{number}", symbol) == f"nmmETH{number}"
    assert short_name("web_1", symbol) == long_name("web_1", symbol) == "web_1"


def test_numbers_of_trades_grow_with_time() -> None:
    numbers = [number_in_time(at, text) for at, text in ((1, "z"), (2, "a"), (1_900_000_000_000, "b"))]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < 1 << 63
    assert [time_in(number) for number in numbers] == [1, 2, 1_900_000_000_000]


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
