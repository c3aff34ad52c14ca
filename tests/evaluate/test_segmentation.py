"""Mask scores against scikit-learn, closed forms and the official scorer of the ISIC challenges."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, recall_score

from pesi.datasets.records import record_table
from pesi.errors import DataError, ImageError
from pesi.evaluate.segmentation import SCORES, evaluate_segmenter, mask_scores, score_images
from pesi.predict.segmenter import LesionMask


def disc(size: int, x: int, y: int, radius: int) -> np.ndarray:
    return cv2.circle(np.zeros((size, size), np.uint8), (x, y), radius, 1.0, -1) > 0


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        truth, predicted = rng.random((2, 40, 50)) < share
        ours, t, p = mask_scores(predicted, truth), truth.ravel(), predicted.ravel()
        assert ours.jaccard == pytest.approx(jaccard_score(t, p))
        assert ours.dice == pytest.approx(f1_score(t, p))
        assert ours.sensitivity == pytest.approx(recall_score(t, p))
        assert ours.specificity == pytest.approx(recall_score(~t, ~p))
        assert ours.accuracy == pytest.approx(accuracy_score(t, p))
        assert ours.dice == pytest.approx(2 * ours.jaccard / (1 + ours.jaccard))


def test_the_threshold_is_inclusive():
    truth = np.zeros((10, 20), bool)
    truth.flat[:100] = True
    for hits, expected in ((64, 0.0), (65, 0.65), (100, 1.0)):
        predicted = np.zeros_like(truth)
        predicted.flat[:hits] = True
        assert mask_scores(predicted, truth).thresholded_jaccard == pytest.approx(expected)


def test_empty_and_whole_masks():
    nothing, whole = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert all(getattr(mask_scores(m, m), name) == 1 for m in (nothing, whole) for name in SCORES)
    missed = mask_scores(nothing, whole)
    assert (missed.jaccard, missed.dice, missed.sensitivity, missed.specificity) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="different shapes"):
        mask_scores(nothing, np.ones((4, 5), bool))


class Found:
    """Stands in for a segmenter: whatever is dark in the image."""

    def segment(self, image: np.ndarray) -> LesionMask:
        mask = image[..., 0] < 128
        found = bool(mask.any())
        return LesionMask(mask, mask.astype(np.float32), float(mask.mean()), found, "" if found else "nothing is dark")


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> pd.DataFrame:
    """Images with a dark disc, masks of a disc beside it; the last image has no lesion in it, and one has no mask."""
    folder, rng, rows = tmp_path_factory.mktemp("pairs"), np.random.default_rng(1), []
    for index in range(9):
        x, y, radius = (int(v) for v in rng.integers((20, 20, 8), (44, 44, 18)))
        drawn, name = disc(64, x, y, radius) & (index < 7), f"ISIC_{index:07d}"
        truth = disc(64, x + index, y, radius)
        Image.fromarray(np.where(drawn[..., None], 30, 220).repeat(3, 2).astype(np.uint8)).save(folder / f"{name}.png")
        Image.fromarray(truth.astype(np.uint8) * 255).save(folder / f"{name}_segmentation.png")
        rows.append({"image_id": name, "path": str(folder / f"{name}.png"), "source": "made"})
        if index != 8:
            rows[-1]["mask_path"] = str(folder / f"{name}_segmentation.png")
    return record_table(rows)


def test_a_set_of_images(records, tmp_path):
    done: list[int] = []
    evaluation = evaluate_segmenter(Found(), records, replicates=300, progress=done.append)
    frame = evaluation.per_image
    assert done == list(range(1, 9))
    assert len(frame) == 8
    assert list(frame["found"]) == [True] * 7 + [False]
    assert frame["reason"].iloc[-1] == "nothing is dark"
    assert frame["jaccard"].iloc[0] == 1
    assert frame["jaccard"].iloc[-1] == 0
    for name in SCORES:
        mean, low, high = evaluation.scores[name]
        assert mean == pytest.approx(frame[name].mean())
        assert low <= mean <= high
    evaluation.write(tmp_path, segmenter="dark")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["images"] == 8
    assert metrics["found"] == 7
    assert metrics["segmenter"] == "dark"
    assert metrics["jaccard_ci"] == list(evaluation.scores["jaccard"][1:])
    again = pd.read_csv(tmp_path / "per_image.csv", keep_default_na=False)
    np.testing.assert_allclose(again["dice"], frame["dice"])
    np.testing.assert_allclose(again["area"], frame["area"])


def test_intervals_are_those_of_a_mean():
    """For many images, the bootstrap interval is that of the central limit theorem."""
    values = np.random.default_rng(0).beta(5, 2, 800)
    mean, low, high = score_images(pd.DataFrame(dict.fromkeys(SCORES, values))).scores["jaccard"]
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_what_cannot_be_scored(records, tmp_path):
    with pytest.raises(DataError, match="None of these images has a lesion mask"):
        evaluate_segmenter(Found(), records.iloc[-1:])
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(DataError, match="32 x 32 pixels, its image 64 x 64"):
        evaluate_segmenter(Found(), records.head(1).assign(mask_path=str(tmp_path / "small.png")))
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(tmp_path / "wide.png")
    with pytest.raises(ImageError, match="another shape"):
        evaluate_segmenter(Found(), records.head(1).assign(mask_path=str(tmp_path / "wide.png")))


_OFFICIAL = """
import json, sys
from pathlib import Path
from isic_challenge_scoring.segmentation import SegmentationScore
score = SegmentationScore.from_dir(Path(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps({name: float(value) for name, value in score.macro_average.items()}))
"""


def test_the_official_scorer_agrees(records, tmp_path):
    beside = Path(__file__).resolve().parents[2] / ".venv-scoring" / "bin" / "python"
    python = Path(os.environ.get("PESI_SCORING_PYTHON") or beside)
    if not python.is_file():
        pytest.skip("needs the official scorer: make setup")
    for name in ("truth", "predictions"):
        (tmp_path / name).mkdir()
    masked = records[records["mask_path"].notna()]
    for image_id, path, mask in zip(masked["image_id"], masked["path"], masked["mask_path"], strict=True):
        (tmp_path / "truth" / f"{image_id}_segmentation.png").write_bytes(Path(mask).read_bytes())
        found = Found().segment(np.asarray(Image.open(path))).mask
        Image.fromarray(found.astype(np.uint8) * 255).save(tmp_path / "predictions" / f"{image_id}_segmentation.png")
    folders = [str(tmp_path / name) for name in ("truth", "predictions")]
    done = subprocess.run([str(python), "-c", _OFFICIAL, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    official = json.loads(done.stdout)
    ours = evaluate_segmenter(Found(), records, replicates=100).scores
    assert ours["thresholded_jaccard"][0] == pytest.approx(official.pop("threshold_jaccard"))
    assert set(official) == set(ours) - {"thresholded_jaccard"}
    for name, value in official.items():
        assert ours[name][0] == pytest.approx(value)


def test_pictures_that_are_read_smaller_are_scored_in_their_files_geometry(records, monkeypatch):
    whole = evaluate_segmenter(Found(), records, replicates=20).per_image
    monkeypatch.setattr("pesi.images.decode.FULL_PIXELS", 32 * 32)
    reduced = evaluate_segmenter(Found(), records, replicates=20).per_image
    np.testing.assert_array_equal(reduced["area"], whole["area"])
    np.testing.assert_allclose(reduced["jaccard"], whole["jaccard"], atol=0.06)
