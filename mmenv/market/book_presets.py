"""TODO."""

from __future__ import annotations

from typing import Any

COMMON: dict[str, Any] = {
    "activity": (0.35, 0.35, 0.35),
    "activity_seconds": (20.0, 300.0, 3600.0),
    "excitation": (0.3, 0.3),
    "excitation_seconds": (0.1, 2.0),
    "meta_share": 0.5,
    "meta_length": 5.0,
    "meta_exponent": 1.5,
    "pressure_seconds": (0.3, 3.0),
    "expected": (0.17, 0.0),
    "follow": 0.9,
    "close_rate": 20.0,
}


PRESETS: dict[str, dict[str, Any]] = {
    "binance-usdm-btc": COMMON
    | {
        "start_price": 617_000,
        "unit": 70.0,
        "volume": 6_200.0,
        "volatility": 36.0,
        "jump_rate": 0.012,
        "jump_size": 240.0,
        "order_rate": 7.3,
        "order_size": 2.0,
        "size_exponent": 0.555,
        "max_order_size": 20_000.0,
        "lots_per_print": 117.0,
        "impact": 60.0,
        "width": 25.0,
        "informed_rate": 1.15,
        "pull_rate": 1.0,
        "race": 0.4,
        "depth": 100.0,
        "queue": 5_500.0,
        "queue_rate": 0.9,
        "queue_events": 13.0,
        "response": 1.2,
        "refill": 1_900.0,
        "lag": 0.4,
    },
    "binance-usdm-eth": COMMON
    | {
        "start_price": 268_000,
        "unit": 30.0,
        "volume": 30_000.0,
        "volatility": 22.0,
        "jump_rate": 0.008,
        "jump_size": 60.0,
        "order_rate": 3.2,
        "order_size": 17.0,
        "size_exponent": 0.56,
        "max_order_size": 100_000.0,
        "lots_per_print": 750.0,
        "impact": 24.0,
        "width": 13.0,
        "informed_rate": 1.0,
        "pull_rate": 1.6,
        "race": 0.5,
        "depth": 1_500.0,
        "queue": 24_000.0,
        "queue_rate": 1.25,
        "queue_events": 15.0,
        "response": 2.5,
        "refill": 10_600.0,
        "lag": 0.23,
    },
    "binance-coinm-btc": COMMON
    | {
        "activity": (0.16, 0.16, 0.16),
        "start_price": 617_000,
        "unit": 55.0,
        "volume": 350.0,
        "volatility": 55.0,
        "jump_rate": 0.004,
        "jump_size": 120.0,
        "order_rate": 0.25,
        "order_size": 1.0,
        "size_exponent": 1.0,
        "max_order_size": 4_000.0,
        "lots_per_print": 100.0,
        "impact": 90.0,
        "width": 55.0,
        "informed_rate": 0.5,
        "pull_rate": 1.0,
        "race": 0.7,
        "depth": 20.0,
        "queue": 1_200.0,
        "queue_rate": 1.8,
        "queue_events": 10.0,
        "response": 1.7,
        "refill": 700.0,
        "lag": 0.2,
    },
    "binance-spot-btc": COMMON
    | {
        "start_price": 6_170_000,
        "unit": 600.0,
        "volume": 1_100_000.0,
        "volatility": 360.0,
        "jump_rate": 0.008,
        "jump_size": 1_800.0,
        "order_rate": 3.0,
        "order_size": 14.0,
        "size_exponent": 0.306,
        "max_order_size": 1_000_000.0,
        "lots_per_print": 42_000.0,
        "impact": 700.0,
        "width": 450.0,
        "informed_rate": 0.9,
        "pull_rate": 1.0,
        "race": 0.25,
        "depth": 4_400.0,
        "queue": 2_350_000.0,
        "queue_rate": 1.4,
        "queue_events": 6.5,
        "response": 2.9,
        "refill": 1_064_000.0,
        "lag": 0.5,
    },
}
"""Parameters by name, fitted by simulated moments to tapes of Binance of 2024-08-08, 23:54 to 24:00 UTC.

Tape / preset, as `neuralmm facts` measures them. The last two rows were not fitted.

|  | usdm-btc | usdm-eth | coinm-btc | spot-btc |
|---|---|---|---|---|
| mid's move in 10 s, standard deviation, ticks | 243 / 251 | 84 / 102 | 235 / 196 | 2522 / 2234 |
| share of 0.1 s in which the mid moves | .12 / .12 | .14 / .13 | .07 / .08 | .08 / .08 |
| mean queue at the touch, lots | 3792 / 3673 | 20097 / 19526 | 1407 / 1431 | 2.3e6 / 2.5e6 |
| market volume, lots a second | 7291 / 5739 | 26383 / 26854 | 249 / 308 | 6.3e5 / 9.9e5 |
| AUC of the imbalance, 0.1 s | .90 / .90 | .93 / .92 | .96 / .97 | .95 / .96 |
| AUC of the imbalance, 1 s | .77 / .76 | .73 / .75 | .81 / .84 | .85 / .84 |
| fills of a lot at the touch, per second and side | .66 / .72 | .76 / .76 | .29 / .41 | .42 / .53 |
| mark-out after 1 s, standard deviations of a move | -1.6 / -2.0 | -1.9 / -2.0 | -4.3 / -2.9 | -2.9 / -2.5 |

Six minutes say little about tails, slow activity and metaorders: those (`COMMON`, and jumps) are set so that
the stylised facts of the literature hold.
"""
