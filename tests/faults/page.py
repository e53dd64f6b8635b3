"""docs/reliability.md, and the figures that it shows: docs/results/reliability.json."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
from rows import Row

from gendd.core.distributed import hardware

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES, PAGE = DOCS / "results" / "reliability.json", DOCS / "reliability.md"
HEADINGS = {
    "kills": "Killed processes",
    "disk": "Disks that refuse a write",
    "inputs": "Bad inputs",
    "fuzz": "Damaged files",
    "changes": "Data and teachers that change, values that are not finite",
    "writers": "Two programs in one folder",
    "growth": "10,000 steps",
    "memory": "Little shared memory",
    "hosts": "Two machines",
    "soak": "Hours of faults",
}
BEGIN = """\
# Reliability

`python tests/faults` provokes faults and writes this page. The second column counts the cases in which the program
kept the promise.

- "One line": the program prints one line with the remedy and no traceback. The exit code is 2, or 1 if the fault may
  pass.
- "The same bits": weights, metrics and results equal those of an undisturbed run.
- The runs train toy networks on the digits or on small photographs.
- `python tests/faults kills disk` repeats two groups. `--short` takes a few cases, as the tests do.
- Disks, shared memory and the two machines are Linux namespaces. Delays need the kernel's module netem.
"""
END = """\
## What is not promised

- A killed run loses the work since its last checkpoint: at most `--checkpoint-minutes`, 15 by default.
- The same bits need the same machine, versions, precision and number of processes. A resumed run says which of
  hardware, precision and processes changed. `--workers` may differ.
- An image that is exchanged for another of the same name and size is noticed if it is one of the 1,000 whose contents
  are compared, evenly spaced. A change of shards behind a URL or a command is not noticed.
- After a power failure a file system may lose a file that it reported as written.
- Memory that a user's network, method or iterable needs is not limited.
- After a kill the last values may be missing in TensorBoard and other loggers. `metrics.jsonl` has them.
"""


def record(group: str, rows: Sequence[Row]) -> None:
    """Replace the figures of a group, and write the page."""
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    machine = f"{hardware(torch.device('cpu'))} of {os.cpu_count()} cores, Linux {platform.release()}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    measured = {"date": str(date.today()), "machine": machine, "versions": versions}
    figures[group] = {**measured, "rows": [asdict(row) for row in rows]}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text("\n".join([BEGIN, *_tables(figures), END]))


def _tables(figures: Mapping[str, dict]) -> list[str]:
    lines = []
    for group, heading in HEADINGS.items():
        if group in figures:
            lines += [f"## {heading}", "", "| promise | held | seconds | figure |", "|---|---|---|---|"]
            for row in figures[group]["rows"]:
                held = f"{row['cases'] - len(row['broken'])} of {row['cases']}"
                lines.append(f"| {row['promise']} | {held} | {row['seconds']:.0f} | {row['figure']} |")
            lines += ["", ", ".join(figures[group][name] for name in ("date", "machine", "versions")) + ".", ""]
    return lines
