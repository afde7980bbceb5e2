"""What a venue charges a desk: fees in whatever asset, and funding; exact as it was charged, and its worth.

A fee that is paid in the asset that was bought makes the position smaller than what was bought. That is kept
exactly: whole lots of it leave the position, and what is less than a lot is owed until it is one.
"""

from __future__ import annotations

from decimal import Decimal

from mmenv.live.orders import Fill, Funding, Rate
from mmenv.live.snapshot import Kept, give_back, keep

ZERO = Decimal(0)
_STATE = (
    "fees", "funding", "owed", "lots_gone", "_rates", "_unpriced", "_cost", "_received", "_in_base",
    "_owed_before",
)  # fmt: skip


class Charges:
    """The charges of one symbol.

    Parameters
    ----------
    base, quote
        The asset that is traded, and the one that prices are in.
    tick, lot
        Sizes of a tick and a lot.
    fee_rate
        Of the notional: what a fee is taken for whose asset has no price yet.
    inverse
        Whether a lot is so much of the currency that prices are in, and all is paid in `quote`, the coin that
        has the price.
    """

    def __init__(
        self, base: str, quote: str, tick: Decimal, lot: Decimal, fee_rate: float, inverse: bool = False
    ) -> None:
        self.base, self.quote, self.inverse = base, quote, inverse
        self._tick, self._lot, self._fee_rate = tick, lot, Decimal(str(fee_rate))
        self.fees: dict[str, Decimal] = {}
        """Paid, by asset; negative is a rebate."""
        self.funding: dict[str, Decimal] = {}
        """Received, by asset; negative is paid."""
        self.owed = ZERO
        """Of the base asset: gone from the account, but less than a lot."""
        self._rates: dict[str, Decimal] = {}
        self._unpriced: list[tuple[str, Decimal, Decimal]] = []
        self._cost = self._received = self._in_base = ZERO
        self._owed_before, self.lots_gone = ZERO, 0
        """What was owed at the last `settle`, and the lots that have left the position since."""

    def value(self, units: int) -> Decimal:
        """Ticks x lots in the quote asset."""
        return units * self._tick * self._lot

    def cost(self, lots: int, tick: int) -> Decimal:
        """What is paid for so many lots at a tick, negative for lots sold, in the quote asset.

        Those of an inverse contract are worth -lots x lot / price, up to a constant: n contracts of V dollars
        bought at e and sold at x earn n V (1/e - 1/x) coin.
        """
        if self.inverse:
            return -lots * self._lot / (tick * self._tick)
        return self.value(lots * tick)

    def fill(self, fill: Fill) -> int:
        """Take in a fill's fee; the lots that leave the position for it (negative: come to it)."""
        asset, fee = fill.fee_asset, Decimal(fill.fee)
        self.fees[asset] = self.fees.get(asset, ZERO) + fee
        if asset == self.base and asset != self.quote and not self.inverse:
            self._in_base += fee
            self.owed += fee
            gone = int(self.owed / self._lot)
            self.owed -= gone * self._lot
            self.lots_gone += gone
            return gone
        if asset == self.quote or not fee:
            self._cost += fee
        elif asset in self._rates:
            self._cost += fee * self._rates[asset]
        else:
            estimate = abs(self.cost(fill.lots, fill.tick)) * self._fee_rate
            self._cost += estimate
            self._unpriced.append((asset, fee, estimate))
        return 0

    def price(self, rate: Rate) -> None:
        """Take in what an asset is worth, from now on and for the fees that wait for it."""
        self._rates[rate.asset] = Decimal(rate.price)
        left = []
        for asset, fee, estimate in self._unpriced:
            if asset == rate.asset:
                self._cost += fee * self._rates[asset] - estimate
            else:
                left.append((asset, fee, estimate))
        self._unpriced = left

    def pay(self, funding: Funding) -> None:
        """Take in a payment of funding."""
        amount = Decimal(funding.amount)
        self.funding[funding.asset] = self.funding.get(funding.asset, ZERO) + amount
        self._received += amount * self._rates.get(funding.asset, Decimal(1))

    def kept(self) -> Kept:
        """All that it knows; see `restore`."""
        return keep(self, *_STATE)

    def restore(self, state: Kept) -> None:
        """Go on from what `kept` gave."""
        give_back(self, state)

    def settle(self, mid: float, move: float) -> tuple[float, float]:
        """Fees paid and funding received since the last call, in the quote asset.

        `mid` is the price now, `move` its move in that time. Lots bought, held and sold at these prices, less
        the fees, are the change of what the account is worth: what is owed of the base asset moves with it.
        """
        carried = self._owed_before - self.lots_gone * self._lot
        fees = float(self._cost) + float(self._in_base) * mid + float(carried) * move
        result = fees, float(self._received)
        self._cost = self._received = self._in_base = ZERO
        self._owed_before, self.lots_gone = self.owed, 0
        return result
