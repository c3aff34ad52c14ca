"""One image or many, given in whatever way: the same answers, ids as the command makes them, refusals in place."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pesi.errors import DataError, ImageError, PesiError, SourceError
from pesi.predict.prediction import Prediction, Refusal
from pesi.predict.predictions import Predictions


@pytest.fixture
def folder(spots, tmp_path) -> Path:
    """Three images, two of one name, and one that cannot be read."""
    for name, row in (("a/mole.png", 0), ("b/mole.png", 1), ("c.png", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(Path(spots["path"].iloc[row]).read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    return tmp_path


def values(results) -> list[tuple[str, list[float] | None]]:
    return [(r.image_id, list(r.probabilities.values()) if isinstance(r, Prediction) else None) for r in results]


def test_one_image_in_every_form_is_one_prediction(classifier, spots):
    path = spots["path"].iloc[0]
    with Image.open(path) as opened:
        array = np.array(opened.convert("RGB"))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = classifier.predict(path)
    assert isinstance(expected, Prediction)
    with Path(path).open("rb") as file, Image.open(path) as opened:
        named = [Path(path), file, opened]
        nameless = [Path(path).read_bytes(), io.BytesIO(Path(path).read_bytes()), array, tensor]
        for source in named + nameless:
            found = classifier.predict(source)
            assert found.probabilities == expected.probabilities
            is_named = any(source is other for other in named)
            assert (found == expected) is is_named
            assert (found.image_id, found.path) == (("train_000", path) if is_named else ("image", None))
            assert Image.open(io.BytesIO(found.thumbnail)).size == (72, 72) if found.thumbnail else is_named
    assert classifier.predict(array, image_id="mine").image_id == "mine"
    with pytest.raises(ImageError, match="is gray"):
        classifier.predict(array[..., 0])
    streamed = classifier.predict(path, stream=True)
    assert isinstance(streamed, Iterator)
    assert values(streamed) == values([expected])


@pytest.mark.usefixtures("real_gate")  # the command has it
def test_a_folder_gives_what_the_command_writes(classifier, folder, tiny_run):
    """Same images, same order, same ids, same columns, same numbers."""
    out = folder.parent / "out.csv"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = ["-m", "pesi", "predict", str(folder), "--bundle", str(tiny_run / "bundle"), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, *command, "--device", "cpu"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1, done.stderr
    table = pd.read_csv(out, keep_default_na=False)
    results = classifier.predict(folder)
    assert isinstance(results, Predictions)
    frame = results.to_frame()
    assert list(frame) == list(table)
    assert [result.image_id for result in results] == list(table["image"])
    assert len(set(table["image"])) == 4
    assert [type(result) for result in results].count(Refusal) == 1
    for name in ("melanoma", "nevus"):
        np.testing.assert_allclose(frame[name], pd.to_numeric(table[name]), rtol=1e-5)
    again = classifier.predict([folder / "a", folder / "b", folder / "broken.jpg", folder / "c.png"])
    assert values(again) == values(results)


def test_many_keep_their_order_with_refusals_in_place(classifier, folder, spots):
    array = np.asarray(Image.open(folder / "c.png").convert("RGB"))
    many = [array, folder / "broken.jpg", folder / "missing.png", (folder / "c.png").read_bytes(), b"text", array]
    results = classifier.predict(many)
    assert [type(result) for result in results] == [Prediction, Refusal, Refusal, Prediction, Refusal, Prediction]
    assert [r.image_id for r in results] == ["image", "broken", "missing", "image_2", "image_3", "image_4"]
    assert [r.path for r in results.refusals] == [str(folder / "broken.jpg"), str(folder / "missing.png"), None]
    assert results[0].probabilities == pytest.approx(classifier.predict(folder / "c.png").probabilities, abs=1e-6)
    assert results.summary() == "6 images: 3 answered, 0 without a result, 3 refused"
    twice = classifier.predict([folder / "c.png", folder / "c.png"])
    assert [r.image_id for r in twice] == ["c", "c_2"]
    for row in (spots["path"].iloc[:2], tuple(spots["path"].iloc[:2]), {spots["path"].iloc[0]}):
        assert len(classifier.predict(row)) == len(row)
    assert classifier.predict([]) == []
    assert len(classifier.predict([]).to_frame()) == 0


def test_a_generator_is_read_as_it_goes_and_named_as_a_list(classifier, folder):
    paths = [folder / "a" / "mole.png", folder / "broken.jpg", folder / "b" / "mole.png", folder / "c.png"]
    listed = classifier.predict(paths)
    assert values(classifier.predict(path for path in paths)) == values(listed)
    taken: list[Path] = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(paths[len(taken) % 4])
            yield taken[-1]

    stream = classifier.predict(endless(), stream=True, batch_size=2)
    first = [next(stream) for _ in range(5)]
    assert len(taken) <= 5 + 2 * 2  # two batches ahead
    assert [result.image_id for result in first] == ["mole", "broken", "mole_2", "c", "mole_3"]
    assert first[0].probabilities == pytest.approx(listed[0].probabilities, abs=1e-6)


@pytest.mark.parametrize("thing", [None, 7, {"a.png": 1}, pd.DataFrame({"path": ["a.png"]}), object()])
def test_what_is_no_image_is_told_before_any_work(classifier, thing):
    with pytest.raises(TypeError, match="is no image") as caught:
        classifier.predict(thing)
    assert "a folder" in caught.value.cure
    with pytest.raises(SourceError, match=rf"Item 1 is a {type(thing).__name__}, which is no image"):
        classifier.predict(["a.png", thing])


def test_other_mistakes(classifier, tmp_path, spots):
    with pytest.raises(DataError, match="holds no images"):
        classifier.predict(tmp_path)
    with pytest.raises(SourceError, match="One image_id"):
        classifier.predict([spots["path"].iloc[0]], image_id="a")
    with pytest.raises(ValueError, match="Unknown views 'flips'") as caught:
        classifier.predict(spots["path"].iloc[0], views="flips")
    assert "Did you mean flips4" in caught.value.cure


def test_equal_stems_have_ids_of_their_own_in_predict_many(classifier, folder):
    paths = [folder / "a" / "mole.png", folder / "b" / "mole.png"]
    ids = [result.image_id for result in classifier.predict_many(paths)]
    assert len(set(ids)) == 2
    with pytest.raises(ValueError, match="2 images but 1 image ids"):
        list(classifier.predict_many(paths, image_ids=["one"]))


def test_no_images_give_no_outputs_of_the_right_shape(classifier, spots):
    some, none = classifier.outputs([classifier.squares(spots["path"].iloc[0])]), classifier.outputs([])
    for full, empty in zip(some, none, strict=True):
        assert empty.shape == (0, *full.shape[1:])
        assert empty.dtype == full.dtype
    assert classifier.logits([], "grid9").shape == (0, 9, 3)


def test_devices(classifier, spots):
    path = spots["path"].iloc[0]
    before = classifier.predict(path)
    assert classifier.to("cpu") is classifier
    assert classifier.predict(path) == before
    with pytest.raises(PesiError, match="Cannot compute on the device 'nowhere'"):
        classifier.to("nowhere")
    seen = {parameter.device for parameter in classifier.network.parameters()}
    assert seen == {classifier.device}


def test_the_best_device_there_is(monkeypatch):
    from pesi.predict import device

    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
        assert device.torch_device().type == expected


def test_what_things_are_is_seen_in_their_repr(classifier, folder):
    results = classifier.predict(folder)
    said = repr(results)
    assert "4 images: 3 answered" in said
    for result in results:
        assert result.image_id in repr(result)
        assert repr(result) in said
    assert f"melanoma {results[0].probabilities['melanoma']:.3f}" in repr(results[0])
    assert results.refusals[0].reason in repr(results.refusals[0])
    for part in (classifier.config.bundle_id, "pesi14", "melanoma, seborrheic_keratosis, nevus"):
        assert part in repr(classifier)
        assert part in repr(classifier.config)
        assert part in str(classifier.config)
    assert "on cpu" in repr(classifier)
