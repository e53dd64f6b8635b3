"""The ablate program: train a pair with each value of a setting, then plot the effect of the setting."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from gendd.core.errors import UserError, naming, no_such, unknown_name
from gendd.family import Family
from gendd.programs.jobs import Folders, Job, all_runs, at_work, place_of, refuse_failures, train_all
from gendd.programs.plain_flags import data_of, plain_command, split_at_dashes
from gendd.programs.sampling import VALUES as SAMPLED
from gendd.programs.sampling import ablate_sampling
from gendd.reporting.ablate import AblateConfig, draw

# Each training setting and its values. For token-dim, wider tokens up to the teacher's whole feature are added later.
VALUES = {
    "contraction": ("0", "0.25", "0.5", "0.75", "0.9"),
    "token-dim": ("8",),
    "repeats": ("4", "8", "16", "30"),
    "feature-mixup": ("0", "1"),
}
# Variants of each value: {suffix of the run's name: other flags}.
VARIANTS = {"repeats": {f"-{scheme}": ("--draw-scheme", scheme) for scheme in ("independent", "shared", "antithetic")}}
HELP = """\
Each setting gives a table, a CSV file and a picture of top-1 against the setting and its cost. A training setting
trains a pair once per value. Finished runs are kept. A failed run does not stop the others; the last lines name it.
  contraction    lambda
  token-dim      width of a token, up to the whole feature as one
  repeats        K, with each scheme of timesteps
  feature-mixup  off and on
A script or flags say what to train; METHOD=regression runs the control. FAMILY is as for compare. The picture includes
runs of earlier seeds and values. For example:
  {command} contraction sh/train_cifar100_resnet56_resnet20_gendd_short.sh --probe-gradient 0
  {command} contraction -- --dataset FOLDER [flags]
A sampling setting evaluates a trained run with many values:
  {command} guidance RUN [flags]
  {command} sampling RUN [flags]    sampler, steps, samples, start

Environment variables:
  VALUES="0 0.5"    values to train with
  SEEDS="0 1 2"     seeds to train each value with (one, seed 0, if not set)
  OUTPUT=FOLDER     folder for results and logs (if not set: runs/ablations/SCRIPT or DATA, followed by _regression for
                    the control, or the run's folder)
  GPUS, JOBS        number of simultaneous runs, as for compare; --on slurm works here too"""


def ablate(family: Family, arguments: list[str]) -> None:
    """Run the ablate program: a training setting with a script, or a sampling setting with a run.

    Raises:
        UserError, PassingFault: see `main` and `ablate_sampling`.
    """
    settings = "|".join((*VALUES, *SAMPLED))
    if arguments[:1] in (["-h"], ["--help"]):
        command = f"{family.command} ablate"
        usage = f"usage: {command} {settings} SCRIPT_OR_RUN [flags], or SETTING -- --dataset ... flags"
        print(f"{usage}\n\n{HELP.format(command=command)}")
    elif arguments and arguments[0] in SAMPLED:
        output = os.environ.get("OUTPUT")
        ablate_sampling(family, [*arguments, *(("--output", output) if output else ())])
    else:
        main(arguments)


def main(arguments: Sequence[str]) -> None:
    """Train and plot. Complete runs are not trained again, and a failed run does not stop the others.

    Raises:
        UserError: the command cannot work.
        PassingFault: some runs failed.
    """
    words, plain = split_at_dashes(arguments)
    (setting, script), flags = [*words, "", ""][:2], words[2:]
    with naming("SETTING"):
        if setting not in VALUES:
            raise unknown_name(setting, (*VALUES, *SAMPLED))
    if plain is None and not Path(script).is_file():
        wrong = f"SCRIPT {script}: {no_such(script)}" if script else "SCRIPT is missing"
        raise UserError(
            f"{wrong}; name the script that trains the pair, or give flags: {setting} -- --dataset FOLDER ..."
        )
    if plain is not None and script:
        raise UserError(f"{' '.join(words[1:])}: not used with flags after --; leave it out")
    place, flags = place_of(flags if plain is None else plain)
    method = os.environ.get("METHOD") or "gendd"
    command = ("bash", script, *flags) if plain is None else plain_command(method, flags)
    name = Path(script).stem if plain is None else data_of(flags)
    own = "" if method == "gendd" else f"_{method}"
    output = Path(os.environ.get("OUTPUT") or f"runs/ablations/{name}{own}")
    given, seeds = os.environ.get("VALUES"), (os.environ.get("SEEDS") or "0").split()
    values = given.split() if given else VALUES[setting]
    with at_work(output) as lock:
        folders = train_all(list(jobs_of(setting, values, method, command, seeds, output)), output, place, lock)
        if setting == "token-dim" and not given:
            wider = wider_tokens(int(values[-1]), feature_width(folders))
            folders |= train_all(list(jobs_of(setting, wider, method, command, seeds, output)), output, place, lock)
        runs = all_runs(output / f"{setting}.txt", folders)
    if runs:
        draw(AblateConfig(cast(Any, setting), runs, str(output)))
    refuse_failures(folders)


def jobs_of(
    setting: str, values: Sequence[str], method: str, command: Sequence[str], seeds: Sequence[str], output: Path
) -> Iterator[Job]:
    for seed in seeds:
        for value in values:
            for variant, others in VARIANTS.get(setting, {"": ()}).items():
                name = f"{method}-{setting}-{value}{variant}"
                whole = (*command, "--seed", seed, f"--{setting}", value, *others, "--name", name)
                log = output / f"{name}-{seed}.log"
                yield Job(f"{name}, seed {seed}", whole, log)


def feature_width(folders: Folders) -> int:
    """Return the width of the teacher's feature from the results of the runs; 0 without a complete run."""
    results = [json.loads(Path(folder, "result.json").read_text()) for folder in folders.values() if folder]
    return results[0]["head"]["feature_dim"] if results else 0


def wider_tokens(narrowest: int, width: int) -> list[str]:
    """Return the token widths above the narrowest: its doublings that divide the feature, and the whole feature."""
    doubles = [narrowest << i for i in range(1, width.bit_length()) if narrowest << i < width]
    return [str(dim) for dim in doubles if width % dim == 0] + ([str(width)] if width > narrowest else [])
