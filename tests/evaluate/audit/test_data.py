"""What an audit measures on: folds that keep lesions together, parts with one image a lesion."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image as PillowImage

from pesi.datasets.records import record_table
from pesi.errors import DataError
from pesi.evaluate.audit.data import grouped_folds, lesion_grouped_part, one_image_a_lesion, read_audit_data
from pesi.predict.classifier import Classifier
from pesi.taxonomy import TASKS


@pytest.fixture
def records() -> pd.DataFrame:
    """120 images of 60 lesions, a third of each diagnosis, and ten of a diagnosis outside of the task."""
    rows = [
        {
            "image_id": f"i{n:03d}",
            "path": f"{n}.png",
            "source": "made",
            "diagnosis": ["MEL", "SK", "NV"][n // 2 % 3],
            "lesion_id": f"l{n // 2}",
        }
        for n in range(120)
    ]
    rows += [{"image_id": f"x{n}", "path": f"x{n}.png", "source": "made", "diagnosis": "DF"} for n in range(10)]
    return record_table(rows)


def test_folds_keep_lesions_together_and_classes_even(records):
    kept = records[records["diagnosis"] != "DF"].reset_index(drop=True)
    classes = pd.factorize(kept["diagnosis"])[0].astype(np.int64)
    folds = grouped_folds(kept, classes, 5, 0)
    assert (kept.assign(fold=folds).groupby("lesion_id")["fold"].nunique() == 1).all()
    assert pd.crosstab(folds, classes).to_numpy().min() >= 6  # 40 of each class over 5 folds, two at a time


def test_a_lesion_stays_in_one_fold_where_some_of_its_images_have_no_patient(records):
    kept = records[records["diagnosis"] != "DF"].reset_index(drop=True)
    kept["patient_id"] = [f"p{n // 4}" if n % 2 else None for n in range(120)]  # two lesions a patient, half unknown
    folds = grouped_folds(kept, pd.factorize(kept["diagnosis"])[0].astype(np.int64), 5, 0)
    assert (kept.assign(fold=folds).groupby("lesion_id")["fold"].nunique() == 1).all()
    assert (kept.assign(fold=folds, all=kept.index // 4).groupby("all")["fold"].nunique() == 1).all()


def test_a_part_has_one_image_a_lesion_and_the_shares_of_the_whole(records):
    part = lesion_grouped_part(records, TASKS["isic2017"], 30, seed=1)
    assert part["lesion_id"].is_unique
    assert part["diagnosis"].value_counts().to_dict() == {"MEL": 10, "SK": 10, "NV": 10}
    again = lesion_grouped_part(records.sample(frac=1, random_state=3).sort_index(), TASKS["isic2017"], 30, seed=1)
    assert list(again["image_id"]) == list(part["image_id"])
    assert len(lesion_grouped_part(records, TASKS["isic2017"], 1000, seed=1)) == 60


def test_one_image_of_each_lesion_stays_and_the_order_too(records):
    part = one_image_a_lesion(records, seed=0)
    lesions = part["lesion_id"].dropna()
    assert sorted(lesions) == sorted(set(records["lesion_id"].dropna()))  # each once
    assert part["lesion_id"].isna().sum() == 10  # without an id: each by itself
    assert list(part["image_id"]) == [i for i in records["image_id"] if i in set(part["image_id"])]
    drawn = {tuple(one_image_a_lesion(records, seed)["image_id"]) for seed in range(3)}
    assert len(drawn) == 3
    alone = records.drop_duplicates("lesion_id")
    assert one_image_a_lesion(alone, seed=0).equals(alone.reset_index(drop=True))


def test_diagnoses_count_through_their_parents(records):
    """Seborrheic keratosis is a benign keratosis, as in training."""
    part = lesion_grouped_part(records, TASKS["ham10000"], 1000, seed=0)
    assert (part["diagnosis"] == "SK").sum() == 20


@pytest.mark.parametrize("count", [7, 20, 31])
def test_a_part_is_no_larger_than_asked(records, count):
    assert len(lesion_grouped_part(records, TASKS["ham10000"], count, seed=0)) == count


def test_folds_of_few_images(records):
    few = records.iloc[[0, 2, 4, 6]].reset_index(drop=True)
    assert set(grouped_folds(few, np.array([0, 1, 0, 1]), 5, 0)) == {0, 1}
    for rows, message in ((few.assign(patient_id="one"), "1 patient"), (few.head(1), "1 image")):
        with pytest.raises(DataError, match=message):
            grouped_folds(rows, np.zeros(len(rows), np.int64), 5, 0)


def test_a_lesions_box_is_cut_from_the_file_as_in_prediction(tiny_run, tmp_path):
    """From a file of 288 pixels, a square of 72 holds less than the box that `predict` cuts."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(4):
        picture = rng.integers(150, 230, (288, 288, 3), np.uint8)
        cv2.circle(picture, (144, 144), 40, (60.0, 40.0, 30.0), -1)
        picture[::2] //= 2  # detail that the square has not
        PillowImage.fromarray(picture).save(tmp_path / f"{index}.png")
        path = str(tmp_path / f"{index}.png")
        rows.append({"image_id": str(index), "path": path, "source": "made", "diagnosis": ["MEL", "NV"][index % 2]})
    whole = Classifier.load(tiny_run / "bundle", device="cpu")
    preprocess = whole.config.preprocess.model_copy(update={"regions": ("lesion",)})
    lesion = Classifier(whole.config.with_preprocess(preprocess), whole.network, device="cpu")
    data = read_audit_data(lesion, record_table(rows), "made")
    for index, row in enumerate(rows):
        predicted = lesion.predict(row["path"], gates=False).probabilities
        np.testing.assert_allclose(data.probabilities[index], list(predicted.values()), atol=1e-5)


def test_data_is_what_the_classifier_says(classifier, spots):
    table = pd.concat([spots[spots["split"] == "val"], spots.head(1).assign(image_id="other", diagnosis="DF")])
    seen = []
    data = read_audit_data(classifier, table, "spots val", progress=lambda *step: seen.append(step))
    assert "other" not in set(data.records["image_id"])
    assert data.has_mask.all()
    for index in (0, 7):
        prediction = classifier.predict(data.records["path"].iloc[index])
        np.testing.assert_allclose(data.probabilities[index], list(prediction.probabilities.values()), atol=1e-5)
    assert seen[-1] == ("predicting spots val", 12, 12)
    part = data.take(data.sample(6, seed=0))
    assert len(part) == 6
    assert np.bincount(part.classes).tolist() == [2, 2, 2]
    with pytest.raises(DataError, match="None of the images"):
        read_audit_data(classifier, spots.assign(diagnosis="DF"), "spots")
