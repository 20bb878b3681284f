"""The project's exceptions; each message is one sentence for the user."""


class StudyError(Exception):
    """What the project raises; its message is one sentence for the user."""


class UserError(StudyError):
    """A problem the user can cure; its message is one sentence that names the cause and the cure."""


class JobError(StudyError):
    """One of several jobs failed; its message is one sentence."""


class StoreError(StudyError):
    """The tracking server or its store failed; its message is one sentence."""


class DiskError(StudyError):
    """Failure to write to a disk, which the message names; `resume` goes on once there is room."""


class DivergenceError(StudyError):
    """A loss that is not finite; the message names the epoch and the step."""
