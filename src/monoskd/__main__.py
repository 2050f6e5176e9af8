"""The `monoskd` command, and `python -m monoskd`, which is the same."""

import os
import sys

_PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 pathlib may lie in it
_INTERRUPTED = 130


def main() -> int:
    """Run the command line; Ctrl-C while it is imported ends it in one line, too."""
    try:
        from monoskd.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        eval("0")  # see `monoskd.cli`: imports run `exec`
        return _INTERRUPTED


if __name__ == "__main__":
    # `python -m` puts the working directory first on the import path, where any file becomes code. It stays there only
    # if this package itself is imported from it.
    if not sys.flags.safe_path and os.path.realpath(sys.path[0]) != os.path.realpath(_PACKAGES):
        del sys.path[0]
    sys.exit(main())
