"""The command line: ``branchsig info``, ``demo``, ``gram``, ``test`` and ``fit``.

Arguments come in, text goes out on standard output, and the exit status is 0 if everything went well.
"""

from branchsig.cli.main import main

__all__ = ["main"]
