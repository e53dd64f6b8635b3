"""Pytest hooks for `.ci/run`: with FAIL_SKIPPED=1 a skipped test fails, unless its reason is accepted."""

import os

import pytest

# Packages that the extra `test` does not install.
OTHER_PACKAGES = ("lightning", "mlflow", "wandb")
# Reasons that depend on the machine: hardware, kernel permissions, data and other packages.
ACCEPTED = (
    *("needs a CUDA GPU", "no network namespaces"),
    *(f"needs the optional {kind} " for kind in ("data folder", "photographs", "teacher")),
    *(f"needs the optional package {name}" for name in OTHER_PACKAGES),
)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Change the report of a skipped test to failed, unless its reason is accepted."""
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
