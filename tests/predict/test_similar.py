"""Reference sets: the nearest against scikit-learn, what is left out, files that say when they do not fit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pesi.errors import BundleError, DataError, ImageError
from pesi.predict.similar import (
    FEATURES,
    REFERENCE,
    ReferenceCase,
    ReferenceConfig,
    ReferenceSet,
    build_reference,
    load_reference,
    unit_rows,
)


@pytest.fixture
def built(classifier, spots, tmp_path):
    return build_reference(classifier, spots, tmp_path / "refs"), tmp_path / "refs"


def reference_of(features: np.ndarray, lesions: list[str | None]) -> ReferenceSet:
    cases = tuple(
        ReferenceCase(image_id=f"i{k}", diagnosis="NV", path=f"i{k}.png", lesion_id=lesion)
        for k, lesion in enumerate(lesions)
    )
    config = ReferenceConfig(bundle="b", task="t", looks="l", views="single", features_sha256="", cases=cases)
    return ReferenceSet(config, unit_rows(features).astype(np.float16))


def test_nearest_is_scikit_learns():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 24)) * rng.uniform(0.1, 9, (60, 1))
    reference = reference_of(features, [None] * 60)
    query = rng.normal(size=24)
    found = reference.nearest(query, 7)
    neighbours = NearestNeighbors(metric="cosine").fit(features)
    distances, indices = neighbours.kneighbors(query[None], 7)
    assert [case.image_id for case in found] == [f"i{index}" for index in indices[0]]
    np.testing.assert_allclose([case.similarity for case in found], 1 - distances[0], atol=2e-3)
    assert reference.nearest(query * 1000, 7) == found  # an angle knows no length
    assert len(reference.nearest(query, 100)) == 60


def test_the_image_and_its_lesion_can_be_left_out():
    features = np.eye(4)[[0, 0, 0, 1, 2]] + 0.01
    reference = reference_of(features, ["a", "a", None, "b", None])
    query = features[0]
    assert {case.image_id for case in reference.nearest(query, 3)} == {"i0", "i1", "i2"}
    assert [case.image_id for case in reference.nearest(query, 1, without_image="i0")] == ["i2"]
    assert {case.image_id for case in reference.nearest(query, 5, without_image="i0")} == {"i2", "i3", "i4"}
    # No lesion id: only the image itself goes.
    assert {case.image_id for case in reference.nearest(query, 5, without_image="i2")} == {"i0", "i1", "i3", "i4"}
    assert {case.image_id for case in reference.nearest(query, 5, without_lesion="b")} == {"i0", "i1", "i2", "i4"}
    assert len(reference.nearest(query, 5, without_image="elsewhere")) == 5


def test_features_that_do_not_fit():
    reference = reference_of(np.eye(4), [None] * 4)
    for wrong in (np.ones(3), np.zeros(4), np.full(4, np.nan)):
        with pytest.raises(DataError, match="do not fit"):
            reference.nearest(wrong, 1)


def test_built_features_are_the_classifiers_and_come_back(built, classifier, spots):
    reference, folder = built
    again = load_reference(folder)
    assert again.config == reference.config
    np.testing.assert_array_equal(again.features, reference.features)
    assert {path.name for path in folder.iterdir()} == {REFERENCE, FEATURES}
    assert again.features.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(again.features.astype(float), axis=1), 1, atol=2e-3)
    assert [case.image_id for case in again.config.cases] == list(spots["image_id"])
    features = classifier.outputs([classifier.squares(spots["path"].iloc[5])]).features[0, 0].astype(float)
    np.testing.assert_allclose(again.features[5], features / np.sqrt((features**2).sum()), atol=2e-3)
    nearest = again.similar_to(classifier, spots["path"].iloc[5], 3)
    assert nearest[0].image_id == spots["image_id"].iloc[5]
    assert nearest[0].similarity == pytest.approx(1, abs=2e-3)
    assert nearest[0].path == spots["path"].iloc[5]
    own = spots["image_id"].iloc[5]
    assert own not in {case.image_id for case in again.similar_to(classifier, nearest[0].path, 9, without_image=own)}


def test_unlabelled_images_are_left_out_and_refused_ones_named(classifier, spots, tmp_path):
    records = spots.iloc[:6].copy()
    records.loc[records.index[0], "diagnosis"] = None
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    records.loc[records.index[1], "path"] = str(tmp_path / "broken.png")
    refused, done = [], []
    reference = build_reference(
        classifier,
        records,
        tmp_path / "r",
        refused=refused.append,
        progress=lambda d, n: done.append((d, n)),
        batch_size=2,
    )
    assert [case.image_id for case in reference.config.cases] == list(records["image_id"].iloc[2:])
    assert [refusal.path for refusal in refused] == [str(tmp_path / "broken.png")]
    assert done == [(2, 5), (4, 5), (5, 5)]
    with pytest.raises(ImageError):
        build_reference(classifier, records, tmp_path / "s")
    records["diagnosis"] = None
    with pytest.raises(DataError, match="diagnosis"):
        build_reference(classifier, records, tmp_path / "t")


def test_another_bundle_is_refused(built, classifier):
    reference, _ = built
    other = ReferenceSet(reference.config.model_copy(update={"bundle": "other@0123"}), reference.features)
    with pytest.raises(BundleError, match="other@0123"):
        other.similar_to(classifier, np.zeros((72, 72, 3), np.uint8), 1)


def test_damaged_folders_say_so(built, tmp_path):
    _, folder = built
    with pytest.raises(DataError, match="no reference set"):
        load_reference(tmp_path)

    def broken(change) -> str:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(DataError) as told:
            load_reference(copy)
        shutil.rmtree(copy)
        return told.value.problem

    def rewritten(**values):
        def change(copy):
            config = json.loads((copy / REFERENCE).read_text())
            (copy / REFERENCE).write_text(json.dumps({**config, **values}))

        return change

    assert "Invalid JSON" in broken(lambda copy: (copy / REFERENCE).write_text("{"))
    assert "bundle" in broken(rewritten(bundle=None))
    assert "format version 9" in broken(rewritten(format_version=9))
    assert "is not the file" in broken(lambda copy: (copy / FEATURES).write_bytes(b"something else"))
    assert "no readable" in broken(lambda copy: (copy / FEATURES).unlink())
    assert "features of shape" in broken(
        lambda copy: rewritten(cases=json.loads((copy / REFERENCE).read_text())["cases"][:3])(copy)
    )
