"""The project's exceptions; each message is one sentence for the user."""


class StudyError(Exception):
    """Anything that the project raises."""


class UserError(StudyError):
    """A problem that the user can cure; the message names the cause and the cure."""


class JobError(StudyError):
    """Failure of one of several jobs."""


class StoreError(StudyError):
    """Failure of the tracking server or its store."""
