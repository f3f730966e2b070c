"""``python -m branchsig``: the same as the command ``branchsig``."""

from branchsig.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
