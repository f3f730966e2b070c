"""A plugin of pytest: tests that have passed in one run are left out of the next ones, which bring what others need.

PASSED is the path of a list of their names. The first run writes it, since it is not there yet.
"""

import os
from pathlib import Path

PATH = Path(os.environ["PASSED"])
names = set(PATH.read_text(encoding="utf-8").splitlines()) if PATH.exists() else None
passed = []


def pytest_collection_modifyitems(config, items):
    if names is None:
        return
    left_out = [item for item in items if item.nodeid in names]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.nodeid not in names]


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        passed.append(report.nodeid)


def pytest_sessionfinish(session):
    if names is None and not hasattr(session.config, "workerinput"):  # with workers, their reports come here
        PATH.write_text("\n".join(passed), encoding="utf-8")
