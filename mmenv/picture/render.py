"""What a person sees of an environment: a picture, a window or a line of text.

The picture shows the mid with our quotes and fills, and where a side is not quoted; the inventory; and the
profit with its attribution since reset. On markets with a book it also shows best bid and ask, the queues
there and the lots ahead of our orders. Of several orders a side it shows each, those behind the nearest in
lighter lines, with the lots of the last decision at their end. It is drawn by matplotlib's Agg canvas. Axes
and labels are drawn once and kept as a background; only the lines are drawn anew, until they leave the axes.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import gymnasium
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmenv.config import EnvConfig
from mmenv.desk.basket import BasketDesk
from mmenv.desk.desk import Desk
from mmenv.engine.state import STATES
from mmenv.picture.history import PRICES, WINDOW, History, order_fields, panel

SCROLL = 75
"""Decisions by which that window moves on: every move costs a new background."""

MOST_PICTURES = 16
"""Environments of a vector environment that keep a picture of their own; more share, and draw more slowly."""

SIGN = {"ask": -1, "bid": 1}
"""The queue of bids is drawn upwards, that of asks downwards."""
HEIGHT = {"ask": 0.99, "bid": 0.01}
"""Where in the price axes it is marked that a side is not quoted."""
LEGEND: dict[str, Any] = {
    "fontsize": 8, "frameon": False, "columnspacing": 1.0, "handlelength": 1.4, "handletextpad": 0.4,
}  # fmt: skip


class Picture:
    """A canvas on which one environment is drawn, 800 x 600 pixels."""

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self.figure = Figure(figsize=(8, 6), dpi=100)
        self.canvas = FigureCanvasAgg(self.figure)
        self.has_book = config.market.on_ticks
        heights = [4, 2.2, 1.1, 2.2] if self.has_book else [4, 1.4, 2.6]
        self.price, *queue, self.inventory, self.profit = self.figure.subplots(
            len(heights), height_ratios=heights, gridspec_kw={"hspace": 0.26}
        )
        self.queue = queue[0] if queue else None
        self.figure.subplots_adjust(left=0.1, right=0.98, top=0.93, bottom=0.08)
        self._background: Any = None
        self._make_artists()

    def draw(self, decisions: dict[str, np.ndarray]) -> np.ndarray:
        """Draw the decisions since reset (`History.of`), uint8 (600, 800, 3)."""
        steps = np.arange(len(decisions["mid"]))
        end = len(steps) - 1
        first = max(0, min(-(-(end - WINDOW) // SCROLL) * SCROLL, self.config.horizon - WINDOW))
        base = decisions["mid"][0]
        for name, line in self._prices.items():
            line.set_data(steps[first:], decisions[name][first:] - base)
        for name, line in self._outer.items():
            line.set_data(steps[first:], decisions[name][first:] - base)
        for name, text in self._lots.items():
            price, lots = decisions[name][end] - base, decisions[f"{name}_lots"][end]
            text.set_text(f"{lots:.0f}" if lots > 0 else "")
            text.set_position((end + 1, price if lots > 0 else 0.0))
        for side, line in self._none.items():
            missing = decisions[f"{side}_lots"][first:] == 0
            line.set_data(steps[first:], np.where(missing & (steps[first:] > 0), HEIGHT[side], np.nan))
        edges = np.arange(first, end + 2) - 0.5
        self._inventory.set_data(decisions["position"][first:], edges)
        for side, area in self._queues.items():
            area.set_data(SIGN[side] * decisions[f"{side}_queue"][first:], edges)
            self._places[side].set_data(steps[first:], SIGN[side] * decisions[f"{side}_ahead"][first:])
        for name, line in self._profits.items():
            line.set_data(steps, -decisions[name] if name == "fees" else decisions[name])
        self._figures["decision"].set_text(f"{end} / {self.config.horizon}")
        self._figures["position"].set_text(f"{decisions['position'][-1]:+.0f}")
        self._figures["wealth"].set_text(f"{decisions['wealth'][-1]:+.2f}")
        self._figures["state"].set_text(STATES[int(decisions["state"][-1])])
        seen = (*PRICES[:3], *self._outer)
        self._fit(first, end, [decisions[name][first:] - base for name in seen])
        if self.queue is not None:
            queues = (SIGN[side] * decisions[f"{side}_queue"][first:] for side in SIGN)
            self._fit_y(self.queue, list(queues), 8.0)
        if self._background is None:
            self.canvas.draw()
            self._background = self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self._background)
        for artist in self._moving:
            self.figure.draw_artist(artist)
        drawn = np.asarray(self.canvas.buffer_rgba())
        frame = np.empty((*drawn.shape[:2], 3), np.uint8)
        for channel in range(3):  # five times faster than a copy of drawn[..., :3]
            frame[..., channel] = drawn[..., channel]
        return frame

    def _make_artists(self) -> None:
        """Make the lines that move, and draw what stands still."""
        dark, red, blue, grey = "#1b1b1b", "#c0392b", "#2471a3", "#9a9a9a"
        held = {"drawstyle": "steps-post"}  # from this decision to the next
        made = {"drawstyle": "steps-pre"}  # from the decision before to this one
        fill = {"ls": "", "ms": 6, "mec": dark, "mew": 0.5}
        prices: dict[str, dict[str, Any]] = {
            "best_ask": {"color": "#f0b9a8", "lw": 3.0, **held},
            "best_bid": {"color": "#abd0e8", "lw": 3.0, **held},
            "ask": {"color": red, "lw": 1.0, "label": "our ask", **made},
            "bid": {"color": blue, "lw": 1.0, "label": "our bid", **made},
            "mid": {"color": dark, "lw": 1.3, "label": "mid", **held},
            "sold": {"color": red, "marker": "v", "label": "sold", **fill},
            "bought": {"color": blue, "marker": "^", "label": "bought", **fill},
        }
        if self.has_book:
            prices["best_ask"]["label"], prices["best_bid"]["label"] = "best ask", "best bid"
        profits: dict[str, dict[str, Any]] = {
            "spread_capture": {"color": "#27853c", "label": "spread capture"},
            "adverse_selection": {"color": "#d35400", "label": "adverse selection"},
            "carry": {"color": "#7d3c98", "label": "carry"},
            "fees": {"color": grey, "label": "fees"},
            "wealth": {"color": dark, "label": "wealth", "lw": 2},
        }
        self._prices = {name: self.price.plot([], [], **style)[0] for name, style in prices.items()}
        orders = {name: red if name[0] == "a" else blue for name in order_fields(self.config)[::3]}
        self._outer = {
            name: self.price.plot([], [], color=colour, lw=0.8, alpha=0.55, **made)[0]
            for name, colour in orders.items()
            if not name.endswith("_1")
        }
        self._lots = {
            name: self.price.text(0, 0, "", color=colour, size=7, va="center", clip_on=False)
            for name, colour in orders.items()
        }
        self._profits = {
            name: self.profit.plot([], [], **{"lw": 1.1, **style})[0] for name, style in profits.items()
        }
        self._none = {
            side: self.price.plot(
                [], [], color=colour, lw=4, alpha=0.55, label=f"no {side}", solid_capstyle="butt",
                drawstyle="steps-pre", transform=self.price.get_xaxis_transform(),
            )[0]
            for side, colour in (("ask", red), ("bid", blue))
        }  # fmt: skip
        self._queues, self._places = {}, {}
        if self.queue is not None:
            for side, light, colour in (("ask", "#f5cdbf", red), ("bid", "#c6dff0", blue)):
                self._queues[side] = self.queue.stairs(
                    [0], [0, 1], fill=True, color=light, label=f"at the best {side}"
                )
                self._places[side] = self.queue.plot(
                    [], [], color=colour, lw=1.3, drawstyle="steps-mid", label=f"ahead of our {side}"
                )[0]
        self._inventory = self.inventory.stairs([0], [0, 1], fill=True, color="#7f8fa6")
        # Text is what costs most: words go to the background, and only the figures after them are redrawn.
        self._figures = {}
        self.figure.text(0.1, 0.955, self.config.market.name, size=11, weight="bold", color="#2471a3")
        places = {
            "decision": (0.28, 0.09),
            "position": (0.49, 0.085),
            "wealth": (0.63, 0.075),
            "state": (0.8, 0.06),
        }
        for word, (x, gap) in places.items():
            self.figure.text(x, 0.955, word, size=11)
            self._figures[word] = self.figure.text(x + gap, 0.955, "", size=11, weight="bold")

        self.price.set_ylabel("price from start")
        self.inventory.set_ylabel("position")
        self.profit.set_ylabel("profit")
        self.profit.set_xlabel("decision (prices in price units, profit in price units x lots)")
        limit = self.config.risk.position_limit
        self.inventory.set_ylim(-1.1 * limit, 1.1 * limit)
        for level in (-limit, 0, limit):
            self.inventory.axhline(level, color=grey, lw=0.7, ls=":" if level else "-")
        self.profit.axhline(0, color=grey, lw=0.7)
        self.price.legend(loc="upper left", ncols=9 if self.has_book else 7, **LEGEND)
        self.profit.legend(loc="upper left", ncols=5, **LEGEND)
        if self.queue is not None:
            self.queue.legend(loc="upper left", ncols=4, **LEGEND)
            self.queue.set_ylabel("queue, lots")
            self.queue.axhline(0, color=grey, lw=0.7)
        for axes in self.figure.axes[:-2]:  # they share the decisions of the inventory below
            axes.tick_params(labelbottom=False)
        self.figure.align_ylabels()
        lines = [*self._outer.values(), *self._prices.values(), *self._none.values(), *self._profits.values()]
        lines += [*self._queues.values(), *self._places.values()]
        self._moving = [*lines, self._inventory, *self._figures.values(), *self._lots.values()]
        for artist in self._moving:
            artist.set_animated(True)

    def _fit(self, first: int, end: int, prices: list[np.ndarray]) -> None:
        """Make the axes as wide as the data, in large steps: every change costs a new background."""
        span = min(self.config.horizon, WINDOW)
        shown = (first - 0.5, first + max(span, end - first) + 0.5)
        since = span
        while since < end:
            since *= 2
        self._set(self.price, "x", shown)
        if self.queue is not None:
            self._set(self.queue, "x", shown)
        self._set(self.inventory, "x", shown)
        self._set(self.profit, "x", (-0.5, min(since, self.config.horizon) + 0.5))
        self._fit_y(self.price, prices, 10.0)
        self._fit_y(self.profit, [line.get_ydata() for line in self._profits.values()], 20.0)

    def _set(self, axes: Axes, which: str, limits: tuple[float, float]) -> None:
        """Set the limits of an axis, "x" or "y"."""
        if getattr(axes, f"get_{which}lim")() != limits:
            getattr(axes, f"set_{which}lim")(limits)
            self._background = None

    def _fit_y(self, axes: Axes, data: list[Any], least: float) -> None:
        """Make the y axis hold the data, as if they spanned at least `least`."""
        values = np.concatenate(data)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        step = 2.0 ** math.ceil(math.log2(max(high - low, least) / 4))
        # Below, room of a quarter step at least; above, of one for the legend.
        self._set(axes, "y", (math.floor(low / step - 0.25) * step, math.ceil(high / step + 1) * step))


class Window:
    """A window of matplotlib's interactive backend that shows pictures."""

    def __init__(self) -> None:
        from matplotlib import pyplot  # here and below, for it takes seconds to import

        self.figure = pyplot.figure("NeuralMM", figsize=(8, 6), dpi=100)
        axes = self.figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        self._image = axes.imshow(np.full((600, 800, 3), 255, np.uint8))
        pyplot.show(block=False)

    def show(self, frame: np.ndarray) -> None:
        """Show the frame; nothing once the user has closed the window."""
        from matplotlib import pyplot

        if pyplot.fignum_exists(self.figure.number):
            self._image.set_data(frame)
            self.figure.canvas.draw()
            self.figure.canvas.flush_events()

    def close(self) -> None:
        """Close the window."""
        from matplotlib import pyplot

        pyplot.close(self.figure)


