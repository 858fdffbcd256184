"""The one exception that the command line shows without a traceback."""


class GenError(Exception):
    """What a user can act on: the message names the thing, the value, what is allowed and where."""
