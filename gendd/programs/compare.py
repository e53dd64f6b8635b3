"""The compare program: train methods with several seeds in parallel, then report all of them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gendd.core.errors import UserError, naming
from gendd.family import FAMILIES, Family, family_named
from gendd.methods import get_method
from gendd.programs.jobs import Job, all_runs, at_work, place_of, refuse_failures, train_all
from gendd.programs.plain_flags import LAUNCHER, data_of, flags_of, plain_command, split_at_dashes
from gendd.reporting.report import ReportConfig, write_report
from gendd.runs.config_file import config_of
from gendd.runs.folder import data_name
from gendd.runs.recipes import recipes_of

SCRIPTS = Path(__file__).resolve().parents[2] / "sh"
USAGE = 'DATA TEACHER STUDENT "METHODS" "SEEDS" [flags], or "METHODS" "SEEDS" -- --dataset ... flags'
HELP = """\
Compare methods on a pair of networks: train each method with each seed, then write a report of all runs. For example:
  {command} "classification kd gendd" "0 1 2" -- --dataset digits --student resnet8 --teacher resnet14 ...
Each method gets the flags that it supports, and the teacher if it uses one. The images are photographs, unless the
data set is digits, cifar10 or cifar100, or FAMILY=gendd_cifar is set.

Names of a pair with a script or a recipe can replace the flags:
  {command} cifar100 resnet56 resnet20 "classification kd dkd gendd" "0 1 2" [flags for all runs]
In a checkout, sh/train_DATA_TEACHER_STUDENT_METHOD.sh trains the method if it exists (such as gendd_short), and
sh/train_DATA_baseline.sh METHOD TEACHER STUDENT all others. Elsewhere the pair's recipe does; the program recipes lists
them. classification is the student alone.

Run the same command again to keep finished runs and train the rest. The report includes earlier runs, such as other
seeds; OUTPUT/runs.txt lists all. A failed run does not stop the others; the last lines name it.

Environment variables:
  GPUS=2         number of GPUs of this machine, with one run on each (all if not set)
  JOBS=2         number of simultaneous runs without a GPU (1 if not set)
  OUTPUT=FOLDER  folder for the report and one log file per run (if not set: runs/comparisons/DATA_TEACHER_STUDENT,
                 or runs/comparisons/DATA with flags)

The flag --on slurm submits each run as a Slurm job with one GPU and a limit of HOURS=72. It needs
pip install "gendd[slurm]"; sbatch reads SBATCH_PARTITION and similar variables. --on local tests this on the current
machine."""


def compare(family: Family, arguments: list[str]) -> None:
    """Run the compare program of both families.

    Raises:
        UserError, PassingFault: see `main`.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        command = f"{family.command} compare"
        print(f"usage: {command} {USAGE}\n\n{HELP.format(command=command)}")
        return
    main(arguments)


def main(arguments: Sequence[str]) -> None:
    """Train and report. Complete runs are not trained again, and a failed run does not stop the others.

    Raises:
        UserError: the command cannot work.
        PassingFault: some runs failed.
    """
    words, plain = split_at_dashes(arguments)
    if len(words) < 5 if plain is None else len(words) != 2:
        raise UserError(f"arguments are missing: give {USAGE}")
    pair, (methods, seeds, *flags) = (words[:3], words[3:]) if plain is None else ([], words)
    if not (methods.split() and seeds.split()):
        raise UserError("METHODS and SEEDS: name at least one of each, such as kd and 0")
    if wrong := [seed for seed in seeds.split() if not seed.isdecimal()]:
        raise UserError(f"SEEDS {wrong[0]}: not a whole number; give seeds such as 0 1 2")
    place, flags = place_of(flags if plain is None else plain)
    commands = _scripts(methods.split(), pair, flags) if pair else _plain(methods.split(), flags)
    name = "_".join(pair) or data_of(flags)
    output = Path(os.environ.get("OUTPUT") or f"runs/comparisons/{name}")
    jobs = [
        Job(
            f"{method}, seed {seed}",
            (*command, "--seed", seed),
            output / f"{method.replace(':', '.')}-{seed}.log",
        )
        for seed in dict.fromkeys(seeds.split())
        for method, command in commands.items()
    ]
    with at_work(output) as lock:
        folders = train_all(jobs, output, place, lock)
        runs = all_runs(output / "runs.txt", folders)
    if runs:
        write_report(ReportConfig(runs, str(output)))
    refuse_failures(folders)


def _scripts(methods: Sequence[str], pair: Sequence[str], flags: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {method: (*command_of(method, *pair), *flags) for method in methods}


def _plain(methods: Sequence[str], flags: Sequence[str]) -> dict[str, tuple[str, ...]]:
    with naming("METHODS"):
        kinds = {method: get_method(method) for method in methods}
    return {method: plain_command(method, flags_of(kind, kinds.values(), flags)) for method, kind in kinds.items()}


def command_of(method: str, data: str, teacher: str, student: str) -> tuple[str, ...]:
    """Return the command that trains a method: the pair's script, the data's baseline script, or else the recipe.

    Raises:
        UserError: none of them exists, or the baseline script has no such method.
    """
    own = SCRIPTS / f"train_{data}_{teacher}_{student}_{method}.sh"
    baseline = SCRIPTS / f"train_{data}_baseline.sh"
    if own.is_file():
        return "bash", str(own)
    if baseline.is_file():
        with naming("METHODS"):
            get_method(method)
        return "bash", str(baseline), method, teacher, student
    for family, name in _recipes(method, data, f"{teacher}_{student}", student):
        return *LAUNCHER, family, "train", "--recipe", name
    raise UserError(
        f"METHODS {method}: no script and no recipe trains {teacher} > {student} on {data}; choose a pair that the "
        f"program recipes lists, or give flags: {USAGE}"
    )


def _recipes(method: str, data: str, pair: str, student: str) -> Iterator[tuple[str, str]]:
    """Yield (family, name) of the recipes for a method and a pair on this data."""
    named = pair if method == "gendd" else f"{pair}_{method.removeprefix('gendd_')}"
    names = [f"{data}_{named}", named, *[student] * (method == "classification")]
    for family in map(family_named, FAMILIES):
        known = recipes_of(family)
        for name in (name for name in names if name in known):
            if name.startswith(f"{data}_") or data_name(config_of(known[name], family).data.dataset) == data:
                yield family.name, name
