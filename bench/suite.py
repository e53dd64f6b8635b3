"""Run all benchmarks against their references: prints a table and writes docs/bench/<hardware>.json.

    bash sh/bench.sh

A ratio is the median over the rounds, with minimum and maximum. The share of the limit is relative to the machine's
rate of large matrix products (or of memory), measured in the same run. Memory is the peak of the process during a
module's benchmarks, including the references.
"""

import argparse
import json
import re
from functools import partial
from pathlib import Path

import inference
import input_cifar
import short_recipe
import torch
import train_step
from machine import limits, the_device, versions
from measure import peak_memory

from gendd.core.distributed import hardware
from gendd.core.files import rewrite_text
from gendd.runs.environment import git_commit

FOLDER = Path(__file__).parents[1] / "docs" / "bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-compile", action="store_true", help="time only eager steps; compiling takes minutes")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder for the results")
    arguments = parser.parse_args()
    works = {
        train_step: partial(train_step.records, compiles=not arguments.no_compile),
        short_recipe: short_recipe.records,
        inference: inference.records,
        input_cifar: input_cifar.records,
    }
    device = the_device()
    machine = {"hardware": hardware(device), "threads": torch.get_num_threads(), "limits": limits()}
    print(f"{machine['hardware']}; {', '.join(f'{name} {number}' for name, number in versions().items())}")
    print("; ".join(f"{name.replace('_', ' ')} {rate / 1e9:.0f} G" for name, rate in machine["limits"].items()))
    print("\n| benchmark | unit | reference | project | ratio (min-max; rounds) | share of limit | limit | memory |")
    print("|---" * 8 + "|")
    results, memory = [], {}
    for module, measured in works.items():
        records, memory[module.__name__] = peak_memory(measured)
        for record in records:
            print(_row(record, memory[module.__name__]), flush=True)
        results += records
    content = {"versions": versions(), **machine, "git_commit": git_commit(), "peak_memory": memory, "results": results}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / f"{re.sub(r'[^a-z0-9]+', '_', machine['hardware'].lower())}.json"
    rewrite_text(file, json.dumps(content, indent=2) + "\n")
    print(f"\nresults in {file}")


def _row(record: dict, memory: int) -> str:
    low, high = record["spread"]
    share = "" if record["share_of_limit"] is None else f"{record['share_of_limit']:.0%}"
    ratio = f"{record['ratio']:.3g} ({low:.3g}-{high:.3g}; {record['n']})"
    possible = ""
    if "ratios" in record:
        ratio += ": " + ", ".join(f"{way} {value:.3g}" for way, value in record["ratios"].items())
        possible = f"{record['possible_ratio']:.3g}"
    values = (f"{record['reference']:.4g}", f"{record['ours']:.4g}", ratio, share, possible)
    return f"| {record['work']} | {record['unit']} | {' | '.join(values)} | {memory / 2**30:.1f} GiB |"


if __name__ == "__main__":
    main()
