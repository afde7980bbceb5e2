"""The settings of a run of training: defaults by market, files, and the folder that keeps them."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmenv.checks import ConfigError, check_keys, require
from mmenv.config import DEFAULT_MARKET, EnvConfig, make_config
from mmenv.files import replacing
from mmenv.market.base import MARKETS, with_preset
from mmenv.run.provenance import PLACES, provenance

APART = (*PLACES, "resume", "config")
"""Settings that say where a run is and change nothing of it."""

UNASKED = tuple(name for name in (*APART, "final_episodes") if name != "name")
"""Settings of which a resumed run may be given others."""

DEFAULTS = Path(__file__).with_name("defaults.toml")
"""What differs from market to market."""

LAST_MODEL = "last_model.zip"
"""What a run writes when it is finished."""

PATHS = ("logs", "store", "pretrained", "config")
"""Settings that are paths."""


STUDY_STEPS = 5_000_000
"""Decisions of a run in a study, sweep or population that does not say how many."""

LEAST: dict[str, float] = {
    **dict.fromkeys(("steps", "num_envs", "n_steps", "batch_size", "n_epochs", "lstm_size", "net_arch"), 1),
    **dict.fromkeys(("workers", "threads", "eval_every", "eval_episodes", "checkpoint_every"), 1),
    **dict.fromkeys(("seed", "start_inventory", "final_episodes", "min_std", "noise_memory"), 0),
    **dict.fromkeys(("gamma", "gae_lambda", "prediction_coef"), 0),
}
"""The least that a setting may be, where it is given."""

MOST: dict[str, float] = {"gamma": 1, "gae_lambda": 1, "seed": 2**32 - 1}
"""The most that a setting may be."""

ABOVE: dict[str, float] = dict.fromkeys(
    ("minutes", "learning_rate", "reward_scale", "clip_range", "max_grad_norm", "target_kl"), 0
)
"""What a setting must be above."""

BELOW: dict[str, float] = {"noise_memory": 1, "learning_rate": math.inf}
"""What a setting must be below."""

BOUNDS: tuple[tuple[str, dict[str, float], Callable[[float, float], bool]], ...] = (
    ("at least", LEAST, operator.ge),
    ("at most", MOST, operator.le),
    ("above", ABOVE, operator.gt),
    ("below", BELOW, operator.lt),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Train the recurrent policy, then evaluate it against the optimum and the baselines."""

    market: str = DEFAULT_MARKET
    """A registered market, NAME:PRESET, or FILE.json:NAME as `neuralmm calibrate` wrote it; its defaults for
    everything below are in train/defaults.toml."""
    set: tuple[str, ...] = ()
    """Environment settings as name=value, such as horizon=100, market.tilt=0.2, quote.max_half_spread=4 or
    features=[\\"tape\\",\\"inventory\\",\\"clock\\"]."""
    judged: tuple[str, ...] = ()
    """Environment settings of evaluation, and of the finished model, where they are not those of training."""
    config: Path | None = None
    """TOML file of settings such as `neuralmm sweep` writes; options given beside it go before it."""
    seed: int = 0
    minutes: float = 5.0
    """Time to train for where `steps` does not say how far: a speed measured at the start turns it into
    steps, which are written into the run's configuration, so that it can be resumed and reproduced
    exactly."""
    steps: int | None = None
    """Decisions to train for, over all environments."""
    num_envs: int = 32
    n_steps: int = 300
    """Decisions of each environment between two updates."""
    batch_size: int = 1200
    n_epochs: int = 2
    learning_rate: float = 3e-3
    falling: bool = True
    """The learning rate falls linearly to 0."""
    gamma: float = 0.98
    gae_lambda: float = 0.3
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 5.0
    cell: Literal["lstm", "gru", "mingru", "lru", "none"] = "lstm"
    """mingru, lru: see `policies.network.min_gru` and `policies.network.lru`; none: an LSTM whose memory is
    held shut, so a feed-forward policy of the same size."""
    lstm_size: int = 64
    critic: Literal["privileged", "memoryless", "lstm", "shared"] = "privileged"
    """privileged: it sees the hidden state of a simulated market (group `latent`), which the actor never
    does, and reads the actor's memory; memoryless: it sees the hidden state and remembers nothing; lstm: an
    LSTM of its own; shared: the actor's LSTM."""
    prediction_coef: float = 0.5
    """Weight of the loss of the actor's memory predicting that hidden state."""
    net_arch: tuple[int, ...] = (64, 64)
    noise_memory: float = 0.0
    """How much of the exploration noise lasts to the next decision, from 0 to below 1: with independent noise
    no trajectory shows what it is worth to hold a place in a queue."""
    log_std_init: float = -1.0
    std_falls: bool = False
    """The most that the standard deviation may be falls linearly from its first value to the floor: where the
    best quotes under noise are not those without (see policies.network.recurrent)."""
    min_std: float = 0.02
    """Floor of the standard deviation of the actions in training."""
    target_kl: float | None = 0.1
    """Stop an update once the policy has moved 1.5 times as far (approximate KL divergence)."""
    reward_scale: float = 0.1
    start_inventory: int = 5
    """Training episodes start with up to this position, so that all of them are seen from the first day."""
    control_variate: bool = True
    """Take the zero-mean noise off the rewards (see mmenv.step.ledger)."""
    surprise_control: bool = True
    """Take what surprises explain off the advantages (see train.learner.control_variate)."""
    workers: int = 1
    """Processes that train the one policy together, each with its part of environments and minibatches."""
    ray: str | None = None
    """Run them on a Ray cluster: its address, "auto" for the one running here, "local" to start one."""
    device: str = "auto"
    """cpu, cuda, ...; auto: a GPU where there is one and the minibatches are large enough for it."""
    threads: int | None = None
    """CPU threads of the update; by default the fastest, measured at the start."""
    eval_every: int = 250_000
    """Decisions between two evaluations."""
    eval_episodes: int = 512
    checkpoint_every: int = 10
    """Updates between two checkpoints."""
    final_episodes: int = 4096
    """Episodes of the table at the end; 0 prints none."""
    store: Path | None = None
    """Store of recorded tapes: the same policies on its test split, and the tapes of markets replay and
    replay-basket."""
    pretrained: Path | None = None
    """A multi-task signal (.mms) of one recurrent layer of `lstm_size`: the actor's memory starts as it."""
    logs: Path = Path("logs")
    name: str | None = None
    """Folder of the run under `logs`; by default market and number."""
    resume: Path | None = None
    """Folder of an interrupted run to continue; all other settings then come from there."""

    def __post_init__(self) -> None:
        for words, bounds, holds in BOUNDS:
            for name, bound in bounds.items():
                value = getattr(self, name)
                given = value if isinstance(value, tuple) else () if value is None else (value,)
                if not all(holds(number, bound) for number in given):
                    raise ConfigError(f"{name} = {value!r} is not possible: it must be {words} {bound:.10g}.")


