"""`python -m train.backtest POLICY... DATA`: what a policy earned, why, and whether to believe it.

The figures are made by `mmenv.backtest`; here policies and data are found by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import json
import pickle
import shlex
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from mmenv.backtest import Entrant, Player, Result, Settings, Tabulated, backtest
from mmenv.backtest.result import FIGURES
from mmenv.backtest.run import SEED, write_json
from mmenv.config import ConfigError, EnvConfig, Market, make_config
from mmenv.market import MARKETS
from mmenv.market.replay import Replay
from mmenv.provenance import PLACES, without_places
from mmenv.report import write_report
from mmenv.report.words import show
from policies.analytic import TUNABLE, tune
from policies.base import POLICIES, QuotingPolicy, make_policy
from policies.bundle import SUFFIX
from policies.bundle import load as load_bundle
from train.baselines import GRID, solvable, tune_by_simulation


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """Play policies over recorded or simulated markets and write their tear sheet.

    The last argument is DATA: a store of recorded tapes (`neuralmm import`) or a simulated market's name.
    Each POLICY before it is a trained model (its folder or .zip), a bundle (.mmz), an analytic one such as
    glft or glft:gamma=0.1 (without parameters it is tuned), or module:attribute of a Python object with
    `reset` and `act`, or of what makes one from a configuration. The first one is what others are compared
    with. Interrupted, the same command continues.
    """

    arguments: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="POLICY... DATA", name="")
    ]
    """One or more policies, then the data."""
    start: str | None = None
    """First moment of recorded data, UTC, such as 2024-08-08T23:55."""
    end: str | None = None
    fees: float | None = None
    """Maker fee, basis points, negative for a rebate; by default the tape's, or the market's."""
    latency: float = 10.0
    """To the exchange, and as long again back, milliseconds (tapes)."""
    latency_model: str = "constant"
    """How it varies: constant, lognormal, feed, empirical or recorded, see docs/data.md (tapes)."""
    latency_file: Path | None = None
    """Round trips for empirical and recorded (tapes)."""
    queue: str = "risk-adverse"
    """How cancels ahead of us move us up the queue (tapes): "risk-adverse" is the strictest."""
    venue: str = "*"
    symbol: str = "*"
    """Which tapes of the store: names or patterns."""
    calibration: Path | None = None
    """What `neuralmm calibrate` wrote: analytic policies are fed from it; by default they are calibrated on
    the training part, under this latency and queue."""
    split: str | None = None
    """Part of the recorded time: "all", "train", "validation" or "test". By default "test" where a policy
    learned from this store, else "all"."""
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of the recorded time for train, validation and test."""
    step: float | None = None
    """Time between two decisions, seconds; by default as trained, or the market's."""
    session: int | None = None
    """Decisions after which a policy starts anew; by default as trained, or the market's horizon."""
    days: float = 1.0
    """Days of a simulated market."""
    seed: int = SEED
    signal: str | None = None
    """Observation that the picture of the policy is drawn against."""
    loss_limit: float | None = None
    """Loss at which the desk halts for the day, price units x lots; by default as trained, or 500."""
    capital: float | None = None
    """What returns are related to; by default the value of a position at its limit."""
    tries: int = 1
    """Configurations that were tried before these were chosen: the Sharpe ratio is deflated for them."""
    sensitivity: bool = True
    """Play again under other latencies and queue models (tapes)."""
    patience: float = 10.0
    """A decision that takes longer, seconds, ends the backtest."""
    jobs: int | None = None
    """Processes; by default one for each processor."""
    ray: str | None = None
    """Run on a Ray cluster: its address, "auto" for the one running here, "local" to start one for this."""
    out: Path | None = None
    """Folder of the results; by default under logs/, one for each choice of all the above."""


# Policies.


@dataclass(frozen=True)
class Fixed:
    """A policy that is already made."""

    name: str
    policy: Any

    @cached_property
    def key(self) -> str:
        # Kept, and so sent along: what was unpickled in another process need not pickle to the same bytes.
        return hashlib.sha256(pickle.dumps(self.policy)).hexdigest()

    def make(self, config: EnvConfig) -> Player | Tabulated:
        return tabulated(self.policy)


@dataclass(frozen=True)
class Named:
    """A registered policy with its parameters."""

    name: str
    family: str
    parameters: tuple[tuple[str, float], ...]

    @property
    def key(self) -> str:
        return json.dumps([self.family, self.parameters])

    def make(self, config: EnvConfig) -> Player | Tabulated:
        return tabulated(make_policy(self.family, config, **dict(self.parameters)))


