"""Which pairs of paths a problem has."""

from __future__ import annotations

__all__ = ["count"]


def count(pairing: str, n1: int, n2: int) -> int:
    """Number of pairs that are computed."""
    if pairing == "paired":
        return n1
    return n1 * n2 if pairing == "gram" else n1 * (n1 + 1) // 2
