"""Pytest's hooks of `.ci/run`, where FAIL_SKIPPED=1: a skipped test fails, unless its reason is one of these."""

import os

import pytest

# Hardware, kernel rights and data that only some machines have.
ACCEPTED = ("needs a CUDA GPU", "needs the optional ", "no network namespaces")


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a report of a skipped test one of a failed test, unless its reason is accepted."""
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("FAIL_SKIPPED"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(ACCEPTED):
            report.outcome = "failed"
            report.longrepr = f"skipped, which FAIL_SKIPPED forbids: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _refuse_skip(report)
    return report
