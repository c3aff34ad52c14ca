"""The stream gives every image its own result, whatever the others do: slow, stalled, bad, or a mistake of ours."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pesi.predict.stream as stream_module
from pesi.errors import ImageError
from pesi.predict.prediction import Refusal
from pesi.predict.stream import predict_stream

NOBODY = threading.Event()  # never set


@pytest.fixture(autouse=True)
def _cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")


def double(readings: Sequence[int]) -> list[int]:
    return [2 * reading for reading in readings]


def number(path: Any, image_id: str) -> int:
    return int(Path(path).stem)


def run(count: int, *, read: Any = number, answer: Any = double, **options: Any) -> Iterator[Any]:
    """(id, answer, seconds) of images that are called by numbers."""
    return predict_stream(
        [f"{place}.jpg" for place in range(count)],
        None,
        read=read,
        answer=answer,
        prediction=lambda image_id, path, reading, answered, seconds: SimpleNamespace(  # type: ignore[arg-type,return-value]
            image_id=image_id, answer=answered, seconds=seconds, path=path
        ),
        **options,
    )


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("on_processor", [True, False])
def test_every_image_has_its_own_answer_in_its_place(batch_size: int, on_processor: bool) -> None:
    rng, sizes = np.random.default_rng(0), []
    pauses = rng.uniform(0, 0.002, 100)

    def read(path: Any, image_id: str) -> int:
        time.sleep(pauses[int(image_id)])
        return number(path, image_id)

    def answer(readings: Sequence[int]) -> list[int]:
        sizes.append(len(readings))
        return double(readings)

    done: list[int] = []
    found = list(
        run(100, read=read, answer=answer, batch_size=batch_size, on_processor=on_processor, progress=done.append)
    )
    assert [(each.image_id, each.answer, each.path) for each in found] == [
        (str(place), 2 * place, f"{place}.jpg") for place in range(100)
    ]
    assert max(sizes) <= batch_size
    assert sum(sizes) == 100
    assert done == sorted({*range(batch_size, 101, batch_size), 100})
    assert all(each.seconds["read"] >= pauses[place] for place, each in enumerate(found))


def test_results_as_they_are_done_are_the_same_ones() -> None:
    assert sorted(int(each.image_id) for each in run(50, in_order=False)) == list(range(50))


def test_a_slow_image_holds_up_nobody_but_itself() -> None:
    let, answered = threading.Event(), []

    def read(path: Any, image_id: str) -> int:
        if image_id == "0":
            let.wait()
        return number(path, image_id)

    def answer(readings: Sequence[int]) -> list[int]:
        answered.extend(readings)
        return double(readings)

    found = run(300, read=read, answer=answer, in_order=False, batch_size=4)
    first = [next(found).image_id for _ in range(299)]
    assert sorted(map(int, first)) == list(range(1, 300))
    let.set()
    assert [each.image_id for each in found] == ["0"]

    let.clear()
    answered.clear()
    threading.Thread(target=_when, args=(lambda: len(answered) == 299, let.set)).start()
    found = run(300, read=read, answer=answer, batch_size=4)
    assert next(found).image_id == "0"
    assert len(answered) == 300  # all others before it was let go
    assert [int(each.image_id) for each in found] == list(range(1, 300))


def test_a_processor_answers_two_together_while_more_are_read() -> None:
    sizes: list[int] = []

    def read(path: Any, image_id: str) -> int:
        time.sleep(0.005)
        return number(path, image_id)

    def answer(readings: Sequence[int]) -> list[int]:
        sizes.append(len(readings))
        return double(readings)

    assert [each.answer for each in run(60, read=read, answer=answer)] == [2 * place for place in range(60)]
    assert sorted(sizes)[len(sizes) // 2] >= 2  # it takes no time to answer them, so that one alone would be the rule


def test_one_that_is_read_does_not_wait_for_those_that_are_stuck() -> None:
    let = threading.Event()
    limit = threading.Timer(30, let.set)
    limit.start()

    def read(path: Any, image_id: str) -> int:
        if image_id != "0":
            let.wait()
        return number(path, image_id)

    found = run(20, read=read, in_order=False, batch_size=8)
    assert next(found).image_id == "0"
    assert not let.is_set()
    let.set()
    limit.cancel()
    assert sorted(int(each.image_id) for each in found) == list(range(1, 20))


def test_networks_open_in_the_threads_that_answer() -> None:
    opened: list[str] = []
    found = list(run(5, prepare=lambda: opened.append(threading.current_thread().name)))
    assert len(found) == 5
    assert threading.current_thread().name not in opened
    assert len(set(opened)) == 3


def _when(condition: Any, act: Any) -> None:
    for _ in range(2000):
        if condition():
            break
        time.sleep(0.01)
    act()


def test_results_that_wait_for_a_slow_image_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_BEHIND", 20)
    let, answered = threading.Event(), []

    def read(path: Any, image_id: str) -> int:
        if image_id == "0":
            let.wait()
        return number(path, image_id)

    def answer(readings: Sequence[int]) -> list[int]:
        answered.extend(readings)
        return double(readings)

    def let_go() -> None:
        time.sleep(0.1)  # a further one would be answered by now
        most.append(len(answered))
        let.set()

    most: list[int] = []
    threading.Thread(target=_when, args=(lambda: len(answered) == 19, let_go)).start()
    assert len(list(run(100, read=read, answer=answer, batch_size=4))) == 100
    assert most == [19]


def test_a_stalled_image_is_refused_and_the_rest_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_STALLED", 0.2)
    monkeypatch.setattr(stream_module, "_LOOK", 0.02)
    monkeypatch.setattr(stream_module, "_LEAVE", 0.1)

    def read(path: Any, image_id: str) -> int:
        if int(image_id) in (3, 4, 5, 6, 7):  # more than there are threads
            NOBODY.wait()
        return number(path, image_id)

    found = list(run(40, read=read))
    assert [int(each.image_id) for each in found] == list(range(40))
    refused = [each for each in found if isinstance(each, Refusal)]
    assert [each.image_id for each in refused] == ["3", "4", "5", "6", "7"]
    assert "3.jpg could not be read within" in refused[0].reason


def test_a_bad_image_is_refused_in_its_place() -> None:
    def read(path: Any, image_id: str) -> int:
        if image_id == "1":
            raise ImageError("1.jpg is no image.", "Look at it.")
        if image_id == "2":
            raise MemoryError("full")
        return number(path, image_id)

    one, bad, large, two = run(4, read=read)
    assert (one.answer, two.answer) == (0, 6)
    assert (bad.reason, bad.cure) == ("1.jpg is no image.", "Look at it.")
    assert "more memory" in large.reason


@pytest.mark.parametrize("place", ["read", "answer"])
def test_a_mistake_of_the_program_s_comes_out_where_results_are_taken(place: str) -> None:
    def fail(*_: object) -> Any:
        raise ZeroDivisionError("ours")

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="ours"):
        list(run(20, **{place: fail}))
    assert threading.active_count() == before


def test_a_generator_is_asked_in_the_thread_that_takes_results_and_two_batches_ahead() -> None:
    taken: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            assert threading.current_thread() is threading.main_thread()
            taken.append(len(taken))
            yield f"{len(taken) - 1}.jpg"

    before = threading.active_count()
    found = predict_stream(
        endless(),
        None,
        read=number,
        answer=double,
        prediction=lambda image_id, path, reading, answered, seconds: answered,  # type: ignore[arg-type,return-value]
        batch_size=3,
    )
    for given in range(50):
        assert next(found) == 2 * given
        time.sleep(0.001)
        assert len(taken) <= given + 1 + 2 * 3
    found.close()
    assert threading.active_count() == before


def test_arithmetic_is_not_divided_within_and_as_before_after(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:

        def answer(readings: Sequence[int]) -> list[int]:
            torch.ones(1000, 1000).sum()
            seen.add(torch.get_num_threads())
            return double(readings)

        assert len(list(run(20, answer=answer))) == 20
        assert seen == {1}
        assert torch.get_num_threads() == 2
        seen.clear()
        assert len(list(run(20, answer=answer, on_processor=False))) == 20
        assert seen == {2}
    finally:
        torch.set_num_threads(before)


MEMORY = """
import resource, sys
from pesi.images.decode import decode_image
from pesi.predict.stream import predict_stream
count, path = int(sys.argv[1]), sys.argv[2]
results = predict_stream(
    (path for _ in range(count)), map(str, range(count)), read=lambda source, _: decode_image(source),
    answer=lambda images: [image.mean() for image in images], prediction=lambda *given: given[3], in_order=False)
print(sum(1 for _ in results), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    peaks = []
    for count in (60, 600):  # 86 MB, and 864 MB, of pixels
        command = [sys.executable, "-c", MEMORY, str(count), str(tmp_path / "a.jpg")]
        done, peak = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        assert done == count
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 30
