"""`python -m monoskd`, the same as the `monoskd` command."""

import sys

from monoskd.cli import main

sys.exit(main())