@dataclass(frozen=True)
class File:
    """A trained model or a bundle."""

    name: str
    path: Path

    @property
    def key(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def make(self, config: EnvConfig) -> Player | Tabulated:
        if self.path.suffix == SUFFIX:
            return load_bundle(self.path).policy()
        from policies.trained import TrainedPolicy
        from train.evaluate import load

        return TrainedPolicy(load(self.path)[0].policy, self.name)


@dataclass(frozen=True)
class Object:
    """A user's Python object, module:attribute."""

    name: str
    path: str

    @property
    def key(self) -> str:
        self._find()
        file = getattr(sys.modules[self.path.partition(":")[0]], "__file__", None)
        return self.path if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()

    def _find(self) -> Any:
        module, _, attribute = self.path.partition(":")
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"policy {self.path!r} cannot be imported: {error}.") from error
        return found

    def make(self, config: EnvConfig) -> Player | Tabulated:
        found = self._find()
        ready = not inspect.isclass(found) and hasattr(found, "act")
        policy = found if ready else found(config)
        for method in ("reset", "act"):
            if not callable(getattr(policy, method, None)):
                raise ConfigError(
                    f"policy {self.path!r} has no method {method!r}: it needs reset(n) and act(observation, "
                    "state), see policies.base.Policy."
                )
        return tabulated(policy)


def tabulated(policy: Any) -> Player | Tabulated:
    """The policy, as a table where its quotes depend on time and position alone."""
    plain = isinstance(policy, QuotingPolicy) and type(policy).act is QuotingPolicy.act
    return Tabulated(policy) if plain else policy


def known_policies() -> list[str]:
    """Names that `make_policy` knows."""
    with contextlib.suppress(ConfigError):
        make_policy("", make_config("brownian"))
    return sorted(POLICIES)


def model_config(text: str) -> EnvConfig | None:
    """The configuration a trained model or bundle was made under; None for other policies."""
    path = Path(text)
    if path.suffix == SUFFIX:
        return load_bundle(path).config
    if path.exists() and (path.is_dir() or path.suffix == ".zip"):
        from train.evaluate import load

        return load(path)[1]
    return None


def parameters(text: str) -> tuple[tuple[str, float], ...]:
    """name=value,... as pairs."""
    pairs = []
    for part in text.split(",") if text else []:
        name, equals, value = part.partition("=")
        try:
            pairs.append((name.strip(), float(value)))
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"policy parameter {part!r} is not possible: write name=number.")
    return tuple(pairs)


# Data.


def base_market(options: Backtest, data: str, models: list[EnvConfig]) -> Market:
    """The market of DATA; where models were trained on it, as they were."""
    step = {} if options.step is None else {"step_seconds": options.step}
    if data in MARKETS and data != "replay":
        trained = [model.market for model in models if model.market.name == data]
        if len({repr(market) for market in trained}) > 1:
            raise ConfigError(
                f"the models were trained on different {data!r} markets: backtest one at a time."
            )
        found = trained[0] if trained else make_config(data).market
        return dataclasses.replace(found, **step)
    if not Path(data).is_dir():
        raise ConfigError(
            f"DATA = {data!r} is neither a store of recorded tapes (a folder that `neuralmm import` wrote) "
            f"nor a simulated market ({', '.join(name for name in MARKETS if name != 'replay')})."
        )
    chosen: dict[str, Any] = {
        "store": data,
        "venue": options.venue,
        "symbol": options.symbol,
        "order_latency_ms": options.latency,
        "order_latency": options.latency_model,
        "latency_file": str(options.latency_file or ""),
        "fractions": options.fractions,
        "queue_model": options.queue,
        **step,
    }
    trained_here = [m.market for m in models if isinstance(m.market, Replay)]
    market = dataclasses.replace(trained_here[0], **chosen) if trained_here else Replay(**chosen)
    learned = any(Path(m.store).resolve() == Path(data).resolve() for m in trained_here) or tunes(options)
    return dataclasses.replace(market, split=options.split or ("test" if learned else "all"))


def tunes(options: Backtest) -> bool:
    """Whether any of the policies takes its parameters from the data."""
    return any(text in TUNABLE for text in options.arguments[:-1])


