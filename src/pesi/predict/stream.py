"""Many images to predictions: read in threads while networks answer; a slow or a bad one holds nobody up.

Images wait nowhere but in memory that is bounded by the batch. Threads are enough: decoders, resizing and networks
leave Python's lock alone. On a processor each of them computes by itself, one thread a core: arithmetic that is divided
among threads waits for the slowest of them, which with another program beside is most of the time.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from threading import Condition, Thread
from typing import Any, Generic, NamedTuple, TypeVar

import cv2

from pesi.errors import ImageError
from pesi.images.pixels import ImageSource, source_path
from pesi.machine import thread_count
from pesi.predict.prediction import Prediction, Refusal
from pesi.predict.sources import with_ids

Read = TypeVar("Read")
Answer = TypeVar("Answer")
Seconds = dict[str, float]

_STALLED = 300.0  # seconds of reading one image, after which it is given up: the disk or the network is gone
_BEHIND = 1024  # results that may wait for a slow image, where they are wanted in order
_LEAVE = 10.0  # seconds to let threads finish what they are at
_FEWEST = 2  # images that a processor's thread answers together, for a network takes a quarter longer for one alone,
_PATIENCE = 0.1  # if they come within so many seconds
_LOOK = 1.0  # seconds between two looks for a stalled image


class _Item(NamedTuple):
    """An image in the stream."""

    place: int
    source: ImageSource
    image_id: str


def predict_stream(
    sources: Iterable[ImageSource],
    image_ids: Iterable[str] | None,
    *,
    read: Callable[[ImageSource, str], Read],
    answer: Callable[[Sequence[Read]], Sequence[Answer]],
    prediction: Callable[[str, str | None, Read, Answer, Seconds], Prediction],
    prepare: Callable[[], object] = tuple,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
    in_order: bool = True,
    on_processor: bool = True,
) -> Iterator[Prediction | Refusal]:
    """Predict many images.

    At most `2 * batch_size` images are taken beyond those whose results were; where one of them takes long, the others
    go on, and up to 1,024 results wait for it. One that takes 5 minutes to read is refused.

    Args:
        sources: Images.
        image_ids: Their ids; None: see `sources.with_ids`.
        read: Decodes an image, given with its id; raises ImageError to refuse it. Called by several threads.
        answer: What the network says of a batch, an answer an image. Called by several threads, `on_processor`.
        prediction: Makes a Prediction of image id, path, what was read, what was answered, and seconds an image.
        prepare: Opens the networks; called by each thread that answers, while images are read.
        batch_size: Images at a time at most; a batch is whatever has been read by then.
        progress: Called with the number of images done after every `batch_size` of them, and at the end.
        in_order: Give results in the images' order; else as they are done.
        on_processor: Whether networks run on the processor, and so one in a thread for each core.

    Raises:
        ValueError: There are more or fewer ids than images.
    """
    given: tuple[Any, Any] = sources, image_ids
    counts = [len(each) for each in given if isinstance(each, Sized)]
    if len(counts) == 2 and counts[0] != counts[1]:
        raise ValueError(f"{counts[0]} images but {counts[1]} image ids.")
    named = with_ids(sources) if image_ids is None else zip(sources, image_ids, strict=True)
    cores = max(1, min([thread_count(), *counts]))
    stream = _Stream(named, read, answer, prediction, prepare, batch_size, in_order)
    finished = 0
    with stream.running(readers=max(2, cores), answerers=cores if on_processor else 1):
        for result in stream.results():
            finished += 1
            if progress and finished % batch_size == 0:
                progress(finished)
            yield result
    if progress and finished % batch_size:
        progress(finished)


class _Stream(Generic[Read, Answer]):
    """What the threads share; all of it is changed under `_changed`."""

    def __init__(
        self,
        named: Iterator[tuple[ImageSource, str]],
        read: Callable[[ImageSource, str], Read],
        answer: Callable[[Sequence[Read]], Sequence[Answer]],
        prediction: Callable[[str, str | None, Read, Answer, Seconds], Prediction],
        prepare: Callable[[], object],
        batch_size: int,
        in_order: bool,
    ) -> None:
        self._named, self._read, self._answer, self._prediction = named, read, answer, prediction
        self._prepare = prepare
        self._batch_size, self._in_order, self._answerers = batch_size, in_order, 1
        self._changed = Condition()
        self._taken = self._given = self._started = 0  # images taken, results given, threads that are at work
        self._all_taken = self._stopped = False
        self._waiting: deque[_Item] = deque()
        self._being_read: dict[int, tuple[_Item, float]] = {}  # index -> since when
        self._read_once = False  # until then a network may still be opened, which may take its time
        self._ready: list[tuple[_Item, Read, float]] = []  # what was read, and the seconds that it took
        self._results: dict[int, Prediction | Refusal] = {}
        self._failure: BaseException | None = None

    @contextmanager
    def running(self, *, readers: int, answerers: int) -> Iterator[None]:
        """Threads are at work within; those that wait for a file are left behind at the end."""
        self._answerers = answerers
        jobs = [self._read_images] * readers + [self._answer_batches] * answerers
        self._threads = [Thread(target=self._work, args=(job,), daemon=True) for job in jobs]
        cv2_threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        with _alone(answerers > 1):
            for thread in self._threads:
                thread.start()
            with self._changed:
                self._changed.wait_for(lambda: self._started == len(jobs))
        try:
            yield
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()
            until = time.monotonic() + _LEAVE
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))
            cv2.setNumThreads(cv2_threads)

    def results(self) -> Iterator[Prediction | Refusal]:
        """Of all images; raises what a thread failed with."""
        while True:
            self._take()
            with self._changed:
                if self._failure is not None:
                    raise self._failure
                if (place := self._next()) is None:
                    if self._all_taken and self._given == self._taken:
                        return
                    if self._all_taken or not self._may_take():
                        self._changed.wait(_LOOK)
                        self._give_up_stalled()
                    continue
                result = self._results.pop(place)
                self._given += 1
            yield result

    def _next(self) -> int | None:
        """Whose result is to be given now."""
        if self._in_order:
            return self._given if self._given in self._results else None
        return next(iter(self._results), None)

    def _work(self, job: Callable[[], None]) -> None:
        if torch := sys.modules.get("torch"):
            torch.get_num_threads()  # takes over what `_alone` has set
        with self._changed:
            self._started += 1
            self._changed.notify_all()
        try:
            job()
        except BaseException as error:  # a mistake of the program's: it is raised where results are taken
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _may_take(self) -> bool:
        """Whether there is room for a further image."""
        if self._taken - self._given >= max(_BEHIND, 2 * self._batch_size):
            return False
        waiting = len(self._results)
        if self._in_order:  # those behind a slow image wait for it, not for who takes the results
            waiting = 0
            while waiting < 2 * self._batch_size and self._given + waiting in self._results:
                waiting += 1
        unfinished = self._taken - self._given - len(self._results)
        return unfinished + waiting < 2 * self._batch_size

    def _take(self) -> None:
        """Take as many images as there is room for; in the thread that wants results, to which a generator belongs."""
        while not self._all_taken:
            with self._changed:
                if not self._may_take():
                    return
            taken = next(self._named, None)
            with self._changed:
                if taken is None:
                    self._all_taken = True
                else:
                    self._waiting.append(_Item(self._taken, *taken))
                    self._taken += 1
                self._changed.notify_all()

    def _image(self) -> _Item | None:
        """The next image to read; None where no more will come."""
        with self._changed:
            while not (self._waiting or self._stopped or self._all_taken):
                self._changed.wait()
            if self._stopped or not self._waiting:
                return None
            item = self._waiting.popleft()
            self._being_read[item.place] = item, time.monotonic()
            return item

    def _read_images(self) -> None:
        while (item := self._image()) is not None:
            began = time.perf_counter()
            reading: Read | None = None
            refusal: ImageError | None = None
            try:
                reading = self._read(item.source, item.image_id)
            except ImageError as error:
                refusal = error
            except (MemoryError, cv2.error) as error:  # OpenCV's own way to say that memory is short
                name = source_path(item.source) or "The image"
                refusal = ImageError(f"{name} asks for more memory than there is ({error}).", "Save it smaller.")
            with self._changed:
                if self._being_read.pop(item.place, None) is None:
                    return  # given up; another thread reads in this one's place
                if refusal is not None:
                    self._refuse(item, refusal)
                else:
                    self._read_once = True
                    self._ready.append((item, reading, time.perf_counter() - began))  # type: ignore[arg-type]
                self._changed.notify_all()

    def _refuse(self, item: _Item, error: ImageError) -> None:
        self._results[item.place] = Refusal(item.image_id, source_path(item.source), error.problem, error.cure)

    def _give_up_stalled(self) -> None:
        """Refuse images that have been read for too long, each with a thread that will not come back."""
        before = time.monotonic() - _STALLED
        stalled = [item for item, since in self._being_read.values() if since < before and self._read_once]
        for item in stalled:
            del self._being_read[item.place]
            name = source_path(item.source) or "The image"
            problem = f"{name} could not be read within {_STALLED:g} seconds."
            self._refuse(item, ImageError(problem, "Check the disk or the network that it lies on."))
            thread = Thread(target=self._work, args=(self._read_images,), daemon=True)
            thread.start()

    def _answer_batches(self) -> None:
        self._prepare()
        while batch := self._batch():
            began = time.perf_counter()
            answers = self._answer([reading for _, reading, _ in batch])
            network = (time.perf_counter() - began) / len(batch)
            for (item, reading, seconds), answered in zip(batch, answers, strict=True):
                path, spent = source_path(item.source), {"read": seconds, "network": network}
                result = self._prediction(item.image_id, path, reading, answered, spent)
                with self._changed:
                    self._results[item.place] = result
                    self._changed.notify_all()

    def _batch(self) -> list[tuple[_Item, Read, float]]:
        """What has been read, at most a batch, and so little that none has much left when the others are done."""
        with self._changed:
            fewest = 1 if self._answerers == 1 else min(_FEWEST, self._batch_size)
            while not self._stopped:
                if self._ready and (len(self._ready) >= fewest or not self._waiting):
                    break
                if self._all_taken and not (self._ready or self._waiting or self._being_read):
                    break
                if not self._changed.wait(_PATIENCE if self._ready else None) and self._ready:
                    break
            if self._stopped:
                return []
            count = min(self._batch_size, max(fewest, -(-len(self._ready) // (2 * self._answerers - 1))))
            batch, self._ready = self._ready[:count], self._ready[count:]
            return batch


@contextmanager
def _alone(wanted: bool) -> Iterator[None]:
    """Threads that begin within compute by themselves in PyTorch, where it is used."""
    torch: Any = sys.modules.get("torch") if wanted else None
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
