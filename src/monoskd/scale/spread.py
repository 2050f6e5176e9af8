"""Work on items, done by the actors of a Ray cluster: one that is killed is replaced, and its items are done again."""

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from monoskd.errors import InputError, first_line

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_BLOCKS = 1000  # of items: an actor that is killed repeats one


def spread(
    make_task: Callable[[], Callable[[Item], Result]], items: Sequence[Item], *, address: str, gpus: float = 0
) -> Iterator[Result]:
    """The results of a task for all items, in any order.

    make_task: called once in each actor, to load a model say; it and the task's items and results are pickled.
    address: of a Ray cluster, `auto` for the one that this machine is part of, or `local` for this machine alone. gpus:
    of each actor, which has one core. Raises InputError where there is no such cluster, and where a task fails.
    """
    if not items:
        return
    with _cluster(address) as ray:
        rows = ray.data.from_items(
            [{"item": pickle.dumps(item)} for item in items], override_num_blocks=min(len(items), _MOST_BLOCKS)
        )
        actors = max(int(ray.cluster_resources().get("GPU", 0) / gpus if gpus else ray.cluster_resources()["CPU"]), 1)
        done = rows.map_batches(
            _Actor,
            fn_constructor_args=(make_task,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors, len(items))),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        try:
            for row in done.iter_rows():
                yield pickle.loads(row["result"])
        except ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise InputError(f"--ray: expected workers that can do the task, got a fault in one: {reason}") from error


class _Actor:
    """Holds the task; Ray Data gives it the items one by one."""

    def __init__(self, make_task: Callable[[], Callable[[Any], Any]]) -> None:
        self.task = make_task()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """The results of a batch of items."""
        return {"result": [pickle.dumps(self.task(pickle.loads(item))) for item in batch["item"]]}


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, as part of the cluster until the work is done. Nothing is reported to its makers, and it prints nothing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = import_module("ray")
        context = import_module("ray.data").DataContext.get_current()
    except ImportError as error:
        raise InputError("--ray: expected Ray Data, got none: `pip install 'monoskd[scale]'`") from error
    if ray.is_initialized():  # by the caller, who ends it
        yield ray
        return
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--ray: expected the address of a running Ray cluster, `auto` or `local`, got {address!r} "
            f"({first_line(error)}): start one with `ray start --head`"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
