"""Provoke faults, and write docs/reliability.md: each promise with the cases that tested it.

    python tests/faults [GROUP ...] [--short] [--minutes 120]

Groups that are not named keep their figures. --short takes a few cases and writes nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import gendd  # noqa: F401  (makes torchvision importable)

sys.path.append(str(Path(__file__).parents[1] / "toys"))

import torch
from changes import changes
from disk import disk
from fuzz import fuzz
from growth import growth
from hosts import hosts
from inputs import inputs
from kills import kills
from memory import memory
from page import record
from soak import soak
from writers import writers

GROUPS = {
    "kills": kills,
    "disk": disk,
    "inputs": inputs,
    "fuzz": fuzz,
    "changes": changes,
    "writers": writers,
    "growth": growth,
    "memory": memory,
    "hosts": hosts,
    "soak": soak,
}
# Groups of the short form, which needs no namespaces.
SHORT = ("kills", "disk", "inputs", "fuzz", "growth")
# Mounts, networks and processes end with the program.
NAMESPACES = ["unshare", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def isolate() -> None:
    """Start this program again in namespaces, unless it runs in them."""
    if "ISOLATED" not in os.environ:
        os.environ["ISOLATED"] = "1"
        os.execvp(NAMESPACES[0], [*NAMESPACES, sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--short", action="store_true", help="a few cases, without a report")
    parser.add_argument("--minutes", type=float, default=120, help="duration of soak")
    arguments = parser.parse_args()
    if not arguments.short:
        isolate()
    torch.set_num_threads(1)
    groups = GROUPS | {"soak": partial(soak, minutes=arguments.minutes)}
    broken = 0
    for name in arguments.groups or (SHORT if arguments.short else GROUPS):
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for row in groups[name](Path(folder), arguments.short):
                held = f"{row.cases - len(row.broken)} of {row.cases}"
                print(f"{name:<8} {held:>12} {row.seconds:>7.1f} s  {row.promise}", row.figure, flush=True)
                for line in row.broken:
                    print(f"  broken: {line}", flush=True)
                rows.append(row)
        if not arguments.short:
            record(name, rows)
        broken += sum(len(row.broken) for row in rows)
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
