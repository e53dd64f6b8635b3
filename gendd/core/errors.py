"""Errors that a program prints in one line, without a traceback.

Errors that the user must fix end with exit code 2. Faults that may not occur again end with exit code 1.
"""

import contextlib
import difflib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO, cast

from gendd.core.stopping import START_AGAIN, Preempted
from gendd.core.terminal import Printable, printable

MOST_SHOWN = 24


class UserError(ValueError):
    """An error in the user's input. The message is one line that includes the remedy.

    The message names settings in backticks, such as `teacher_weights`; programs print them as flags (`with_flags`).
    """


class InvalidSetting(UserError):
    """A setting that cannot work.

    Args:
        field: the setting's name in the configuration, or a positional argument in capitals. Empty if only the value
            is known; `naming` then fills it in.
        value: the value, or None if the setting is missing.
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
    """A file that does not exist. A dry run lists it and continues."""


class PassingFault(Exception):
    """A fault that may not occur again, such as a failed disk or network, or a killed process.

    The message is one line: what failed, and the remedy. With MAX_RESTARTS the launcher starts the program again.
    """


def no_such(path: str | Path, kind: str = "file") -> str:
    """Return the text "no such file", with the absolute path if `path` is relative."""
    looked_for = os.path.abspath(path)
    return f"no such {kind}" + ("" if looked_for == str(path) else f", looked for {looked_for}")


@contextlib.contextmanager
def naming(field: str, value: object = "") -> Iterator[None]:
    """Add the setting's name and value to an InvalidSetting from the block, if they are missing there."""
    try:
        yield
    except InvalidSetting as error:
        error.field, error.value = error.field or field, value if error.value == "" else error.value
        raise


def flag(field: str) -> str:
    """Return the command-line flag of a configuration field."""
    return "--" + field.replace("_", "-")


def with_flags(text: str) -> str:
    """Replace the settings in backticks in a message by their command-line flags.

    `image_size` becomes --image-size, `unlabeled=True` --unlabeled, and `unlabeled=False` --no-unlabeled.
    """

    def typed(found: re.Match[str]) -> str:
        field, value = found.groups()
        return flag(f"no_{field}" if value == "False" else field)

    return re.sub(r"`([a-z]\w*)(?:=(True|False))?`", typed, text)


def unknown_name(name: str, known: Iterable[str]) -> InvalidValue:
    """Return the error for an unknown name; it lists the most similar known names."""
    known = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in known}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=4, cutoff=0.4)]
    shown = near or (known if len(known) <= MOST_SHOWN else [*known[:MOST_SHOWN], "..."])
    return InvalidValue(name, f"no such name; {'nearest' if near else 'known'}: {', '.join(shown)}")


def run_program(main: Callable[[], None]) -> None:
    """Run a program's main function, print its errors in one line and set the exit code. All its output is printable.

    The exit code is 2 after a UserError. It is 1 after a PassingFault, or an OSError of a file or folder. Ctrl-C
    prints nothing here. A training that SIGTERM or SIGUSR1 stopped ends with START_AGAIN.
    """
    # The terminal's encoding may lack letters of a name.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with contextlib.redirect_stdout(cast(TextIO, Printable(sys.stdout))):
            main()
    except Preempted:
        os._exit(START_AGAIN)
    except KeyboardInterrupt:
        os._exit(130)
    except BrokenPipeError:
        # The reader of the output, such as `head`, has ended.
        os._exit(141)
    except (UserError, PassingFault, OSError) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise
        if int(os.environ.get("RANK", 0)):
            # Most errors occur in all processes: the first one prints it, and the launcher then ends the others.
            time.sleep(5)
        message = with_flags(str(error))
        if isinstance(error, OSError):
            message = f"{os.path.abspath(os.fsdecode(error.filename))}: {error.strerror}; fix this or use another path"
        print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
        # Not sys.exit: while other processes are stuck in a collective, it would wait for them.
        os._exit(2 if isinstance(error, UserError) else 1)
