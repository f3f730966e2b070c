"""Warnings: one a call, at the line of the caller outside this package, however deep within it they are given."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_HERE = str(Path(__file__).parent)


def warn(message: str) -> None:
    """Give a RuntimeWarning at the line that called into this package.

    Python walks up the stack in this way by itself from 3.12 on (``skip_file_prefixes``).
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)