def require_shares(settings: Settings, workers: int) -> None:
    """Raise `ConfigError` where environments or minibatches cannot be shared out among so many workers."""
    for name in ("num_envs", "batch_size"):
        value = getattr(settings, name)
        require(value % workers == 0, "Settings", name, value, f"a multiple of the {workers} workers")


def judge_config(settings: Settings) -> EnvConfig:
    """The configuration that policies are judged under and made for."""
    return env_config(dataclasses.replace(settings, set=(*settings.set, *settings.judged)))


def env_config(settings: Settings) -> EnvConfig:
    """The configuration that `--market`, `--store` and `--set` ask for."""
    overrides: dict[str, Any] = {}
    for item in settings.set:
        path, _, text = item.partition("=")
        if not text:
            raise ConfigError(f"--set {item!r} is not possible: write name=value, such as horizon=100.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *groups, name = path.split(".")
        at = overrides
        for group in groups:
            at = at.setdefault(group, {})
        at[name] = value
    market = {"name": settings.market, **overrides.pop("market", {})}
    if settings.market in ("replay", "replay-basket") and settings.store is not None:
        market.setdefault("store", str(settings.store))
    return make_config(market, **overrides)


def new_folder(settings: Settings) -> Path:
    """The folder of a new run; it must not exist yet."""
    if settings.name is not None:
        folder = settings.logs / settings.name
        if folder.exists():
            raise ConfigError(f"--name {settings.name!r}: {folder} exists; choose another, or --resume it.")
        return folder
    number = 1
    while (folder := settings.logs / f"{kind(settings.market)}_{number}").exists():
        number += 1
    return folder


def kind(market: str) -> str:
    """The registered market behind a name, which may be NAME:PRESET, or FILE.json:NAME of a calibration."""
    name, preset = with_preset(market)
    return name if preset else Path(name.rpartition(":")[2]).stem


def write_settings(folder: Path, settings: Settings, config: EnvConfig) -> None:
    """`config.json` of the run: everything needed to continue it or do it again."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": plain(settings) | {"name": folder.name, "resume": None, "config": None, "ray": None},
        "env": config.to_dict(),
        "schema_id": config.schema_id,
        "provenance": origin(settings, config),
    }
    with replacing(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2))


def refuse_changes(asked: Settings, stored: Settings) -> None:
    """Raise `ConfigError` where the command line asks for other settings than the run was begun with."""
    usual = market_defaults(asked.market)
    for field in dataclasses.fields(Settings):
        given, kept = getattr(asked, field.name), getattr(stored, field.name)
        if field.name in UNASKED or given in (getattr(usual, field.name), kept):
            continue
        option = f"--{field.name.replace('_', '-')}"
        raise ConfigError(
            f"{option} = {given!r} is not possible with --resume: the run was begun with {kept!r} and goes "
            "on with it, to the same bytes; leave it out, or begin a new run."
        )


def plain(settings: Settings) -> dict[str, Any]:
    """The settings as JSON types."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(settings).items()}


def origin(settings: Settings, config: EnvConfig) -> dict[str, Any]:
    """Where what a run trains comes from (`mmenv.run.provenance`)."""
    chosen = {name: value for name, value in plain(settings).items() if name not in APART}
    data: list[str | Path] = [*config.market.data]
    if settings.pretrained is not None:
        data.append(settings.pretrained)
    return provenance([chosen, config.to_dict()], settings.seed, data=data)


def read_settings(folder: Path) -> tuple[Settings, EnvConfig]:
    """The settings of an interrupted run."""
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"--resume {folder}: there is no {path.name}; name the folder of a run.")
    stored = json.loads(path.read_text())
    plain = stored["settings"]
    for name in ("set", "judged", "net_arch"):
        plain[name] = tuple(plain.get(name, ()))
    for name in PATHS:
        plain[name] = None if plain.get(name) is None else Path(plain[name])
    return Settings(**plain), make_config(**stored["env"])


