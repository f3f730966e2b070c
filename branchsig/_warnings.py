"""Warnings attributed to the caller's line, from any depth inside the package."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType

_passed_over: tuple[str, ...] = ()
_changing = threading.Lock()


def pass_over(file: str) -> None:
    """Take the lines of a package, whose `__file__` this is, for none that a user could change."""
    global _passed_over
    with _changing:
        _passed_over += (os.path.dirname(os.path.abspath(file)) + os.sep,)


pass_over(__file__)


_collecting = threading.local()


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warn at the innermost stack frame outside the package and the framework that calls it."""
    messages = getattr(_collecting, "messages", None)
    if messages is not None:
        messages.append((message, category))
        return
    level, _ = _caller()
    warnings.warn(message, category, stacklevel=level)


@contextlib.contextmanager
def collected() -> Iterator[list[tuple[str, type[Warning]]]]:
    """Collect what this thread would warn of, for a place that has no caller to point at."""
    messages: list[tuple[str, type[Warning]]] = []
    _collecting.messages = messages
    try:
        yield messages
    finally:
        _collecting.messages = None


def line_of_the_caller() -> tuple[str, int]:
    """Return the file and the line that a warning would point at."""
    _, frame = _caller()
    return frame.f_code.co_filename, frame.f_lineno


def _caller() -> tuple[int, FrameType]:
    """How far the first frame outside the package is up the stack from the caller of this function, and that frame."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_passed_over):
        level, frame = level + 1, frame.f_back
    return level, frame