def entrants(options: Backtest) -> tuple[list[Entrant], int]:
    """The policies with their configurations, and how many configurations were tried for them."""
    *texts, data = options.arguments
    if not texts:
        raise ConfigError("give at least one policy, and then the data: neuralmm backtest glft store")
    configs = {text: model_config(text) for text in texts}
    models = [config for config in configs.values() if config is not None]
    market = base_market(options, data, models)
    shared: dict[str, Any] = {}
    if models:
        shared = {name: getattr(models[0], name) for name in ("quote", "risk", "horizon", "reward")}
    if options.fees is not None:
        shared["maker_fee_bp"] = options.fees
    if options.session is not None:
        shared["horizon"] = options.session
    if options.loss_limit is not None:
        risk = shared.get("risk", make_config(market).risk)
        shared["risk"] = dataclasses.replace(risk, daily_loss_limit=options.loss_limit)
    found, tries = [], options.tries
    labels = short_names(texts)
    for text in texts:
        model = configs[text]
        seen = () if model is None else ("features", "signals", "manager")
        own = {name: getattr(model, name) for name in seen}
        config = make_config(market, **shared, **own)
        source, tried = make_source(text, labels[text], config, options.calibration)
        found.append(Entrant(source, config))
        tries += tried
    return found, tries


def short_names(texts: list[str]) -> dict[str, str]:
    """What the policies are called: without parameters or folder where that tells them apart."""

    def short(text: str) -> str:
        path = Path(text)
        if path.suffix in (".zip", SUFFIX) or path.is_dir():
            return path.stem
        name, _, rest = text.partition(":")
        return name if name in known_policies() else rest or text

    names = [short(text) for text in texts]
    return {t: name if names.count(name) == 1 else t for t, name in zip(texts, names, strict=True)}


def make_source(text: str, label: str, config: EnvConfig, calibration: Path | None = None) -> tuple[Any, int]:
    """Where the policy `text` comes from, and how many configurations were tried to choose it."""
    name, _, rest = text.partition(":")
    path = Path(text)
    if path.suffix in (".zip", SUFFIX) or path.is_dir():
        file = path / "best_model.zip" if path.is_dir() else path
        if not file.exists():
            raise FileNotFoundError(f"{file}: there is no model; `neuralmm train` makes one.")
        return File(label, file), 0
    if name in known_policies():
        if not rest and name in TUNABLE:
            if solvable(config):
                return Fixed(label, tune(name, config).policy), 0
            print(f"choosing the parameters of {name} on the training data...", file=sys.stderr)
            return Fixed(label, tune_by_simulation(name, config, calibration)), len(
                GRID[TUNABLE[name][0]]
            ) - 1
        source = Named(label, name, parameters(rest))
        source.make(config)  # says at once what is wrong with them
        return source, 0
    if rest:
        return Object(label, text), 0
    raise ConfigError(
        f"policy = {text!r} is not known: give a model's folder or .zip, a bundle (.mmz), module:attribute, "
        f"or one of {', '.join(known_policies())}."
    )


# The command.


def run(options: Backtest) -> Result:
    """Play, write summary and tear sheet, and give the result."""
    chosen, tries = entrants(options)
    settings = Settings(
        start=options.start,
        end=options.end,
        days=options.days,
        seed=options.seed,
        signal=options.signal,
        patience=options.patience,
        jobs=options.jobs,
        ray=options.ray,
        capital=options.capital,
        tries=tries,
        sensitivity=options.sensitivity,
        command=shlex.join(["neuralmm", "backtest", *without_places(sys.argv[1:])]),
    )
    folder = options.out or default_folder(options, chosen)
    result = backtest(chosen, folder, settings)
    write_json(folder / "summary.json", result.summary())
    write_report(result, folder / "report.html")
    return result


def default_folder(options: Backtest, chosen: list[Entrant]) -> Path:
    """One folder under logs/ for each choice, so that the same command finds what it has done."""
    apart = (*PLACES, "patience")
    plain = {k: str(v) for k, v in dataclasses.asdict(options).items() if k not in apart}
    told = json.dumps([plain, [entrant.source.key for entrant in chosen]])
    data = Path(options.arguments[-1]).name
    return Path("logs") / f"backtest-{data}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


SHOWN = (
    *("profit", "spread_capture", "adverse_selection", "carry", "fees", "sharpe_annual", "max_drawdown"),
    *("fills", "profit_bp", "win_rate", "mean_inventory"),
)


def table(result: Result) -> Table:
    """The main figures of every policy."""
    found = Table(
        title=f"{result.folder}", caption=f"money in {result.currency}; intervals 95%, moving blocks"
    )
    found.add_column("")
    for name in result.runs:
        found.add_column(name, justify="right")
    for figure in SHOWN:
        cells = [show(figures[figure], FIGURES[figure][1]) for figures in result.figures.values()]
        found.add_row(FIGURES[figure][0], *cells)
    return found


def main() -> None:
    from train.evaluate import wide_console

    options = tyro.cli(Backtest)
    try:
        result = run(options)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues where it stopped.")
    console = wide_console()
    console.print(table(result))
    console.print(f"tear sheet: {result.folder / 'report.html'}")


if __name__ == "__main__":
    main()
