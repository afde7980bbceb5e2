"""What is kept of environments to be drawn: every decision since the last reset, and the last one as text."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmenv.config import EnvConfig
from mmenv.desk.basket import BasketDesk
from mmenv.desk.desk import Desk
from mmenv.desk.levels import DISTANCE, LOTS, PLACE, QuotedLevels
from mmenv.engine.state import LEDGER, STATES

WINDOW = 300
"""Decisions shown of price and inventory; the profit is shown since reset."""

PRICES = ("mid", "ask", "bid", "best_ask", "best_bid", "sold", "bought")
PROFITS = ("spread_capture", "adverse_selection", "carry", "fees", "wealth")
"""What accumulates since reset: the last is the sum of the others, fees as a loss."""
QUEUES = ("ask_queue", "bid_queue", "ask_ahead", "bid_ahead")
"""Lots at the best ask and bid, and those ahead of our orders there (NaN: none of ours); 0 without a book."""
FIELDS = (
    *(*PRICES, *PROFITS, *QUEUES),
    *("position", "ask_lots", "bid_lots", "ask_fill", "bid_fill", "state"),
)
COLUMN = {name: column for column, name in enumerate(FIELDS)}


class History:
    """Every decision of n environments since their last reset, float64 (decisions + 1, FIELDS, n).

    Row t is what decision t led to, row 0 the state after reset. Prices and profits are in price units; `ask`
    and `bid` are the quotes of that decision, `sold` and `bought` the mean prices of our fills (NaN: none).
    Where an action has several orders a side, `order_fields` follow.
    """

    def __init__(self, config: EnvConfig, n: int) -> None:
        self.unit = config.market.price_scale
        self.age = np.zeros(n, np.int64)
        self.fields = FIELDS + order_fields(config)
        self._rows = np.full((min(config.horizon, WINDOW) + 1, len(self.fields), n), np.nan)
        self._orders: QuotedLevels | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_orders": None}  # of the desk that it was made for

    def record(self, desk: Desk | BasketDesk) -> None:
        """Append the step, or the reset, that `desk` has just made."""
        self.age = age = desk.get("age").astype(np.int64)
        if age.max() >= len(self._rows):
            self._rows = np.concatenate([self._rows, np.full_like(self._rows, np.nan)])
        lanes = np.arange(desk.n)
        self._rows[age, : len(FIELDS), lanes] = self._row(desk, self._rows[age - 1, :, lanes]).T
        if len(self.fields) > len(FIELDS) and isinstance(desk, Desk):
            self._rows[age, len(FIELDS) :, lanes] = self._order_rows(desk).T
            for side in ("ask", "bid"):  # the nearest order, for the nearest level may have no lots
                self._rows[age, COLUMN[side], lanes] = self._rows[age, self.fields.index(f"{side}_1"), lanes]

    def _order_rows(self, desk: Desk) -> np.ndarray:
        """`order_fields` of every environment now, (fields, n); NaN after a reset, when nothing is quoted."""
        orders = self._orders = self._orders or QuotedLevels(desk)
        found = np.moveaxis(orders.read(), 0, -1)  # side, order, what of it, environment
        lots, place = found[:, :, LOTS], found[:, :, PLACE]
        sides = np.array([1, -1])[:, None, None]  # asks first
        price = (desk.get("mid") - desk.get("move") + sides * found[:, :, DISTANCE]) / self.unit
        rows = np.stack([price, lots, place], axis=2)
        rows[:, :, PLACE][place < 0] = np.nan
        rows = np.where((lots > 0)[:, :, None] & (desk.get("age") > 0), rows, np.nan)
        return rows.reshape(-1, desk.n)

    def _row(self, desk: Desk | BasketDesk, last: np.ndarray) -> np.ndarray:
        """`FIELDS` of every environment now, (FIELDS, n), given those of its last decision, (n, FIELDS)."""
        mid, half_spread = desk.get("mid"), desk.get("spread") / 2
        decided = mid - desk.get("move")
        ask_lots, bid_lots = desk.get("ask_lots"), desk.get("bid_lots")
        ask_fill, bid_fill = desk.get("ask_fill"), desk.get("bid_fill")
        row = np.full((len(FIELDS), desk.n), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            prices = (
                mid,
                np.where(ask_lots > 0, decided + desk.get("ask_distance"), np.nan),
                np.where(bid_lots > 0, decided - desk.get("bid_distance"), np.nan),
                np.where(half_spread > 0, mid + half_spread, np.nan),
                np.where(half_spread > 0, mid - half_spread, np.nan),
                np.where(ask_fill > 0, decided + desk.get("ask_edge") / ask_fill, np.nan),
                np.where(bid_fill > 0, decided - desk.get("bid_edge") / bid_fill, np.nan),
            )
        row[: len(PRICES)] = np.stack(prices) / self.unit
        for side, sign in (("ask", 1), ("bid", -1)):
            at_touch = desk.get(f"own_{side}") == mid + sign * half_spread.astype(np.int64)
            rests = at_touch & (desk.get(f"own_{side}_lots") > 0)
            row[COLUMN[f"{side}_queue"]] = desk.get(f"best_{side}_lots")
            row[COLUMN[f"{side}_ahead"]] = np.where(rests, desk.get(f"own_{side}_ahead"), np.nan)
        for name in PROFITS[:-1]:
            row[COLUMN[name]] = last[:, COLUMN[name]] + desk.out.ledger[LEDGER.index(name)]
        row[COLUMN["wealth"]] = desk.out.ledger[LEDGER.index("wealth")]
        row[COLUMN["position"]] = desk.get("position")
        row[COLUMN["ask_lots"] :] = ask_lots, bid_lots, ask_fill, bid_fill, desk.get("risk_state")

        started = desk.get("age") == 0
        decision = [COLUMN[name] for name in ("ask", "bid", "sold", "bought")]
        row[np.ix_(decision, started)] = np.nan
        nothing = [COLUMN[name] for name in (*PROFITS, "ask_lots", "bid_lots", "ask_fill", "bid_fill")]
        row[np.ix_(nothing, started)] = 0
        return row

    def of(self, lane: int) -> dict[str, np.ndarray]:
        """`FIELDS` of one environment since its reset, each (age + 1,)."""
        rows = self._rows[: self.age[lane] + 1, :, lane]
        return {name: rows[:, column] for column, name in enumerate(self.fields)}


def order_fields(config: EnvConfig) -> tuple[str, ...]:
    """Where an action has several orders a side, what `History` keeps of each beside `FIELDS`: `ask_1`, its
    price, `ask_1_lots` and `ask_1_ahead`, lots ahead of it where these are known, and so on; the bids last.
    """
    count = config.quote.side_orders
    orders = [f"{side}_{k}" for side in ("ask", "bid") for k in range(1, count + 1)] if count > 1 else []
    return tuple(name for order in orders for name in (order, f"{order}_lots", f"{order}_ahead"))


def panel(config: EnvConfig, decisions: dict[str, np.ndarray]) -> str:
    """Write the last decision in two lines: the quotes that it made, and the mid that it led to."""
    now = {name: float(values[-1]) for name, values in decisions.items()}

    def several(name: str) -> str:
        orders = []
        for k in range(1, config.quote.side_orders + 1):
            price, lots, ahead = (now[f"{name}_{k}{of}"] for of in ("", "_lots", "_ahead"))
            if lots > 0:
                orders.append(f"{price:.2f} x {lots:.0f}" + (f" behind {ahead:.0f}" if ahead >= 0 else ""))
        return f"{name} {' + '.join(orders)}"

    def side(name: str, verb: str) -> str:
        price, lots, fill = now[name], now[f"{name}_lots"], now[f"{name}_fill"]
        quoted = f"{name} {price:.2f} x {lots:.0f}" if lots else f"no {name}"
        if lots and config.quote.side_orders > 1:
            quoted = several(name)
        elif now[f"{name}_ahead"] >= 0 and now[f"{name}_queue"] > 0:
            quoted += f", {now[f'{name}_ahead']:.0f} of {now[f'{name}_queue']:.0f} ahead"
        return quoted + (f" ({verb} {fill:.0f})" if fill else "")

    return (
        f"{len(decisions['mid']) - 1}/{config.horizon} {STATES[int(now['state'])]}  mid {now['mid']:.2f}  "
        f"{side('bid', 'bought')}  {side('ask', 'sold')}  "
        f"position {now['position']:+.0f} of {config.risk.position_limit}\n"
        f"wealth {now['wealth']:+.2f} = spread capture {now['spread_capture']:+.2f}, adverse selection "
        f"{now['adverse_selection']:+.2f}, carry {now['carry']:+.2f}, fees {0.0 - now['fees']:+.2f}"
    )
