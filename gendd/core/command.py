"""The command that the user typed, for usage lines and error messages."""

import sys
from pathlib import Path

COMMANDS = ("gendd", "gendd-cifar", "gendd-imagenet")


def typed_command(module: str) -> str:
    """Return "gendd-cifar" if an installed command runs, else "python -m gendd_cifar"."""
    installed = Path(sys.argv[0]).name in COMMANDS
    return module.replace("_", "-") if installed else f"python -m {module}"
