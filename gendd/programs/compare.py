"""The compare program: trains methods with seeds by the scripts of sh/, several at a time, then reports them all."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gendd.errors import UserError, run_program
from gendd.programs.jobs import Job, at_work, place_of, refuse_failures, train_all
from gendd.reporting.report import ReportConfig, write_report

USAGE = 'bash sh/compare.sh DATA TEACHER STUDENT "METHODS" "SEEDS" [flags]'
# Their scripts begin with a stage 1 that they share: with one seed they take turns.
TWO_STAGES = ("gendd", "regression")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and report; what is done is not trained again, and a run that fails does not stop the others.

    Raises:
        UserError: a command that cannot work. PassingFault: some runs failed.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if len(arguments) < 5:
        raise UserError(f"what is compared? {USAGE}")
    data, teacher, student, methods, seeds, *flags = arguments
    place, flags = place_of(flags)
    output = Path(os.environ.get("OUTPUT") or f"runs/comparisons/{data}_{teacher}_{student}")
    jobs = [
        Job(
            f"{method}, seed {seed}",
            (*command_of(method, data, teacher, student), *flags, "--seed", seed),
            output / f"{method}-{seed}.log",
            seed if method.startswith(TWO_STAGES) else None,
        )
        for seed in seeds.split()
        for method in methods.split()
    ]
    with at_work(output) as lock:
        folders = train_all(jobs, output, place, lock)
    if runs := tuple(filter(None, folders.values())):
        write_report(ReportConfig(runs, str(output)))
    refuse_failures(folders)


def command_of(method: str, data: str, teacher: str, student: str) -> tuple[str, ...]:
    """How a method is trained: by the pair's own script, else by the data's baseline script.

    Raises:
        UserError: there is neither.
    """
    own, baseline = (f"sh/train_{name}.sh" for name in (f"{data}_{teacher}_{student}_{method}", f"{data}_baseline"))
    if Path(own).is_file():
        return "bash", own
    if Path(baseline).is_file():
        return "bash", baseline, method, teacher, student
    raise UserError(f"METHODS {method}: neither {own} nor {baseline} is there; see ls sh/")


if __name__ == "__main__":
    run_program(main)
