"""The source that runs."""

import subprocess
from pathlib import Path


def commit() -> str | None:
    """The git commit of a source checkout, with `+` where it was changed; None for an installed package."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()
