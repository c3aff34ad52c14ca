"""Maps of a bundle of several networks are the means of its networks' own, each computed here by hand."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import LayerGradCam
from PIL import Image
from scipy.special import softmax
from typer.testing import CliRunner

from conftest import FOLDS
from pesi.cli.app import app
from pesi.errors import DataError
from pesi.explain.baselines import grad_cam, last_block_of_stage
from pesi.explain.faithfulness import class_score, measure_faithfulness
from pesi.explain.localisation import localise
from pesi.explain.maps import explain
from pesi.explain.overlay import explanation_png
from pesi.images.transforms import normalise, resize, to_tensor
from pesi.predict.classifier import Classifier

REGIONS = {0: (0, 1), 1: (2, 3)}  # region -> the networks that look at it


def own_maps(classifier: Classifier, index: int, square: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict, np.ndarray]:
    """Picture, probabilities, attention and class activation maps of one network, with torch alone."""
    config = classifier.config.members[index]
    size, network = config.preprocess.size, classifier.networks[index]
    picture = resize(square, size, size)
    mean, std = np.array(config.preprocess.mean), np.array(config.preprocess.std)
    x = torch.from_numpy(((picture / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32))
    with torch.inference_mode():
        maps, logits = network.forward_attention(x)[1], network(x)[0].numpy().astype(float)
        features = network.forward_features(x)[0]
    cam = (network.fc.weight.detach() @ features.flatten(1)).reshape(-1, *features.shape[1:]).numpy()
    if config.vector is not None:
        logits = logits * np.array(config.vector.weight) + np.array(config.vector.bias)
    probabilities = softmax(logits / config.temperature.value / classifier.config.temperature.value)
    return picture, probabilities, {name: value[0].numpy() for name, value in maps.items()}, cam


@pytest.mark.parametrize("region", [0, 1])
def test_maps_are_the_means_of_the_networks_that_look_at_the_region(
    several: Classifier, spots: pd.DataFrame, region: int
) -> None:
    path, column = spots["path"].iloc[1], 1
    square = several.squares(path)[region]
    found = explain(several, path, class_name=several.config.outputs[column], region=region)
    each = [own_maps(several, index, square) for index in REGIONS[region]]
    assert np.array_equal(found.image, each[0][0])
    assert found.probability == pytest.approx(np.mean([own[1][column] for own in each]), abs=1e-5)
    side = found.image.shape[0]
    cam = cv2.resize(np.mean([own[3][column] for own in each], axis=0), (side, side), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found.cam, cam, atol=1e-4)
    blocks = [name for name in each[0][2] if name.startswith("layer3.")]
    stage = np.mean([own[2][name] for own in each for name in blocks], axis=0)
    stage = cv2.resize(stage, (side, side), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found.attention["stage 3"], stage / stage.sum(), rtol=1e-3, atol=1e-7)


def test_grad_cam_is_the_mean_of_the_networks_own(several: Classifier, spots: pd.DataFrame) -> None:
    picture = resize(several.squares(spots["path"].iloc[2])[0], 64, 64)
    x = normalise(to_tensor(picture)[None], (0.5, 0.5, 0.5), (0.25, 0.3, 0.35))
    each = []
    for network in several.networks[:2]:
        layer = network.get_submodule(last_block_of_stage(network, 3))
        each.append(LayerGradCam(network, layer).attribute(x, target=0)[0, 0].detach().numpy())
    expected = cv2.resize(np.mean(each, axis=0), (64, 64), interpolation=cv2.INTER_LINEAR)
    layer_name = last_block_of_stage(several.network, 3)
    found = grad_cam(several, picture, "melanoma", layer=layer_name, relu=False)
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=np.abs(expected).max() * 1e-4)


def test_the_score_of_faithfulness_is_the_mean_probability(several: Classifier, spots: pd.DataFrame) -> None:
    squares = [several.squares(path)[0] for path in spots["path"].iloc[:2]]
    each = [[own_maps(several, index, square)[1][2] for index in (0, 1)] for square in squares]
    pictures = np.stack([resize(square, 64, 64) for square in squares])
    np.testing.assert_allclose(class_score(several, "nevus")(pictures), np.mean(each, axis=1), atol=1e-5)


def test_images_of_a_fold_are_explained_by_the_networks_that_have_not_seen_them(
    several: Classifier, spots: pd.DataFrame
) -> None:
    rows = spots[spots["image_id"].isin([FOLDS[0][1], FOLDS[1][1], "val_000"])]
    shares = localise(several, rows).set_index("image_id")
    for image_id, path, classifier in zip(
        rows["image_id"], rows["path"], (several.of_fold(0), several.of_fold(1), several), strict=True
    ):
        alone = localise(classifier, spots[spots["path"] == path].assign(image_id="unknown"))
        np.testing.assert_allclose(
            shares.loc[image_id].to_numpy(float), alone.set_index("image_id").iloc[0].to_numpy(float), atol=1e-6
        )
    images = [np.asarray(Image.open(path).convert("RGB")) for path in rows["path"]]
    options = {"steps": 2, "masks": None}
    apart = measure_faithfulness(several, images, rng=np.random.default_rng(0), folds=[0, 1, None], **options)
    alone = measure_faithfulness(several.of_fold(0), images[:1], rng=np.random.default_rng(0), **options)
    assert apart.classes[0] == alone.classes[0]
    np.testing.assert_allclose(apart.deletion[0], alone.deletion[0], atol=1e-6)
    by_all = measure_faithfulness(several, images[:1], rng=np.random.default_rng(0), **options)
    assert not np.allclose(apart.deletion[0], by_all.deletion[0], atol=1e-4)


def test_the_command_draws_every_region(
    several: Classifier, several_folder: Path, spots: pd.DataFrame, tmp_path: Path
) -> None:
    row, out = spots.iloc[0], tmp_path / "why.png"
    arguments = ["explain", row["path"], "--bundle", str(several_folder), "--out", str(out), "--no-gates"]
    done = CliRunner().invoke(app, [*arguments, "--mask", row["mask_path"]])
    assert done.exit_code == 0, done.output
    assert "inside the lesion" in done.output
    both = Image.open(out)
    picture = explanation_png(explain(several, row["path"]), title="The whole image\nand a second line")
    assert both.height >= 1.9 * Image.open(io.BytesIO(picture)).height
    with pytest.raises(DataError, match="Unknown class"):
        explain(several, row["path"], class_name="wart")
