"""Jobs on processes of this machine, see `mmenv.run.jobs`."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections import deque
from functools import partial
from multiprocessing import connection, get_context
from typing import Any

from mmenv.run.job import RETRIES, Done, Job, Workers, lost, perform


class Processes(Workers):
    """`count` processes of this machine; each does one job after another."""

    def __init__(self, count: int, retries: int = RETRIES) -> None:
        self.capacity, self.retries = count, retries
        self._waiting: deque[tuple[Job, int]] = deque()  # with how many workers it has cost
        self._busy: dict[connection.Connection, tuple[Any, Job, int]] = {}
        self._idle: list[tuple[Any, connection.Connection]] = []
        self._told: dict[str, int] = {}
        self._context = get_context("spawn")

    def submit(self, job: Job) -> None:
        self._waiting.append((job, 0))
        self._fill()

    def collect(self, seconds: float) -> list[Done]:
        found: list[Done] = []
        until = time.monotonic() + seconds
        while not found and self._busy and (left := until - time.monotonic()) > 0:
            for ready in connection.wait(list(self._busy), left):
                found += self._hear(ready)
            self._fill()
        return found

    def progress(self) -> dict[str, int]:
        return dict(self._told)

    def close(self) -> None:
        for process, _, _ in self._busy.values():
            process.terminate()
        for pipe in [*self._busy, *(pipe for _, pipe in self._idle)]:
            pipe.close()  # the end of an idle process
        for process in [p for p, _, _ in self._busy.values()] + [p for p, _ in self._idle]:
            process.join()
        self._waiting.clear()
        self._busy.clear()
        self._idle.clear()

    def _fill(self) -> None:
        """Give waiting jobs to idle or new workers."""
        while self._waiting and len(self._busy) < self.capacity:
            job, times = self._waiting.popleft()
            process, pipe = self._idle.pop() if self._idle else self._start()
            self._busy[pipe] = (process, job, times)
            self._told[job.name] = 0
            # A worker that died while idle is noticed as one that dies at work: its pipe ends.
            try:
                pipe.send_bytes(pickle.dumps(job))
            except OSError:
                continue

    def _start(self) -> tuple[Any, connection.Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,))
        process.start()
        theirs.close()
        return process, ours

    def _hear(self, pipe: Any) -> list[Done]:
        """Take in what a worker says, or that it is gone; what came of its job, if it has ended."""
        process, job, times = self._busy[pipe]
        try:
            kind, content = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return self._bury(pipe, process, job, times + 1)
        if kind == "tell":
            self._told[job.name] = content
            return []
        del self._busy[pipe], self._told[job.name]
        self._idle.append((process, pipe))
        return [content]

    def _bury(self, pipe: Any, process: Any, job: Job, times: int) -> list[Done]:
        """A job has lost its worker: give it to another one, or up."""
        pipe.close()
        process.join()
        del self._busy[pipe], self._told[job.name]
        if times <= self.retries:
            self._waiting.appendleft((job, times))
            return []
        return [Done(job.name, error=lost(job.name, times, f"exit code {process.exitcode}"))]


def _serve(pipe: connection.Connection) -> None:
    """Life of a process: jobs come through the pipe, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us

    def send(kind: str, content: Any) -> None:
        try:
            pipe.send_bytes(pickle.dumps((kind, content)))
        except OSError:
            os._exit(1)  # the parent is gone, and with it everybody who would want this

    while True:
        try:
            job = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        send("done", perform(job, partial(send, "tell")))