def defaults(arguments: list[str]) -> Settings:
    """The settings before the command line: of the file it names, or of the market."""
    given = {"market": Settings.market}
    for name in ("market", "config"):
        for i, argument in enumerate(arguments):
            if argument.startswith(f"--{name}="):
                given[name] = argument.partition("=")[2]
            elif argument == f"--{name}" and i + 1 < len(arguments):
                given[name] = arguments[i + 1]
    if "config" not in given:
        return market_defaults(given["market"])
    path = Path(given["config"])
    if not path.is_file():
        raise FileNotFoundError(f"--config {path}: there is no such file.")
    return from_table(path.name, tomllib.loads(path.read_text()))


def from_table(where: str, given: dict[str, Any]) -> Settings:
    """Settings from a table of a TOML file, those it does not name as the market's defaults."""
    check_keys(where, given, [f.name for f in dataclasses.fields(Settings)])
    typed: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else Path(v) if name in PATHS else v
        for name, v in given.items()
    }
    return dataclasses.replace(market_defaults(given.get("market", Settings.market)), **typed)


def market_defaults(market: str) -> Settings:
    """The defaults of a market."""
    market_kind = kind(market)
    stored = tomllib.loads(DEFAULTS.read_text()).get(market_kind, {}) if market_kind in MARKETS else {}
    stored = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    check_keys(f"{DEFAULTS.name} [{market_kind}]", stored, [f.name for f in dataclasses.fields(Settings)])
    return Settings(market=market, **stored)
