"""Cells by anti-diagonals, which do not depend on each other and can be solved simultaneously."""

from __future__ import annotations

from branchsig._arrays import Array, device_of, namespace_of

__all__ = ["down", "skewed", "unskewed"]


def skewed(cells: Array) -> Array:
    """Cells (pairs, R, C, ...) with row r moved to the right by r, (pairs, R, R + C - 1, ...): anti-diagonals are
    columns."""
    xp = namespace_of(cells)
    pairs, rows, columns, *rest = cells.shape
    padding = xp.zeros((pairs, rows, rows, *rest), dtype=cells.dtype, device=device_of(cells))
    flat = xp.reshape(xp.concat([cells, padding], axis=2), (pairs, rows * (rows + columns), *rest))
    return xp.reshape(flat[:, : rows * (rows + columns - 1), ...], (pairs, rows, rows + columns - 1, *rest))


def unskewed(diagonals: Array) -> Array:
    """Inverse of `skewed`."""
    xp = namespace_of(diagonals)
    pairs, rows, number, *rest = diagonals.shape
    flat = xp.reshape(diagonals, (pairs, rows * number, *rest))
    padding = xp.zeros((pairs, rows, *rest), dtype=diagonals.dtype, device=device_of(diagonals))
    square = xp.reshape(xp.concat([flat, padding], axis=1), (pairs, rows, number + 1, *rest))
    return square[:, :, : number + 1 - rows, ...]


def down(cells: Array) -> Array:
    """Values of the cell above: rows moved down by one, 0 in the first row."""
    xp = namespace_of(cells)
    return xp.concat([xp.zeros_like(cells[:, :1, ...]), cells[:, :-1, ...]], axis=1)
