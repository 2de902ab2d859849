"""The one error that a user meets: a single line that gives both numbers and the way out."""


class ChainruleError(ValueError):
    """Something the user can mend. Its text is one line; the command line prints it and exits with 1."""
