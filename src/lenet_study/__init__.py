"""The five-model LeNet-5 study on Fashion-MNIST, as an MLflow Project."""


class UserError(Exception):
    """A problem the user can cure; its message is one sentence that names the cause and the cure."""


class StoreError(Exception):
    """The tracking server or its store failed; its message is one sentence."""
