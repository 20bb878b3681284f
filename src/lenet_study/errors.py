"""The project's exceptions; each message is one sentence for the user."""


class UserError(Exception):
    """A problem the user can cure; its message is one sentence that names the cause and the cure."""


class JobError(Exception):
    """One of several jobs failed; its message is one sentence."""


class StoreError(Exception):
    """The tracking server or its store failed; its message is one sentence."""
