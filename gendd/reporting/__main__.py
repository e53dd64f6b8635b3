"""Compare finished runs: python -m gendd.reporting RUN [RUN ...] --output FOLDER."""

from gendd.command_line import parse
from gendd.errors import run_program
from gendd.reporting.report import ReportConfig, write_report


def main(arguments: list[str] | None = None) -> None:
    write_report(parse(ReportConfig, "gendd.reporting", arguments))


if __name__ == "__main__":
    run_program(main)
