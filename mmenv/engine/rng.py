"""Random numbers as a pure function of (key, episode, step, slot): Philox4x32-10.

A counter in place of a state: every environment draws the same numbers whatever it quotes, whatever the
number of environments or threads, so policies are compared on the same paths. Source: Salmon, Moraes, Dror
and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mmenv.engine.stage import inlined

M0 = np.uint64(0xD2511F53)
M1 = np.uint64(0xCD9E8D57)
W0 = np.uint64(0x9E3779B9)
W1 = np.uint64(0xBB67AE85)
HALF = np.uint64(32)
LOWER = np.uint64(0xFFFFFFFF)

RESET_STEP = np.uint32(0xFFFFFFFF)
"""The step counter of draws made at reset."""


@inlined
def philox(c0, c1, c2, c3, k0, k1):
    """Four uint32 from counter (c0, c1, c2, c3) and key (k0, k1), all uint32."""
    # In 64 bits, of which the upper half may hold anything: to cut it off each time would split the vectors.
    c0, c1, c2, c3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
    k0, k1 = np.uint64(k0), np.uint64(k1)
    for _ in range(10):
        p0 = M0 * (c0 & LOWER)
        p1 = M1 * (c2 & LOWER)
        c0, c1 = (p1 >> HALF) ^ c1 ^ k0, p1
        c2, c3 = (p0 >> HALF) ^ c3 ^ k1, p0
        k0, k1 = k0 + W0, k1 + W1
    return np.uint32(c0), np.uint32(c1), np.uint32(c2), np.uint32(c3)


@inlined
def rotated(word, bits):
    """A uint32 turned left by `bits`."""
    return np.uint32(np.uint32(word << np.uint32(bits)) | np.uint32(word >> np.uint32(32 - bits)))


@njit(inline="always")  # not `inlined`: the loop of `book_flow.trade` would take a tenth longer
def xoroshiro(s0, s1):
    """A uint32 from a state of two, and the next state: a tenth of the work of `philox` for a word.

    The engine of xoroshiro64 under the scrambler ++, which multiplies nothing (Blackman and Vigna, "Scrambled
    linear pseudorandom number generators", 2021), for the few dozen words of a step. Seed it by `philox`, so
    that what is drawn stays a function of key, episode and step. The state must not be (0, 0).
    """
    mixed = s1 ^ s0
    word = np.uint32(rotated(np.uint32(s0 + s1), 17) + s0)
    return word, rotated(s0, 26) ^ mixed ^ np.uint32(mixed << np.uint32(9)), rotated(mixed, 13)


ASSET = np.uint32(W0)
"""How far apart the second keys of the assets of one environment are, modulo 2^32."""


@inlined
def environment_key(key1, asset):
    """The second key of an environment, from that of its asset number `asset`."""
    return np.uint32(key1 - np.uint32(asset * ASSET))


def asset_key(key1: int, asset: int) -> int:
    """The second key of asset number `asset`, from that of its environment: it draws numbers of its own, and
    finds those that all of them share."""
    return (key1 + asset * int(ASSET)) % 2**32


def keys(seed: int) -> tuple[int, int]:
    """The key of the environment seeded with `seed`."""
    a, b = np.random.SeedSequence(seed).generate_state(2)
    return int(a), int(b)
