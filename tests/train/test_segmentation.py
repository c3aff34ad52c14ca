"""Training the segmenter: losses against scikit-learn, groups and schedule, and whole runs that learn and resume."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score
from torch.nn import functional

from pesi.bundle.segmenter import load_segmenter
from pesi.datasets.readers import read_dataset
from pesi.errors import DataError, PesiError, RecipeError
from pesi.nn.pretrained import CheckpointError
from pesi.nn.segmenter import create_segmenter
from pesi.synthetic.dataset import write_synthetic
from pesi.train.dataset import ValidationPictures
from pesi.train.folder import RunSettings, weights_file
from pesi.train.run import open_run, run_training, start_run
from pesi.train.segmentation_module import SegmentationLoss, SegmentationModule, soft_overlap
from pesi.train.segmenter_recipe import SegmenterRecipe

TINY = (
    "pretrained=''",
    "network.width=4",
    "picture.size=64",
    "picture.source_size=72",
    "batch_size=4",
    "ema=0.5",
    "optimizer.lr=3e-3",
    "optimizer.encoder_lr_scale=1.0",
)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> pd.DataFrame:
    return read_dataset(
        write_synthetic(tmp_path_factory.mktemp("data") / "syn", train=32, val=10, test=2, size=72, workers=1)
    )


def start(folder: Path, records: pd.DataFrame, *overrides: str) -> Path:
    recipe = SegmenterRecipe.load("segmenter-lite0", [*TINY, *overrides])
    start_run(recipe, records, folder, RunSettings(data="syn", threads=1))
    return folder


@pytest.mark.parametrize(("kind", "metric"), [("jaccard", jaccard_score), ("dice", f1_score)])
def test_the_soft_overlap_of_hard_masks_is_the_metric(kind, metric):
    rng = np.random.default_rng(0)
    truth, predicted = rng.random((2, 3, 80, 80)) < 0.4
    ours = soft_overlap(torch.tensor(predicted).float(), torch.tensor(truth).float(), kind)
    expected = [metric(t.ravel(), p.ravel()) for t, p in zip(truth, predicted, strict=True)]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-3)  # one pixel is added to each part
    empty = torch.zeros(1, 8, 8)
    assert soft_overlap(empty, empty, kind).item() == 1


def test_the_loss_is_its_parts():
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 1, 16, 16), torch.rand(2, 16, 16) < 0.5
    pixels = functional.binary_cross_entropy_with_logits(logits[:, 0], masks.float())
    overlap = soft_overlap(logits[:, 0].sigmoid(), masks.float(), "dice").mean()
    loss = SegmentationLoss(overlap="dice", overlap_weight=0.7, pixel_weight=2.0)
    torch.testing.assert_close(loss(logits, masks), 2 * pixels + 0.7 * (1 - overlap))


def test_groups_and_schedule():
    recipe = SegmenterRecipe.load("segmenter-lite0", ["epochs=12", "optimizer.warmup_epochs=2"])
    network = create_segmenter("pesi_lite0", attention="spatial", width=4)
    module = SegmentationModule(network, recipe, steps_per_epoch=10)
    groups = {group["name"]: group for group in module.configure_optimizers()["optimizer"].param_groups}
    assert set(groups) == {"encoder", "encoder vectors", "decoder", "decoder vectors"}
    assert groups["encoder"]["initial_lr"] == pytest.approx(0.3 * groups["decoder"]["initial_lr"])
    assert groups["encoder vectors"]["weight_decay"] == groups["decoder vectors"]["weight_decay"] == 0
    assert groups["decoder"]["weight_decay"] == recipe.optimizer.weight_decay
    assert sum(len(group["params"]) for group in groups.values()) == len(list(network.parameters()))
    assert module.lr_factor(0) == pytest.approx(1 / 21)
    assert module.lr_factor(20) == pytest.approx(1)
    assert module.lr_factor(70) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert module.lr_factor(120) == pytest.approx(0, abs=1e-12)
    rates = [module.lr_factor(step) for step in range(120)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_the_shipped_recipe_and_its_mistakes():
    recipe = SegmenterRecipe.load("segmenter-lite0")
    assert recipe.picture.mean[0] * 255 == pytest.approx(127)
    assert recipe.picture.std[0] * 255 == pytest.approx(128)
    assert (recipe.network.name, recipe.epochs, recipe.batch_size, recipe.precision) == ("pesi_lite0", 12, 16, "32")
    assert SegmenterRecipe.load("segmenter-lite0", ["precision=auto"]).resolved().precision in ("32", "bf16")
    with pytest.raises(RecipeError, match=r"unknown key 'network\.widht'") as caught:
        SegmenterRecipe.load("segmenter-lite0", ["network.widht=3"])
    assert "Did you mean 'width'" in caught.value.cure
    with pytest.raises(RecipeError, match="unknown network 'pesi15'"):
        SegmenterRecipe.load("segmenter-lite0", ["network.name=pesi15"])
    with pytest.raises(RecipeError, match="Unknown recipe 'segmenter'") as caught:
        SegmenterRecipe.load("segmenter")
    assert "segmenter-lite0" in caught.value.cure


def test_a_recipe_survives_its_file(tmp_path):
    recipe = SegmenterRecipe.load("segmenter-lite0", ["augmentation.hue=3"])
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    assert SegmenterRecipe.load(tmp_path / "recipe.toml") == recipe
    assert SegmenterRecipe(name="x").network == recipe.network


def fingerprint(folder: Path) -> dict[str, str]:
    names = ("bundle/model.safetensors", "log.csv")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_a_run_learns_and_keeps_its_evidence(tmp_path, records):
    folder = start(tmp_path / "run", records, "epochs=7")
    said: list[str] = []
    result = run_training(folder, say=said.append, show_progress=False)
    rows = list(csv.DictReader((folder / "log.csv").open()))
    jaccards = [float(row["val/jaccard"]) for row in rows]
    assert len(rows) == 7
    best = result["scores"]["val/jaccard"]
    assert best == pytest.approx(max(jaccards)) == jaccards[result["best_epoch"] - 1]
    truth = _val(folder)
    trivial = max(_constant(truth, whole) for whole in (False, True))
    assert max(jaccards) > trivial + 0.15  # better than to mark everything, or nothing
    splits = json.loads((folder / "splits.json").read_text())
    assert {name: part["count"] for name, part in splits.items() if part["count"]} == {"train": 32, "val": 10}
    config, network = load_segmenter(folder / "bundle")
    assert config.provenance["best_epoch"] == result["best_epoch"]
    assert config.provenance["recipe"]["network"]["width"] == network.width == 4
    # The bundle's network gives the logged Jaccard, but for the rounding to float16.
    assert _jaccard(network, truth, config.preprocess.mean, config.preprocess.std) == pytest.approx(best, abs=0.01)
    before = fingerprint(folder)
    run_training(folder, say=said.append, show_progress=False)
    assert "finished already" in said[-1]
    assert fingerprint(folder) == before
    with pytest.raises(PesiError, match="holds a run already"):
        start(folder, records)


def _val(folder: Path) -> ValidationPictures:
    pictures = open_run(folder).pictures("val", False)
    return ValidationPictures([pictures.squares["image"]], pictures.classes, 64, pictures.masks)


def _constant(truth: ValidationPictures, whole: bool) -> float:
    return float(np.mean([truth[i][3].float().mean() if whole else 0.0 for i in range(len(truth))]))


def _jaccard(network, truth: ValidationPictures, mean, std) -> float:
    scores = []
    for index in range(len(truth)):
        picture, _, _, mask = truth[index]
        x = (picture.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        with torch.inference_mode():
            predicted = network(x[None])[0, 0] > 0
        scores.append(jaccard_score(mask.ravel(), predicted.ravel()))
    return float(np.mean(scores))


class _Cut(Callback):
    """Ends the process' work in the middle of the second epoch, as a kill would."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == 1 and batch_idx == 2:
            raise RuntimeError("cut")


