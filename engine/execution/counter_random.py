"""Uniform draws that are a function of (seed, position) and of nothing else.

The mixing is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014)
with its finaliser (Stafford's variant 13): the seed is finalised into a key, and the draw for position p is
output p of the SplitMix64 stream that starts at that key. Finalising the seed first keeps the streams of
neighbouring seeds (the choices of one request) from being shifted copies of each other. All arithmetic is
modulo 2**64 on int64, which wraps alike on every device.
"""

import torch

_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_MASK = (1 << 64) - 1


def stream_key(seed: int) -> int:
    """Key of the stream of `seed` (taken modulo 2**64), as a signed 64-bit integer for an int64 tensor."""
    z = (seed + _GAMMA) & _MASK
    for shift, multiplier in _MULTIPLIERS:
        z = ((z ^ (z >> shift)) * multiplier) & _MASK
    return _signed(z ^ (z >> _LAST_SHIFT))


def uniform(keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """float64 in [0, 1) with 53 random bits for each int64 pair of a `stream_key` and a position >= 0."""
    z = keys + (positions + 1) * _signed(_GAMMA)
    for shift, multiplier in _MULTIPLIERS:
        z = (z ^ _shifted(z, shift)) * _signed(multiplier)
    z = z ^ _shifted(z, _LAST_SHIFT)
    return _shifted(z, 11).to(torch.float64) * 2.0**-53


def _shifted(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift; that of int64 is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