class Terminal:
    """The text panel on standard output, in place where that is a terminal."""

    def __init__(self) -> None:
        print(
            "NeuralMM: no display for a window, so render_mode='human' prints text; "
            "use render_mode='rgb_array' for pictures.",
            file=sys.stderr,
        )
        self._drawn = False

    def show(self, text: str) -> None:
        """Print the text, over the last one where the terminal can."""
        up = "\x1b[2A\x1b[J" if self._drawn and sys.stdout.isatty() else ""
        print(up + text, flush=True)
        self._drawn = True

    def close(self) -> None:
        """Leave the last text where it is."""
        self._drawn = False


def has_display() -> bool:
    """Whether matplotlib finds a backend that opens windows here."""
    import matplotlib  # here, for only windows ask
    from matplotlib.backends.registry import BackendFilter, backend_registry

    interactive = backend_registry.list_builtin(BackendFilter.INTERACTIVE)
    return matplotlib.get_backend().lower() in interactive


class Screen:
    """Keeps the history of n environments and draws it in one render mode.

    "human" draws at every step, `fps` times a second; the others when `render` is called. It can be pickled:
    figures and windows are made anew.
    """

    def __init__(self, mode: str, config: EnvConfig, n: int, fps: int) -> None:
        self.mode, self.config, self.fps = mode, config, fps
        self.history = History(config, n)
        self._recorded = False
        self._open()

    def _open(self) -> None:
        """Start without pictures and windows."""
        self._pictures: dict[int, Picture] = {}
        self._viewer: Window | Terminal | None = None
        self._shown = 0.0

    def record(self, desk: Desk | BasketDesk) -> None:
        """Take up the step, or the reset, that `desk` has just made."""
        self.history.record(desk)
        self._recorded = True
        if self.mode == "human":
            self._show()

    def render(self) -> Any:
        """Draw what `render` of one environment returns: a frame, a text, or None."""
        self.check()
        if self.mode == "rgb_array":
            return self.frame(0)
        return self.text(0) if self.mode == "ansi" else None

    def check(self) -> None:
        """Raise `ResetNeeded` where there is nothing to draw yet."""
        if not self._recorded:
            raise gymnasium.error.ResetNeeded("There is nothing to draw yet: call reset() before render().")

    def frame(self, lane: int) -> np.ndarray:
        """Draw the picture of one environment, uint8 (600, 800, 3)."""
        own = lane % MOST_PICTURES
        if own not in self._pictures:
            self._pictures[own] = Picture(self.config)
        return self._pictures[own].draw(self.history.of(lane))

    def text(self, lane: int) -> str:
        """Write the panel of one environment."""
        return panel(self.config, self.history.of(lane))

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._viewer is not None:
            self._viewer.close()
        self._open()

    def _show(self) -> None:
        """Show the first environment, at most `fps` times a second."""
        viewer = self._viewer = self._viewer or (Window() if has_display() else Terminal())
        time.sleep(max(0.0, self._shown + 1 / self.fps - time.monotonic()))
        self._shown = time.monotonic()
        if isinstance(viewer, Window):
            viewer.show(self.frame(0))
        else:
            viewer.show(self.text(0))

    def __getstate__(self) -> dict[str, Any]:
        made_anew = ("_pictures", "_viewer", "_shown")
        return {name: value for name, value in self.__dict__.items() if name not in made_anew}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
