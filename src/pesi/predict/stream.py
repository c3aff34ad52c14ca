"""Many images to predictions, in order, a batch at a time; one that cannot be read does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import cv2

from pesi.errors import ImageError
from pesi.images.pixels import ImageSource, source_path
from pesi.predict.prediction import Prediction, Refusal
from pesi.predict.sources import with_ids

Read = TypeVar("Read")
Answer = TypeVar("Answer")
Seconds = dict[str, float]


def predict_stream(
    sources: Iterable[ImageSource],
    image_ids: Iterable[str] | None,
    *,
    read: Callable[[ImageSource, str], Read],
    answer: Callable[[Sequence[Read]], Sequence[Answer]],
    prediction: Callable[[str, str | None, Read, Answer, Seconds], Prediction],
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Prediction | Refusal]:
    """Predict many images; of a generator, no more than a batch is held.

    Args:
        sources: Images.
        image_ids: Their ids; None: see `sources.with_ids`.
        read: Decodes an image, given with its id; raises ImageError to refuse it.
        answer: What the network says of a batch, an answer an image.
        prediction: Makes a Prediction of image id, path, what was read, what was answered, and seconds an image.
        batch_size: Images at a time.
        progress: Called with the number of images done after each batch.

    Raises:
        ValueError: There are more or fewer ids than images.
    """

    def attempt(named: tuple[ImageSource, str]) -> Read | ImageError:
        source, image_id = named
        try:
            return read(source, image_id)
        except ImageError as error:
            return error
        except (MemoryError, cv2.error) as error:  # OpenCV's own way to say that memory is short
            name = source_path(source) or "The image"
            return ImageError(f"{name} asks for more memory than there is ({error}).", "Save it smaller.")

    given: tuple[Any, Any] = sources, image_ids
    counts = [len(each) for each in given if isinstance(each, Sized)]
    if len(counts) == 2 and counts[0] != counts[1]:
        raise ValueError(f"{counts[0]} images but {counts[1]} image ids.")
    named = with_ids(sources) if image_ids is None else zip(sources, image_ids, strict=True)
    finished = 0
    with ThreadPoolExecutor(2) as pool:
        while batch := list(islice(named, batch_size)):
            began = time.perf_counter()
            readings = list(pool.map(attempt, batch))
            good = [reading for reading in readings if not isinstance(reading, ImageError)]
            done = time.perf_counter()
            answers = iter(answer(good) if good else ())
            seconds = {
                "read": (done - began) / len(readings),
                "network": (time.perf_counter() - done) / max(len(good), 1),
            }
            for (source, image_id), reading in zip(batch, readings, strict=True):
                path = source_path(source)
                if isinstance(reading, ImageError):
                    yield Refusal(image_id, path, reading.problem, reading.cure)
                else:
                    yield prediction(image_id, path, reading, next(answers), seconds)
            finished += len(batch)
            if progress:
                progress(finished)
