"""The inputs of each signal, and which of them change sign where buyers and sellers change places."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def names(text: str) -> tuple[str, ...]:
    """The names in a text, between spaces."""
    return tuple(text.split())


ORDER_FLOW = names("flow_imbalance return return_mean return_std vwap_deviation spread spread_mean volume")
DETECTOR = names("""
    trade_size trade_gap flow_fast flow_medium flow_slow trade_run book_imbalance imbalance_change spread
    volatility_ratio trade_vwap depth_taken microprice_gap day_sine day_cosine
""")
MARKET = ORDER_FLOW + names("""
    trade_size trade_gap book_imbalance volatility flow_fast flow_medium flow_slow trade_run imbalance_change
    volatility_ratio depth_taken microprice_gap
""")
BOOK = MARKET + names("ask_queue bid_queue ask_queue_change bid_queue_change")
INVENTORY = names("inventory unrealised holding_time entry_gap risk_exposure")
RISK = names("""
    volatility volume_ratio spread_rank day_fraction own_impact loss_used correlation_loss liquidity
    news macro
""")
OWN_ASSET = names("return flow_imbalance volume")

ODD = names("""
    flow_imbalance return return_mean vwap_deviation flow_fast flow_medium flow_slow trade_run book_imbalance
    imbalance_change trade_vwap depth_taken microprice_gap inventory entry_gap
""")
"""Inputs that change sign where buyers and sellers change places; the others stay as they are."""


def signs(names: tuple[str, ...]) -> Array:
    """-1 for each input that changes sign where buyers and sellers change places, else 1, float32."""
    odd = [name in ODD or name.startswith("asset_") for name in names]
    return np.where(odd, -1, 1).astype(np.float32)


def swapped(names: tuple[str, ...]) -> Array:
    """Where each input is found once buyers and sellers have changed places, int64: asks among bids."""
    other = {"ask": "bid", "bid": "ask"}

    def partner(name: str) -> str:
        side, _, rest = name.partition("_")
        return f"{other[side]}_{rest}" if side in other else name

    return np.array([names.index(partner(name)) for name in names])
