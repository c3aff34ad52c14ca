"""Sampling and targets: every picture once, classes in balance, processes without overlap, all from the seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pesi.errors import DataError
from pesi.images.transforms import Augmentation
from pesi.taxonomy import TASKS
from pesi.train.dataset import (
    EpochSampler,
    TrainingPictures,
    ValidationPictures,
    class_counts,
    class_indices,
    output_names,
    targets_of,
)

CLASSES = np.array([0] * 10 + [1] * 30 + [2] * 160)


def test_shuffle_gives_each_picture_once_and_another_order_each_epoch():
    sampler = EpochSampler(CLASSES, "shuffle", seed=1)
    first = list(sampler)
    assert sorted(index for index, _ in first) == list(range(200))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert [i for i, _ in sampler] != [i for i, _ in first]
    assert len({seed for _, seed in first}) == 200


def test_balanced_and_sqrt_frequencies():
    counts = {}
    for mode in ("balanced", "sqrt"):
        sampler, drawn = EpochSampler(CLASSES, mode, seed=0), []
        for epoch in range(50):
            sampler.set_epoch(epoch)
            drawn += [CLASSES[index] for index, _ in sampler]
        counts[mode] = np.bincount(drawn) / len(drawn)
    np.testing.assert_allclose(counts["balanced"], 1 / 3, atol=0.02)
    root = np.sqrt([10, 30, 160])
    np.testing.assert_allclose(counts["sqrt"], root / root.sum(), atol=0.02)


def test_processes_share_an_epoch_without_overlap():
    whole = list(EpochSampler(CLASSES[:199], "shuffle", seed=0))
    shares = [list(EpochSampler(CLASSES[:199], "shuffle", seed=0, rank=r, world_size=2)) for r in range(2)]
    assert [len(s) for s in shares] == [99, 99]
    assert not set(shares[0]) & set(shares[1])
    assert set(shares[0]) | set(shares[1]) <= set(whole)


def test_same_seed_same_pixels():
    squares = np.random.default_rng(0).integers(0, 256, (3, 72, 72, 3), dtype=np.uint8)
    pictures = TrainingPictures([squares], np.array([0, 1, 2]), Augmentation(hue=10, erase=1.0, artefacts=1.0), 64)
    picture, label = pictures[(1, 123)]
    assert picture.shape == (3, 64, 64)
    assert picture.dtype == torch.uint8
    assert label == 1
    assert torch.equal(picture, pictures[(1, 123)][0])
    assert not torch.equal(picture, pictures[(1, 124)][0])


def test_a_region_is_drawn_for_each_picture():
    light, dark = np.full((1, 64, 64, 3), 255, np.uint8), np.zeros((1, 64, 64, 3), np.uint8)
    pictures = TrainingPictures([light, dark], np.array([0]), Augmentation(), 64)
    means = [float(pictures[(0, seed)][0].float().mean()) for seed in range(200)]
    assert set(means) == {0.0, 255.0}
    assert 60 < means.count(0.0) < 140


def test_validation_pictures_are_the_squares():
    squares = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    picture, label, index = ValidationPictures([squares], np.array([2, 0]), 64)[1]
    np.testing.assert_array_equal(picture.permute(1, 2, 0).numpy(), squares[1])
    assert (label, index) == (0, 1)


def test_targets():
    classes = torch.tensor([0, 2, 1])
    task = TASKS["isic2017"]
    assert targets_of(classes, task, "multiclass").tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert targets_of(classes, task, "multilabel").tolist() == [[1, 0], [0, 0], [0, 1]]
    assert output_names(task, "multilabel") == ("melanoma", "seborrheic_keratosis")
    assert output_names(task, "multiclass")[2] == "nevus"


def test_images_without_a_class_are_counted():
    frame = pd.DataFrame({"image_id": ["a", "b", "c"], "diagnosis": ["MEL", None, None]})
    with pytest.raises(DataError, match="2 of 3 images have no diagnosis; the first is b"):
        class_indices(frame, TASKS["isic2017"])
    frame["diagnosis"] = ["MEL", "DF", "BCC"]
    with pytest.raises(DataError, match="2 of 3 images, the first b: Diagnosis 'DF' belongs to no class") as caught:
        class_indices(frame, TASKS["isic2017"])
    assert "another task" in caught.value.cure
    assert class_indices(pd.DataFrame({"image_id": ["a"], "diagnosis": ["LK"]}), TASKS["ham10000"]).tolist() == [4]


def test_a_class_that_cannot_be_learned_is_told():
    names = ("melanoma", "nevus", "other")
    told = class_counts(np.array([0, 0, 1]), np.array([2, 1]), names)
    assert told == "melanoma 2 + 0, nevus 1 + 1, other 0 + 1; no training image shows other: it cannot be learned"
    assert "cannot" not in class_counts(np.array([0, 2, 1]), np.array([2, 1]), names)
