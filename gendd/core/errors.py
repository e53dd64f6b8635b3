"""Errors that a program prints in one line, without a traceback: what the user has to change (exit code 2), and faults
that another start may not meet (exit code 1)."""

import contextlib
import difflib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gendd.core.stopping import Terminated, end_by_sigterm

MOST_SHOWN = 24


class UserError(ValueError):
    """Something the user gave cannot work. The message is one line with the remedy.

    It names settings in backticks, such as `teacher_weights`; programs print their flags (`with_flags`).
    """


class InvalidSetting(UserError):
    """A setting that cannot work.

    Args:
        field: its name in the configuration; an argument without a flag in capitals; empty if only the value is known
            (`naming` adds it).
        value: None if the setting is missing.
        reason: what is wrong, and what to do.
    """

    def __init__(self, field: str, value: object, reason: str):
        super().__init__(field, value, reason)
        self.field, self.value, self.reason = field, value, reason

    def __str__(self) -> str:
        if isinstance(self.value, bool):
            return f"`{self.field}={self.value}`: {self.reason}"
        if self.value is None:
            return f"`{self.field}` is missing: {self.reason}"
        value = " ".join(map(str, self.value)) if isinstance(self.value, tuple) else str(self.value)
        name = f"`{self.field}`" if self.field.islower() else self.field
        return ": ".join(filter(None, (f"{name} {value}".strip(), self.reason)))


class InvalidValue(InvalidSetting):
    """A value that cannot work, from a function that does not know the setting."""

    def __init__(self, value: object, reason: str):
        super().__init__("", value, reason)
        self.args = (value, reason)


class MissingFile(InvalidValue):
    """A file that does not exist. A dry run lists it."""


class PassingFault(Exception):
    """Something may go better at another try: a disk or network failed, a process was killed. The message is one line:
    what failed, the remedy. MAX_RESTARTS tries again."""


def no_such(path: str | Path, kind: str = "file") -> str:
    """Return that a path does not exist, with its absolute path if it is another."""
    looked_for = os.path.abspath(path)
    return f"no such {kind}" + ("" if looked_for == str(path) else f", looked for {looked_for}")


@contextlib.contextmanager
def naming(field: str, value: object = "") -> Iterator[None]:
    """Name the setting, and the value, that the block refuses without naming them."""
    try:
        yield
    except InvalidSetting as error:
        error.field, error.value = error.field or field, value if error.value == "" else error.value
        raise


def flag(field: str) -> str:
    """Return the flag of a field."""
    return "--" + field.replace("_", "-")


def with_flags(text: str) -> str:
    """Return a message with the flags that a user types in place of the settings that it names in backticks.

    `image_size` is --image-size, `unlabeled=True` is --unlabeled, `unlabeled=False` is --no-unlabeled.
    """

    def typed(found: re.Match[str]) -> str:
        field, value = found.groups()
        return flag(f"no_{field}" if value == "False" else field)

    return re.sub(r"`([a-z]\w*)(?:=(True|False))?`", typed, text)


def unknown_name(name: str, known: Iterable[str]) -> InvalidValue:
    """Return the error for a name that does not exist, with the nearest ones that do."""
    known = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in known}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=4, cutoff=0.4)]
    shown = near or (known if len(known) <= MOST_SHOWN else [*known[:MOST_SHOWN], "..."])
    return InvalidValue(name, f"no such name; {'nearest' if near else 'known'}: {', '.join(shown)}")


def run_program(main: Callable[[], None]) -> None:
    """Run a program's main; a UserError ends it with its line and exit code 2, a PassingFault with its and 1, Ctrl-C
    quietly. A file or folder that cannot be reached, or has gone, is a line and 1 too."""
    # Names of files need not be text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except Terminated:
        end_by_sigterm()
    except KeyboardInterrupt:
        os._exit(130)
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has gone.
        os._exit(141)
    except (UserError, PassingFault, OSError) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise
        if int(os.environ.get("RANK", 0)):
            # All processes meet most errors together: the first one speaks for them, the launcher ends the rest.
            time.sleep(5)
        message = with_flags(str(error))
        if isinstance(error, OSError):
            message = (
                f"{os.path.abspath(os.fsdecode(error.filename))}: {error.strerror}; mend that, or name another place"
            )
        print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
        # Not sys.exit: a process whose group is stuck in a collective would wait for it on the way out.
        os._exit(2 if isinstance(error, UserError) else 1)
