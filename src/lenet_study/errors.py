"""The project's exceptions; each message is one sentence for the user."""


def one_line(error: BaseException | None, limit: int = 300) -> str:
    """Return an error's message on one line, cut to so many characters."""
    return " ".join(str(error).split())[:limit]


class StudyError(Exception):
    """Anything that the project raises."""


class UserError(StudyError):
    """A problem that the user can cure; the message names the cause and the cure."""


class JobError(StudyError):
    """Failure of one of several jobs."""


class StoreError(StudyError):
    """Failure of the tracking server or its store."""


class DiskError(StudyError):
    """Failure to write to a disk, which the message names; `resume` goes on once there is room."""


class IntegrityError(StudyError):
    """Content that is not what was logged; the lines before the message name it."""


class DivergenceError(StudyError):
    """A loss that is not finite; the message names the epoch and the step."""


class ReproductionError(StudyError):
    """A finished training that came out otherwise when it was done again."""


class HealthError(StudyError):
    """Problems that `doctor` has found and not mended."""
