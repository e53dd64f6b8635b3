"""The report program."""

from gendd.family import Family
from gendd.programs.command_line import parse
from gendd.reporting.report import ReportConfig, write_report


def report(family: Family, arguments: list[str]) -> None:
    """Compare finished runs.

    Raises:
        UserError: see `write_report`.
    """
    write_report(parse(ReportConfig, f"{family.command} report", arguments))
