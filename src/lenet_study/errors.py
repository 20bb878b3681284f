"""The project's exceptions; each message is one sentence for the user."""


class UserError(Exception):
    """A problem the user can cure; its message is one sentence that names the cause and the cure."""


class JobError(Exception):
    """One of several jobs failed; its message is one sentence."""


class Pruned(Exception):  # noqa: N818 -- no error
    """A training is ended early because others are better; its message says so in one sentence."""


class StoreError(Exception):
    """The tracking server or its store failed; its message is one sentence."""
