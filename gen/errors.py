"""The exceptions that the command line shows without a traceback."""

from gen.table import TableError


class GenError(Exception):
    """What a user can act on: the message names the thing, the value, what is allowed and where."""


class FitError(GenError):
    """A network for which the board has no room; ``problems`` are what is missing, and by how much."""

    def __init__(self, message: str, problems: list[str]):
        super().__init__(message)
        self.problems = problems


def is_bug(error: Exception) -> bool:
    """Whether ``error`` is none of those whose message says all that a user needs."""
    return not isinstance(error, (GenError, TableError, OSError))


def message_of(error: Exception) -> str:
    """The message of ``error``, behind its type where it is a bug."""
    return f"{type(error).__name__}: {error}" if is_bug(error) else str(error)