@pytest.mark.slow
def test_a_cut_run_resumes_to_the_same_end(tmp_path, records):
    few = records[records["split"].isin(["train", "val"])].groupby("split").head(16)
    for name in ("whole", "cut"):
        start(tmp_path / name, few, "epochs=3")
    run_training(tmp_path / "whole", show_progress=False)
    with pytest.raises(RuntimeError, match="cut"):
        run_training(tmp_path / "cut", show_progress=False, callbacks=(_Cut(),))
    assert not (tmp_path / "cut" / "result.json").exists()
    said: list[str] = []
    run_training(tmp_path / "cut", say=said.append, show_progress=False)
    assert any("Going on from" in line for line in said)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


class _Stop(Callback):
    """Raises what a signal does, as Lightning's loops have it."""

    def __init__(self, signalled: type[BaseException]) -> None:
        self.signalled = signalled

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        raise self.signalled


def test_a_stopped_run_tells_how_to_go_on(tmp_path, records):
    few = records[records["split"].isin(["train", "val"])].groupby("split").head(4)
    start(tmp_path / "run", few)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "run", say=said.append, show_progress=False, callbacks=(_Stop(KeyboardInterrupt),))
    assert said[-1] == f"Stopped; go on with: pesi train --resume {tmp_path / 'run'}"
    with pytest.raises(SystemExit) as caught:
        run_training(tmp_path / "run", say=said.append, show_progress=False, callbacks=(_Stop(SIGTERMException),))
    assert caught.value.code == 143
    assert said[-1].startswith("Stopped; go on with")


