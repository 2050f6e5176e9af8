"""Which detector a published checkpoint is one of: each detector's folder may hold a `published` module that knows.

Such a module has `IMPLEMENTATIONS`, the names of what it reads; `fits(state)`, whether a state dict is one of those;
and `convert(source, out, part=...)`, which writes the model file and returns an account of the tensors.
"""

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import monoskd.models
from monoskd.errors import InputError
from monoskd.models.checkpoints import read_checkpoint


def convert(source: str | Path, out: str | Path, *, part: str = "student") -> Any:
    """Write the published checkpoint `source` as the model file `out`, whichever detector it is one of.

    part: student or teacher, of a checkpoint that holds both. Returns the account of the tensors. Raises InputError for
    what is no checkpoint that a detector knows.
    """
    checkpoint = read_checkpoint(source)
    state = checkpoint.get("model_state", checkpoint)
    importers = list(_importers())
    for importer in importers:
        if isinstance(state, Mapping) and importer.fits(state):
            return importer.convert(source, out, part=part)
    known = ", or of ".join(importer.IMPLEMENTATIONS for importer in importers)
    raise InputError(f"{source}: expected a checkpoint of {known}, got tensors of other names; nothing was written")


def _importers() -> Iterator[Any]:
    for package in pkgutil.iter_modules(monoskd.models.__path__, f"{monoskd.models.__name__}."):
        if package.ispkg and find_spec(f"{package.name}.published") is not None:
            yield import_module(f"{package.name}.published")
