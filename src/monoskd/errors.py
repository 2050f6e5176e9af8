"""The one exception that is the user's to mend."""


class InputError(ValueError):
    """Bad input: one line that says what, where, what was expected, what was found and what to do.

    The command line prints it and exits with 2; everything else that is raised is our own fault.
    """
