"""Independent trainings, spread over the processes that `torchrun` or `accelerate launch` started.

The first process runs the command. The others wait for trainings, which the first one posts to the launcher's
store; whoever is free takes the next. Each training is of one process, so that results do not depend on their
number.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from cascadebert.errors import extra

T = TypeVar("T")
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(days=30)  # for a training of another process
END = b""

log = logging.getLogger("cascadebert")


class Processes:
    """The processes of one launch, by the store of torch that they share."""

    def __init__(self, store: Any, rank: int) -> None:
        store.set_timeout(PATIENCE)
        self._store, self._rank, self._posted = store, rank, 0

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Results of calls, each from one of the processes. Raises what the first that fails raises."""
        first, self._posted = self._posted, self._posted + len(calls)
        for number, call in enumerate(calls, start=first):
            self._store.set(f"call/{number}", pickle.dumps(call))
        for number in range(first, self._posted):
            self._take(number)
        found = [pickle.loads(self._store.get(f"result/{number}")) for number in range(first, self._posted)]
        for _, error in found:
            if error is not None:
                raise error
        return [value for value, _ in found]

    def work(self) -> None:
        """Run calls that the first process posts, until it ends."""
        number = 0
        while self._store.get(f"call/{number}") != END:
            self._take(number)
            number += 1

    def end(self) -> None:
        """Let the other processes end."""
        self._store.set(f"call/{self._posted}", END)

    def _take(self, number: int) -> None:
        """Run a call, unless another process has taken it."""
        if self._store.add(f"taken/{number}", 1) > 1:
            return
        function, arguments, options = pickle.loads(self._store.get(f"call/{number}"))
        try:
            result: tuple[Any, Exception | None] = function(*arguments, **options), None
        except Exception as error:
            result = None, error
        self._store.set(f"result/{number}", pickle.dumps(result))


_PROCESSES: list[Processes] = []  # of this launch, if there are several


@contextmanager
def joined() -> Iterator[None]:
    """Let this process work with the others of its launch; all but the first leave the program here.

    Each has one of the GPUs, if there are any. Nothing happens without a launcher.
    """
    launched = {name: os.environ.get(name, "") for name in LAUNCHED}
    if not all(launched.values()) or launched["WORLD_SIZE"] == "1":
        yield
        return
    with extra("train"):
        from torch.distributed.rendezvous import rendezvous
    _choose_gpu(int(launched["LOCAL_RANK"]))
    store, rank, _ = next(rendezvous("env://"))
    for name in LAUNCHED:
        del os.environ[name]  # for transformers, which would divide every batch among the processes
    processes = Processes(store, rank)
    if rank:
        log.setLevel(logging.WARNING)
        processes.work()
        sys.exit(0)
    _PROCESSES.append(processes)
    try:
        yield
    finally:
        _PROCESSES.clear()
        processes.end()


def run_all(function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], **options: Any) -> list[T]:
    """Results of a function for each of several arguments, with the same options: from all processes.

    Function and arguments can be pickled. Raises what the first call that fails raises.
    """
    if not _PROCESSES:
        return [function(*given, **options) for given in arguments]
    return _PROCESSES[0].run([(function, given, options) for given in arguments])


def _choose_gpu(number: int) -> None:
    """Leave one GPU to this process; before torch looks for them."""
    import torch

    count = torch.cuda.device_count()
    if count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % len(visible)]
