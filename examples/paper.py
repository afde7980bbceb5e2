"""The whole live path on this machine: `python -m examples.paper`, or `make paper`.

A local exchange plays a recorded tape (or a random market, if there is no folder `store`) over loopback; a
recorder writes what it hears into another store; a desk trades on paper and shows its screen. At the end the
session is played again, and its market goes through the backtester. Everything stays in a new folder under
`logs/paper/`: the journal, and the store that was recorded.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

SYMBOL = "BTCUSDT"


@dataclass(frozen=True)
class Demo:
    """Exchange, recorder and desk on loopback."""

    store: Path = Path("store")
    """Recorded tapes with binance-usdm BTCUSDT, if there."""
    policy: str = "fixed-spread"
    """A bundle (policy.mmz), or the name of a policy; fixed-spread quotes two price units from the mid."""
    seconds: float = 60.0
    """Duration of the session."""
    max_loss: float = 1e6
    """Loss at which the desk halts; out of reach, for a random market owes nobody a profit."""
    logs: Path = Path("logs/paper")
    """The folder of the demonstration is made here."""

    def run(self) -> None:
        """Run until the time is up or a signal comes."""
        folder = new_folder(self.logs)
        recorded = folder / "recorded"
        with contextlib.ExitStack() as stack:
            print(f"Demonstration of {self.seconds:g} s; everything is kept in {folder}.", flush=True)
            if self.store.is_dir():
                store = self.store
            else:
                print(f"There is no {self.store}: the exchange plays a random market.", flush=True)
                store = made_up(folder)
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            serve = ["mmenv.exchange.serve", "--store", str(store), "--symbol", SYMBOL]
            stack.enter_context(running(*serve, "--venue", "binance-usdm", "--port", str(port)))
            until_open(port)
            record = ["mmenv.live.recorder", "binance-usdm", SYMBOL, "-o", str(recorded)]
            stack.enter_context(running(*record, "--url", url, "--no-progress"))
            common = ["--policy", self.policy]
            if self.policy == "fixed-spread":
                common += ["--parameters", "half_spread", "2.0"]
            journals = ["--journals", str(folder / "journals")]
            limits = ["--seconds", str(self.seconds), "--max-loss", str(self.max_loss)]
            print("The exchange is open; the desk connects and measures the market ...", flush=True)
            neuralmm("paper", *common, *journals, "--url", url, *limits)
        print("The session again, and its market through the backtester:", flush=True)
        journal = folder / "journals" / f"paper-binance-usdm-{SYMBOL}.journal"
        neuralmm("replay-journal", str(journal), *common)
        print(f"Journal: {journal}\nWhat the recorder heard: {recorded}")
        print(f"Next: neuralmm backtest glft {recorded}")


def new_folder(logs: Path) -> Path:
    """A folder of the first free number."""
    number = 1
    while (folder := logs / f"demo_{number}").exists():
        number += 1
    folder.mkdir(parents=True)
    return folder


def made_up(folder: Path) -> Path:
    """A store with ten minutes of a random market."""
    from mmenv.data.importer import Import
    from tests.helpers.captures import market, write

    path = write(folder / "capture.gz", market(seconds=600).lines)
    Import("binance", (path,), folder / "store", progress=False).run()
    return folder / "store"


@contextlib.contextmanager
def running(*module: str) -> Iterator[None]:
    """A module in a process of its own, ended politely."""
    process = subprocess.Popen([sys.executable, "-m", *module], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def neuralmm(*command: str) -> None:
    """The command line, in the foreground."""
    code = "from train.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *command], check=True)


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until_open(port: int, patience_s: float = 300.0) -> None:
    """Wait for the exchange. Raises TimeoutError."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise TimeoutError("the local exchange did not start")


if __name__ == "__main__":
    tyro.cli(Demo).run()
