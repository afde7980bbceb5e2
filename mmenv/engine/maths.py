"""log, sine and cosine as straight-line float32 arithmetic: vectorised, and the same bytes on every machine.

The C library's versions are calls, which stop the compiler from using vector instructions, and they differ
between machines in the last bit. Errors here are below 3e-7 (tested); coefficients are fitted by
`numpy.polynomial` least squares on Chebyshev nodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from mmenv.engine.stage import inlined

F, D, I, U = np.float32, np.float64, np.int32, np.uint32  # noqa: E741  (the kinds of numbers in compiled code)
LN2 = F(np.log(2.0))
PER_LN2 = F(1 / np.log(2.0))


def fitted(f, low: float, high: float, degree: int) -> tuple[np.float32, ...]:
    """Coefficients, lowest first, of the near-minimax polynomial of `f` on [low, high]."""
    series = np.polynomial.Chebyshev.interpolate(f, degree, domain=(low, high))
    return tuple(F(c) for c in series.convert(kind=np.polynomial.Polynomial).coef)


# ln(m) = z (2 + z^2 P(z^2)) with z = (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)].
Z2 = (2**0.5 - 1) ** 2 / (2**0.5 + 1) ** 2
L0, L1, L2, L3 = fitted(lambda y: (np.log((1 + y**0.5) / (1 - y**0.5)) / y**0.5 - 2) / y, 1e-9, Z2, 3)
# sin(pi x / 2) = x S(x^2), cos(pi x / 2) = C(x^2), x in [-1/2, 1/2].
S0, S1, S2, S3 = fitted(lambda y: np.sin(np.pi / 2 * y**0.5) / y**0.5, 1e-12, 0.25, 3)
C0, C1, C2, C3 = fitted(lambda y: np.cos(np.pi / 2 * y**0.5), 0.0, 0.25, 3)
# 2^x, x in [0, 1], and x in [-1/2, 1/2].
E0, E1, E2, E3, E4, E5, E6 = fitted(lambda x: 2.0**x, 0.0, 1.0, 6)
H0, H1, H2, H3, H4, H5 = fitted(lambda x: 2.0**x, -0.5, 0.5, 5)

# log2(m) - 127, m in [1, 2].
G0, G1, G2, G3, G4 = fitted(lambda m: np.log2(m) - 127, 1.0, 2.0, 4)
# 2^x, x in [-1/2, 1/2].
Q0, Q1, Q2, Q3, Q4 = fitted(lambda x: 2.0**x, -0.5, 0.5, 4)


def _fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a x b + c of float32, rounded once: one instruction, or a slow call with the same result."""
    kind = types.float32

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return kind(kind, kind, kind), generate


fma: Any = intrinsic(_fma)


@inlined
def unit(word):
    """A uint32 as a float32 in (0, 1), symmetric about one half."""
    return F(I(word >> U(8))) * F(2.0**-24) + F(2.0**-25)


@inlined
def coin(word):
    """The lowest eight bits, which `unit` does not use, as a float32 in (0, 1)."""
    return (F(I(word & U(0xFF))) + F(0.5)) * F(1 / 256)


@inlined
def bell(word):
    """A float32 of mean 0 and variance 1, the sum of two uniforms: Gaussian once a few are added."""
    total = I(I(word & U(0xFFFF)) + I(word >> U(16)))
    return (F(total) * F(2.0**-16) - F(65535.0 / 65536.0)) * F(np.sqrt(6.0))


@inlined
def log(x):
    """Natural logarithm of a positive normal float32."""
    bits = F(x).view(np.int32)
    shifted = I(bits - I(0x3F3504F3))  # sqrt(1/2): the mantissa then lies around one
    exponent = I(shifted >> 23)
    mantissa = I(bits - I(exponent << 23)).view(np.float32)
    z = (mantissa - F(1)) / (mantissa + F(1))
    y = z * z
    return F(exponent) * LN2 + z * (F(2) + y * (L0 + y * (L1 + y * (L2 + y * L3))))


@inlined
def exp(x):
    """Exponential of a float32 in [-80, 80], to a relative error of 1e-6."""
    y = F(x) * PER_LN2
    whole = I(np.floor(y))
    f = y - F(whole)
    power = I((whole + I(127)) << 23).view(np.float32)
    return power * (E0 + f * (E1 + f * (E2 + f * (E3 + f * (E4 + f * (E5 + f * E6))))))


@inlined
def clipped_exp(x):
    """Exponential of a float32, which is clipped to +-40, to a relative error of 3e-6."""
    y = min(max(x, F(-40)), F(40)) * PER_LN2
    whole = np.floor(y + F(0.5))
    f = y - whole
    power = I(I(I(whole) + I(127)) << I(23)).view(np.float32)
    return power * (H0 + f * (H1 + f * (H2 + f * (H3 + f * (H4 + f * H5)))))


@inlined
def quick_log2(x):
    """Logarithm to base 2 of a positive normal float32, to 1.5e-4: no division, half the work of `log`."""
    bits = F(x).view(np.int32)
    m = I((bits & I(0x7FFFFF)) | I(0x3F800000)).view(np.float32)
    return F(I(bits >> 23)) + fma(m, fma(m, fma(m, fma(m, G4, G3), G2), G1), G0)


@inlined
def quick_exp2(x):
    """2^x of a float32 in [-100, 100], to a relative error of 2e-5."""
    whole = np.floor(x + F(0.5))
    f = x - whole
    value = fma(f, fma(f, fma(f, fma(f, Q4, Q3), Q2), Q1), Q0)
    return I(F(value).view(np.int32) + I(I(whole) << I(23))).view(np.float32)


@inlined
def lower(word):
    """The lowest 16 bits as a float32 in (0, 65536), symmetric about its middle."""
    return F(I(word & U(0xFFFF))) + F(0.5)


@inlined
def upper(word):
    """The highest 16 bits, as `lower`."""
    return F(I(word >> U(16))) + F(0.5)


@inlined
def exponential(word):
    """An exponential of mean 1 from the lowest 16 bits."""
    return -log((F(I(word & U(0xFFFF))) + F(0.5)) * F(1 / 65536))


@inlined
def normal(word0, word1):
    """A standard normal float32 from two uint32 (Box and Muller 1958)."""
    radius = np.sqrt(F(-2) * log(unit(word0)))
    # The angle as a quarter turn plus a rest in [-1/2, 1/2] quarters.
    turns = I(word1 >> U(8))
    quarter = I(turns >> 22) & I(3)
    x = F(turns & I(0x3FFFFF)) * F(2.0**-22) - F(0.5) + F(2.0**-23)
    y = x * x
    sine = x * (S0 + y * (S1 + y * (S2 + y * S3)))
    cosine = C0 + y * (C1 + y * (C2 + y * C3))
    value = sine if (quarter & I(1)) != I(0) else cosine
    return radius * (-value if (quarter & I(2)) != I(0) else value)
