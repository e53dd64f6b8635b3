"""The flags of several teachers: --teacher A --teacher-weights FILE --teacher B --teacher-image-size 224."""

from collections.abc import Sequence

from gendd.core.errors import InvalidSetting, flag
from gendd.core.ranges import field_names
from gendd.network_settings import TeacherNetwork

TEACHER = flag("teacher")
OF_TEACHERS = {flag(name): name for name in field_names(TeacherNetwork)}


def split_teachers(flags: Sequence[str]) -> tuple[list[str], list[list[str]] | None]:
    """Return the flags of the run with its first teacher, and the flags of each further teacher.

    Each --teacher after the first names a further teacher. The flags of `TeacherNetwork` that follow belong to it. The
    further teachers are None if no teacher is named.

    Raises:
        InvalidSetting: a flag is given twice for a further teacher.
    """
    first: list[str] = []
    further: list[list[str]] = []
    named, target = False, first
    for word in flags:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            name = name.replace("_", "-")
            if name == TEACHER and named:
                further.append([])
            named = named or name == TEACHER
            target = further[-1] if further and name in OF_TEACHERS else first
            if target is not first:
                if name in target:
                    raise _given_twice(name, target)
                target += [name, value] if equals else [name]
                continue
        target.append(word)
    return first, further if named else None


def refuse_several(flags: Sequence[str], reason: str) -> None:
    """Raise InvalidSetting if the flags name several teachers."""
    for _, *values in split_teachers(flags)[1] or []:
        raise InvalidSetting("teacher", " ".join(values[:1]), reason)


def _given_twice(name: str, flags: list[str]) -> InvalidSetting:
    _, teacher, *_ = [*flags, ""]
    _, value, *_ = [*flags[flags.index(name) :], ""]
    reason = f"given twice for the teacher {teacher}; put the flags of a teacher after its `teacher`, before the next"
    return InvalidSetting(OF_TEACHERS[name], value, reason)
