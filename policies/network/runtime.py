"""Networks one observation at a time, as a desk meets them: compiled, stateful, without torch.

    stream = Stream(network)        # one stream; `stream.step(observation)` makes no array
    stream.state = saved            # bytes of the same network, from before the restart

`BatchPolicy` steps the rows of a batch with the very same code, so training tables, backtest and live desk
see the same bytes.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mmenv.checks import ConfigError
from policies.network.layers import Network
from policies.network.program import Program, step, step_rows


class Stream:
    """One stream of observations through a network, with its memory: what a live desk holds."""

    engine = "numba"

    def __init__(self, network: Network) -> None:
        self.network = network
        self.program = Program(network)
        self._operations = self.program.operations
        self._action = self.program.action

    def step(self, observation: np.ndarray) -> np.ndarray:
        """The action, float32 (outputs,), after `observation`, float32 (inputs,).

        It is the same array at every step; copy it to keep it. An observation with an entry that is not
        finite (or beyond `LARGEST`) gives an action of NaN, which quotes nothing, and leaves the state alone.
        """
        try:
            step(self._operations, observation)
        except TypeError:  # another type or layout, or read-only: copied
            step(self._operations, np.array(observation, np.float32))
        return self._action

    def reset(self) -> None:
        """Start anew, without memory."""
        self.program.state[:] = 0

    @property
    def state(self) -> bytes:
        """The memory, to continue from after a restart."""
        return pack_state(self.network, self.program.state)

    @state.setter
    def state(self, saved: bytes) -> None:
        self.program.state[:] = unpack_state(self.network, saved)


def pack_state(network: Network, state: np.ndarray) -> bytes:
    """A state, float32 (S,), as bytes that say which network they belong to and whether they are whole."""
    head = bytes.fromhex(network.digest) + state.astype("<f4").tobytes()
    return head + hashlib.sha256(head).digest()[:8]


def unpack_state(network: Network, saved: bytes) -> np.ndarray:
    """The state, float32 (S,), that `pack_state` packed; raises `ConfigError` where it is another's."""
    whole = bytes(saved)
    body, check = whole[:-8], whole[-8:]
    if len(whole) < 24 or hashlib.sha256(body).digest()[:8] != check:
        raise ConfigError("The saved state of the policy is damaged; start without it.")
    if body[:16] != bytes.fromhex(network.digest):
        raise ConfigError("The saved state belongs to another policy; start without it, or load that policy.")
    return np.frombuffer(body[16:], "<f4").astype(np.float32)


class BatchPolicy:
    """A network as a `policies.base.Policy` of n environments; its memory is float32 (n, S)."""

    def __init__(self, network: Network, name: str = "bundle") -> None:
        self.network, self.name = network, name
        self._program = Program(network)

    def reset(self, n: int) -> np.ndarray:
        return np.zeros((n, self.network.state_size), np.float32)

    def act(self, observation: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        after = state.copy()
        actions = np.empty((len(observation), self.network.width_out), np.float32)
        step_rows(self._program.operations, np.ascontiguousarray(observation, np.float32), after, actions)
        return actions, after


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector away: what exists is set aside, and nothing is looked for until the end."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
