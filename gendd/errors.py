"""Errors told in one line, without a traceback: those a user can mend, exit code 2, and those that may pass, 1."""

import contextlib
import difflib
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gendd.stopping import Terminated, end_by_sigterm

MOST_SHOWN = 24


class UserError(Exception):
    """Something the user gave cannot work. The message is one line: the flag, its value, the remedy."""


class Refusal(ValueError):
    """Something given cannot work, as the library tells it: one line with the value and the remedy. The programs know
    the flag that gave it (`naming`)."""


class Missing(Refusal):
    """A file that is not there."""


class Absent(UserError):
    """The same with its flag. A dry run lists it."""


class PassingFault(Exception):
    """Something may go better at another try: a disk or network failed, a process was killed. The message is one line:
    what failed, the remedy. MAX_RESTARTS tries again."""


def not_there(path: str | Path, kind: str = "file") -> str:
    """The words for a path that does not exist: as it was given, and the absolute path that was looked for."""
    looked_for = os.path.abspath(path)
    return f"{path}: no such {kind}" + ("" if looked_for == str(path) else f", looked for {looked_for}")


@contextlib.contextmanager
def naming(flag: str) -> Iterator[None]:
    """What the block refuses was given by this flag, or argument.

    Raises:
        UserError: in place of a Refusal. Absent: in place of a Missing.
    """
    try:
        yield
    except Refusal as refusal:
        kind = Absent if isinstance(refusal, Missing) else UserError
        raise kind(f"{flag} {refusal}") from refusal


def unknown_name(name: str, known: Iterable[str]) -> Refusal:
    """The refusal of a name that does not exist, with the nearest ones that do."""
    known = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in known}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=4, cutoff=0.4)]
    shown = near or (known if len(known) <= MOST_SHOWN else [*known[:MOST_SHOWN], "..."])
    return Refusal(f"{name}: no such name; {'nearest' if near else 'known'}: {', '.join(shown)}")


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
    except (UserError, Refusal, PassingFault, OSError) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise
        if int(os.environ.get("RANK", 0)):
            # All processes meet most errors together: the first one speaks for them, the launcher ends the rest.
            time.sleep(5)
        told = str(error)
        if isinstance(error, OSError):
            told = f"{os.path.abspath(os.fsdecode(error.filename))}: {error.strerror}; mend that, or name another place"
        print(f"error: {' '.join(told.split())}", file=sys.stderr, flush=True)
        # Not sys.exit: a process whose group is stuck in a collective would wait for it on the way out.
        os._exit(2 if isinstance(error, (UserError, Refusal)) else 1)
