"""Many images to rows on a cluster: the same Classifier as actors of Ray Data, each image's row exactly once.

Ray restarts an actor whose process is killed and has its images done again; what comes twice is dropped, and images
that never come are refused by name. How many actors there are is left to Ray and its autoscaler.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pesi.datasets.stored import opened_later
from pesi.errors import PesiError
from pesi.machine import keep_memory
from pesi.predict.ensemble import Ensemble
from pesi.predict.loading import load
from pesi.predict.prediction import Refusal
from pesi.version import __version__

LOCAL = "local"
_BLOCK = 128  # images that an actor takes at a time, and that are done again where it is killed
_TRIES = 3  # of a block whose actor is killed, and of an image alone
_OBJECT_STORE = 256 << 20  # bytes, of a cluster that is started here: only names and rows go through it

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What each actor needs to answer.

    Attributes:
        bundles: Each a bundle's files, name -> bytes: an actor may run where its folder is not.
        options: Of `predict_many`.
        device: Where to compute; a GPU's name asks for one GPU an actor.
        runtime, precision: As for `Classifier.load`.
        version: Of the package that asks.
    """

    bundles: tuple[dict[str, bytes], ...]
    options: dict[str, Any]
    device: str | None
    runtime: str | None = None
    precision: str | None = None
    version: str = __version__


class Answers:
    """An actor: names of images in, rows out."""

    def __init__(self, question: Question) -> None:
        self.question = question
        os.environ["OMP_NUM_THREADS"] = "1"  # Ray has an actor on each core: none shall take the others'
        torch.set_num_threads(1)
        keep_memory()
        self._predict: Callable[..., Iterator[Any]] | None = None
        self._folders: list[TemporaryDirectory[str]] = []  # of the bundles, which are read as they are needed

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Columns number, source, id -> number and row (JSON); number -1: nothing can be answered, and why."""
        try:
            predict = self._predict = self._predict or self._opened()
            sources = [opened_later(str(source)) for source in batch["source"]]
            results = predict(sources, image_ids=[str(name) for name in batch["id"]], **self.question.options)
            rows = [json.dumps(result.to_dict()) for result in results]
        except PesiError as error:
            told = json.dumps({"problem": error.problem, "cure": error.cure})
            return {"number": np.array([-1]), "row": np.array([told], object)}
        return {"number": batch["number"], "row": np.array(rows, object)}

    def _opened(self) -> Callable[..., Iterator[Any]]:
        question = self.question
        if question.version != __version__:
            raise PesiError(
                f"The cluster has pesi-cnn {__version__}, and {question.version} asks.", "Install the same everywhere."
            )
        members = []
        for files in question.bundles:
            folder = TemporaryDirectory()
            self._folders.append(folder)
            for name, data in files.items():
                path = Path(folder.name) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            as_asked = {"runtime": question.runtime, "precision": question.precision}
            members.append(load(folder.name, device=question.device, **as_asked))
        return (members[0] if len(members) == 1 else Ensemble(members)).predict_many


def packed_bundle(folder: Path) -> dict[str, bytes]:
    """A bundle's files, path in its folder -> bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def cluster_rows(
    address: str, question: Question, images: Sequence[tuple[int, str, str]], *, block: int = _BLOCK
) -> Iterator[tuple[int, Row]]:
    """The number and row of each image, as they come, each once.

    Args:
        address: Of a Ray cluster (`auto`, `host:port`, `ray://host:port`), or `local`: one is started here, and ends
            with the last row.
        question: Who answers, and how.
        images: Number, path or address, and id of each.
        block: Images that an actor takes at a time.

    Raises:
        PesiError: Ray is not installed, the cluster cannot be reached, or nothing can be answered there.
    """
    ray = _connected(address)
    try:
        left = {number: (number, source, image_id) for number, source, image_id in images}
        for size in (block, 1):  # alone, an image that ends every process that opens it takes no other with it
            for number, row in _rows(ray, question, list(left.values()), size):
                if left.pop(number, None) is not None:
                    yield number, row
        for number, source, image_id in left.values():
            reason = f"{source}: each process that it was given to ended, or failed, before it gave an answer."
            yield number, Refusal(image_id, source, reason, "Look at that file, and at the memory there is.").to_dict()
    except ray.exceptions.RayError as error:
        told = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        cure = "See that pesi-cnn is installed on each machine; then go on: the same command and --resume."
        raise PesiError(f"The cluster ended the work: {told}.", cure) from error
    finally:
        ray.shutdown()


def _connected(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of each cluster that it starts
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        ray: Any = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise PesiError("Ray is not installed.", "Install it: pip install 'pesi-cnn[ray]'.") from error
    terminated = signal.getsignal(signal.SIGTERM)
    own = {"object_store_memory": _OBJECT_STORE, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **(own if address == LOCAL else {}))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        cure = "Start one (ray start --head), or give --ray local."
        raise PesiError(f"There is no Ray cluster at {address}: {reason}.", cure) from error
    finally:
        if threading.current_thread() is threading.main_thread():  # Ray has put its own in its place
            signal.signal(signal.SIGTERM, terminated)
    return ray


def _rows(ray: Any, question: Question, images: list[tuple[int, str, str]], size: int) -> Iterator[tuple[int, Row]]:
    """The rows of images that are there, `size` at a time; those of actors that died too often are left out."""
    import pyarrow as pa

    if not images:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # killed actors are dealt with here
    names = pa.table(dict(zip(("number", "source", "id"), map(list, zip(*images, strict=True)), strict=True)))
    blocks = [names.slice(start, size) for start in range(0, len(images), size)]
    gpu = {"num_gpus": 1} if question.device and question.device.startswith("cuda") else {}
    answered = ray.data.from_arrow(blocks).map_batches(
        Answers,
        fn_constructor_args=(question,),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        ray_remote_args_fn=lambda: {"max_task_retries": _TRIES},  # its own default goes on for ever
        **gpu,
    )
    for batch in answered.iter_batches(batch_size=None, batch_format="numpy"):
        for number, row in zip(batch["number"].tolist(), batch["row"].tolist(), strict=True):
            told = json.loads(row)
            if number < 0:
                raise PesiError(told["problem"], told["cure"])
            yield number, told
