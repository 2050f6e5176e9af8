"""`python -m monoskd`, the same as the `monoskd` command."""

import os
import sys

_PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 pathlib may lie in it

# `python -m` puts the working directory first on the import path, where any file becomes code. It stays there only if
# this package itself is imported from it.
if not sys.flags.safe_path and os.path.realpath(sys.path[0]) != os.path.realpath(_PACKAGES):
    del sys.path[0]

from monoskd.cli import main  # noqa: E402 not before the path is right

sys.exit(main())
