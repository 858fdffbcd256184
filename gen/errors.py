"""The exceptions that the command line shows without a traceback."""


class GenError(Exception):
    """What a user can act on: the message names the thing, the value, what is allowed and where."""


class FitError(GenError):
    """A network for which the board has no room; ``problems`` are what is missing, and by how much."""

    def __init__(self, message: str, problems: list[str]):
        super().__init__(message)
        self.problems = problems
