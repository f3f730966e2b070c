"""Warnings that point at the line of the caller, however deep in the package they arise."""

from __future__ import annotations

import os
import sys
import warnings

_passed_over: tuple[str, ...] = ()


def pass_over(file: str) -> None:
    """Take the lines of a package, whose `__file__` this is, for none that a user could change."""
    global _passed_over
    _passed_over += (os.path.dirname(os.path.abspath(file)) + os.sep,)


pass_over(__file__)


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warn at the first line outside the package, and the framework that calls it, on the way up the stack."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_passed_over):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
