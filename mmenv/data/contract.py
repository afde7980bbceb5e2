"""Profit of inverse (coin-margined) contracts, exactly, from fills."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def inverse_profit(signed_lots: ArrayLike, prices: ArrayLike, mark: float, lot_value: float) -> float:
    """Profit in coin of fills [n], open position valued at `mark`: V sum of q (1/p - 1/mark).

    The linear ledger's sum of q (mark - p) weighs every lot alike; here one counts V / (p mark), which is why
    no factor turns the one into the other unless all fills had one price.

    Args:
        signed_lots: positive bought, negative sold.
        prices: of each fill, quote currency.
        mark: price at which what is open is valued, quote currency.
        lot_value: V, quote currency in a lot: `contract_size` x `lot_size` of the tape.

    Raises:
        ValueError: a price that is not positive, or arrays of different lengths.
    """
    lots, paid = np.asarray(signed_lots, np.float64), np.asarray(prices, np.float64)
    if lots.shape != paid.shape:
        raise ValueError(f"{lots.size} fills at {paid.size} prices; give one price for each fill")
    if mark <= 0 or (paid <= 0).any():
        raise ValueError("a price is not positive; an inverse contract has no value there")
    # The difference first: 1/p and 1/mark agree in most of their digits.
    return float(lot_value * np.sum(lots * (mark - paid) / (paid * mark)))
