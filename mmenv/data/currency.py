"""What the profit of a symbol is counted in, and rates between currencies.

A symbol is all that most venues say: BTCUSDT, BTC-USD, BTC/EUR:EUR, BTCUSD_PERP; of a stock, its venue alone
says it. An inverse contract is margined in its coin: BTC of BTCUSD_PERP. Profits in different currencies are
never added (`Rates`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmenv.checks import ConfigError

QUOTES = (
    *("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USDS", "USD1", "USDD", "DAI"),
    *("USD", "EUR", "GBP", "JPY", "TRY", "BRL", "AUD", "CAD", "CHF", "KRW", "MXN", "PLN", "ZAR", "ARS"),
    *("BTC", "ETH", "BNB"),
)
"""Currencies that symbols end in, those that end in another one before it."""


IN_DOLLARS = (
    *("nasdaq", "nyse", "nyse-arca", "nyse-american", "iex", "memx"),
    *("cboe-bzx", "cboe-byx", "cboe-edga", "cboe-edgx"),
)
"""Venues of stocks, whose symbols do not say that they are traded in dollars."""


def currency_of(symbol: str, contract: str = "linear", venue: str = "") -> str:
    """Currency of a symbol's profits, by its venue or as its name says; where neither does, one of its own.

    Two symbols that do not say theirs may be in two currencies, so they are not added either.
    """
    if venue in IN_DOLLARS:
        return "USD"
    pair = symbol.upper().split(":")[0]
    base, quote = split_pair(pair)
    if contract == "inverse":
        return base or f"coin of {symbol}"
    return quote or f"currency of {symbol}"


def split_pair(pair: str) -> tuple[str, str]:
    """Base and quote of a pair such as BTCUSDT, BTC/USDT, BTC-USDT or BTCUSD_PERP; empty where not known."""
    first, *others = re.split(r"[/\-_]", pair.upper())
    if others and others[0] in QUOTES:
        return first, others[0]
    quote = next((name for name in QUOTES if first.endswith(name) and first != name), "")
    return first.removesuffix(quote) if quote else "", quote


@dataclass(frozen=True)
class Rate:
    """What a unit of a currency is worth in another one."""

    base: str
    quote: str
    price: float
    source: str
    """Where it comes from: "given", or a tape."""

    def __str__(self) -> str:
        return f"1 {self.base} = {self.price:,.6g} {self.quote} ({self.source})"


def read_rate(text: str) -> tuple[str, str, float | None]:
    """Base, quote and price of BTC/USDT=61000, or no price for BTC/USDT, which a tape is to say.

    Raises `ConfigError` for what is neither.
    """
    found = re.fullmatch(r"\s*(\w+)/(\w+)\s*(?:=\s*([0-9.eE+-]+)\s*)?", text)
    try:
        price = None if found is None or found[3] is None else float(found[3])
        good = found is not None and (price is None or 0 < price < 1e18)
    except ValueError:
        good = False
    if not good or found is None:
        raise ConfigError(
            f"--rates = {text!r} is not possible: it must be a price such as BTC/USDT=61000, or "
            "a pair of which the store has a tape, such as BTC/USDT."
        )
    return found[1].upper(), found[2].upper(), price


def common_currency(currencies: Sequence[str], rates: Sequence[Rate]) -> str | None:
    """The one currency that `rates` bring all `currencies` to, or None where there are none and several.

    Raises `ConfigError` where there are rates, and one is missing, or they lead to several.
    """
    targets = {rate.quote for rate in rates}
    if len(targets) > 1:
        raise ConfigError(f"--rates lead to {', '.join(sorted(targets))}: give all in one currency.")
    known = {rate.base for rate in rates} | targets
    missing = sorted({*currencies} - known)
    if rates and missing:
        target = targets.pop()
        raise ConfigError(
            f"--rates do not say what {', '.join(missing)} is worth in {target}: add "
            + ", ".join(f"{name}/{target}=PRICE" for name in missing)
            + "."
        )
    return targets.pop() if targets else None
