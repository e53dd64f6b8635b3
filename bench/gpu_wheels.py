"""Which wheels travel to a machine without a network, and which of them it lacks, for bench/gpu.sh.

    python bench/gpu_wheels.py needed [PACKAGE ...]    prints name==version of all that the project and its tests need,
                                                       but for these packages and what they need
    python bench/gpu_wheels.py lacking FOLDER          prints the wheels below FOLDER of what is not installed

Needs nothing but Python where it looks for what is lacking.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

WANTED = ("gendd", "pytest")


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_needs(names: list[str] | tuple[str, ...]) -> dict[str, str]:
    """These packages, as they are installed here, and all that they need: their versions by name."""
    from packaging.requirements import Requirement

    versions, open_names = {}, [plain(name) for name in names]
    while open_names:
        name = open_names.pop()
        if name in versions:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:  # Needed on other systems, or left out with a CPU-only torch.
            continue
        versions[name] = found.version
        needs = [Requirement(line) for line in found.requires or ()]
        open_names += [plain(need.name) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return versions


def needed(have: list[str]) -> list[str]:
    left_out = {*with_needs(have), "gendd"}
    return [f"{name}=={version}" for name, version in sorted(with_needs(WANTED).items()) if name not in left_out]


def lacking(folder: Path) -> list[str]:
    wheels = sorted(folder.glob("part-*/wheels/*.whl"))
    return [str(wheel) for wheel in wheels if not _installed(wheel.name.split("-")[0])]


def _installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    for line in needed(arguments) if verb == "needed" else lacking(Path(arguments[0])):
        print(line)