def test_divergence_is_told(tmp_path, records):
    few = records[records["split"].isin(["train", "val"])].groupby("split").head(8)
    start(tmp_path / "run", few, "optimizer.lr=1e30", "optimizer.warmup_epochs=0", "optimizer.clip_norm=0", "ema=0")
    with pytest.raises(PesiError, match="The training diverged: after epoch 1") as caught:
        run_training(tmp_path / "run", show_progress=False)
    assert "optimizer.lr" in caught.value.cure


def test_a_validation_mask_of_another_size_is_refused_before_training(tmp_path, records):
    row = records.index[records["split"] == "val"][2]
    with Image.open(records.loc[row, "mask_path"]) as mask:
        mask.resize((36, 36)).save(tmp_path / "small.png")
    with pytest.raises(DataError, match=r"small\.png is 36 x 36 pixels, its image 72 x 72"):
        start(
            tmp_path / "run",
            records.assign(mask_path=records["mask_path"].where(records.index != row, str(tmp_path / "small.png"))),
        )
    assert not (tmp_path / "run").exists()


def test_pretrained_weights_go_into_the_encoder(tmp_path, records, capsys):
    from safetensors.torch import save_file

    from pesi.nn.models import create_model

    torch.manual_seed(5)
    weights = create_model("pesi_lite0", num_classes=7, attention="none")
    save_file(weights.state_dict(), tmp_path / "w.safetensors")
    recipe = SegmenterRecipe.load("segmenter-lite0", [*TINY, "epochs=1", "optimizer.lr=1e-12", "ema=0"])
    settings = RunSettings(data="syn", threads=1, pretrained=str(tmp_path / "w.safetensors"))
    start_run(recipe, records, tmp_path / "run", settings)
    run_training(tmp_path / "run", show_progress=True)
    assert "Jaccard 0." in capsys.readouterr().err
    config, network = load_segmenter(tmp_path / "run" / "bundle")
    torch.testing.assert_close(network.encoder.conv1.weight, weights.conv1.weight, rtol=1e-3, atol=1e-4)
    started = config.provenance["pretrained"]
    assert started["sha256"] == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert started["file"] == "w.safetensors"


def test_mistakes_before_training(tmp_path, records):
    with pytest.raises(DataError, match="no val images with a lesion mask"):
        start(tmp_path / "a", records[records["split"] == "train"])
    with pytest.raises(DataError, match="no train images with a lesion mask"):
        start(tmp_path / "a", records.assign(mask_path=None))
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "run.json").write_text('{"settings": {"data": "syn"}}')
    with pytest.raises(PesiError, match="holds a run already") as caught:
        start(tmp_path / "c", records)
    assert "pesi train --resume" in caught.value.cure
    with pytest.raises(PesiError, match="not a run folder"):
        open_run(tmp_path)
    with pytest.raises(RecipeError, match="do not fill one batch"):
        start(tmp_path / "b", records, "batch_size=64")
    assert not (tmp_path / "b").exists()
    recipe = SegmenterRecipe.load("segmenter-lite0", ["pretrained=gone.pth"])
    with pytest.raises(CheckpointError, match=r"no weights file gone\.pth"):
        weights_file(recipe, RunSettings(data="syn"))
    assert weights_file(recipe, RunSettings(data="syn", pretrained="")) is None
