"""The versions, commit and hardware behind figures."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gendd.core.distributed import World, hardware

PACKAGES = ("gendd", "torch", "torchvision", "timm", "numpy", "safetensors", "tensorboard")


def environment(world: World) -> dict:
    """Return versions, commit, hardware and processes, to store with figures."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git_commit": git_commit(),
        "hardware": hardware(world.device),
        "processes": world.size,
    }


def environment_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe a change of hardware, precision or processes between two records; empty without one.

    Records of older runs contain no precision.
    """
    names = [name for name in ("hardware", "precision", "processes") if before.get(name, now[name]) != now[name]]
    return "; ".join(f"{name} {before[name]} there, {now[name]} here" for name in names)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the commit of this code, with "+changes" if files differ from it; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # An installed package may lie inside a checkout of another project.
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
