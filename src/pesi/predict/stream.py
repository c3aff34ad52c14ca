"""Many files to predictions, in order, a batch at a time; a file that cannot be read does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2

from pesi.errors import ImageError
from pesi.predict.prediction import Prediction, Refusal

Read = TypeVar("Read")
Answer = TypeVar("Answer")
Seconds = dict[str, float]


def predict_stream(
    paths: Iterable[str | Path],
    image_ids: Iterable[str] | None,
    *,
    read: Callable[[Path], Read],
    answer: Callable[[Sequence[Read]], Sequence[Answer]],
    prediction: Callable[[str, str, Read, Answer, Seconds], Prediction],
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Prediction | Refusal]:
    """Predict many files.

    Args:
        paths: Image files.
        image_ids: Their ids; None: the files' names without their endings.
        read: Decodes a file; raises ImageError to refuse it.
        answer: What the network says of a batch, an answer an image.
        prediction: Makes a Prediction of image id, path, what was read, what was answered, and seconds an image.
        batch_size: Images at a time.
        progress: Called with the number of images done after each batch.
    """
    files = [Path(path) for path in paths]
    ids = list(image_ids) if image_ids is not None else [path.stem for path in files]
    if len(ids) != len(files):
        raise ValueError(f"{len(files)} paths but {len(ids)} image ids.")

    def attempt(path: Path) -> Read | ImageError:
        try:
            return read(path)
        except ImageError as error:
            return error
        except (MemoryError, cv2.error) as error:  # OpenCV's own way to say that memory is short
            return ImageError(f"{path} asks for more memory than there is ({error}).", "Save it smaller.")

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(files), batch_size):
            batch = slice(start, start + batch_size)
            began = time.perf_counter()
            readings = list(pool.map(attempt, files[batch]))
            good = [reading for reading in readings if not isinstance(reading, ImageError)]
            done = time.perf_counter()
            answers = iter(answer(good) if good else ())
            seconds = {
                "read": (done - began) / len(readings),
                "network": (time.perf_counter() - done) / max(len(good), 1),
            }
            for path, image_id, reading in zip(files[batch], ids[batch], readings, strict=True):
                if isinstance(reading, ImageError):
                    yield Refusal(image_id, str(path), reading.problem, reading.cure)
                else:
                    yield prediction(image_id, str(path), reading, next(answers), seconds)
            if progress:
                progress(min(start + batch_size, len(files)))
