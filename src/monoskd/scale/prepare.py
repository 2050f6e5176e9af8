"""Depth completion on a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from monoskd.kitti.prepare import PrepareReport, prepare
from monoskd.scale.spread import spread

Result = TypeVar("Result")


def prepare_on_ray(
    root: str | Path,
    *,
    address: str,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """As `prepare`, on a cluster whose machines see the same files. address: as `spread`'s."""

    return prepare(
        Path(root).absolute(), force=force, progress=progress, each=lambda task, frames: _on_ray(task, frames, address)
    )


def _on_ray(task: Callable[[str], Result], frames: Sequence[str], address: str) -> Iterator[Result]:
    return spread(partial(_same, task), frames, address=address)


def _same(task: Callable[[str], Result]) -> Callable[[str], Result]:
    return task
