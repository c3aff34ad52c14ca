"""Pictures varied a batch at a time, on the CPU here: against the loader's augmentation, and in a run that is cut."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from conftest import TINY
from pesi.images.transforms import Augmentation
from pesi.taxonomy import TASKS
from pesi.train.dataset import EpochSampler, TrainingPictures
from pesi.train.device_augmentation import Unvaried, varied
from pesi.train.folder import RunSettings
from pesi.train.recipe import load_recipe
from pesi.train.run import run_training, start_run

PLAIN = {"flip": False, "rotation": 0, "zoom": 0, "crops": (1.0,)}
WAYS = {
    "nothing": PLAIN,
    "flips": PLAIN | {"flip": True},
    "crops": PLAIN | {"crops": (0.2, 0.4, 0.6, 0.8)},
    "rotation": PLAIN | {"rotation": 180},
    "stretch": PLAIN | {"stretch": 0.4, "zoom": 0.3},
    "shift": PLAIN | {"shift": 0.5},
    "colour": PLAIN | {"brightness": 0.2, "contrast": 0.4, "saturation": 0.5, "hue": 60},
    "erase": PLAIN | {"erase": 1.0, "erase_side": 0.5},
    "all": {
        "crops": (0.2, 1.5),
        "crops_continuous": True,
        "rotation": 180,
        "stretch": 0.3,
        "shift": 0.3,
        "brightness": 0.1,
        "contrast": 0.2,
        "saturation": 0.3,
        "hue": 20,
        "erase": 0.5,
        "artefacts": 0.2,
        "camera": 0.2,
    },
}


def squares_and_masks(side: int, count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and masks as smooth as photographs."""
    rng = np.random.default_rng(side)
    noise = rng.random((count, side, side, 4), dtype=np.float32)
    smooth = np.stack([cv2.GaussianBlur(each, (0, 0), side / 24) for each in noise])
    low, high = smooth.min((1, 2), keepdims=True), smooth.max((1, 2), keepdims=True)
    pixels = np.round(255 * (smooth - low) / (high - low)).astype(np.uint8)
    return pixels[..., :3].copy(), pixels[..., 3].copy()


def both(
    augmentation: Augmentation, side: int, size: int, masked: bool
) -> tuple[list[tuple[torch.Tensor, ...]], list[tuple[torch.Tensor, ...]]]:
    """The same epochs' batches, by the loader and by `varied`."""
    squares, masks = squares_and_masks(side)
    classes = np.arange(len(squares)) % 3
    sampler, batches = EpochSampler(classes, "shuffle", seed=5), {}
    for on_device in (False, True):
        pictures = TrainingPictures(
            [squares, 255 - squares], classes, augmentation, size, masks if masked else None, on_device=on_device
        )
        batches[on_device] = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            batches[on_device] += list(DataLoader(pictures, 8, sampler=sampler))
    return batches[False], [varied(batch, size) for batch in batches[True]]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("side", "size"), [(96, 64), (64, 64), (64, 96)])
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_is_varied_as_the_loader_varies_its_pictures(way, side, size, masked):
    for expected, given in zip(*both(Augmentation(**WAYS[way]), side, size, masked), strict=True):
        assert [(part.dtype, part.shape) for part in given] == [(part.dtype, part.shape) for part in expected]
        assert torch.equal(given[1], expected[1])
        difference = (given[0].int() - expected[0].int()).abs().float()
        # Ties are rounded otherwise; OpenCV before 5 takes 1/32 of a pixel; a strong colour matrix multiplies both.
        assert difference.mean() < 0.2
        assert difference.max() <= 6
        assert (difference > 1).float().mean() < 0.02
        if masked:
            assert (given[2] != expected[2]).float().mean() < 0.005


@pytest.mark.parametrize("way", ["artefacts", "camera"])
@pytest.mark.parametrize(("side", "size"), [(96, 64), (64, 96)])
def test_what_only_the_cpu_can_do_is_the_same_bit_for_bit(way, side, size):
    augmentation = Augmentation(**(WAYS["all"] | {"artefacts": 0, "camera": 0} | {way: 1.0}))
    for expected, given in zip(*both(augmentation, side, size, True), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))


def test_a_picture_is_mirrored_at_its_own_border_and_not_at_the_canvas():
    ramp = torch.arange(4, dtype=torch.uint8).repeat(4, 1)
    canvas = torch.full((2, 7, 7, 3), 200, dtype=torch.uint8)
    canvas[0, :4, :4] = ramp[..., None]
    canvas[1] = torch.arange(7, dtype=torch.uint8)[None, :, None]
    warp = torch.tensor([[1.0, 0, -2], [0, 1, 0]]).repeat(2, 1, 1)
    same = torch.eye(3, 4).repeat(2, 1, 1)
    batch = Unvaried(canvas, torch.zeros(2), torch.tensor([4, 7]), warp, same, torch.zeros(2, 4))
    pictures = varied(batch, 9)[0]
    assert pictures[0, 1, 5].tolist() == [2, 1, 0, 1, 2, 3, 2, 1, 0]
    assert pictures[1, 1, 5].tolist() == [2, 1, 0, 1, 2, 3, 4, 5, 6]


class _Cut(Callback):
    """Ends the process' work in the second epoch, as a kill would."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("cut")


@pytest.mark.slow
def test_a_run_that_varies_on_the_device_resumes_to_the_same_end(tmp_path, spots):
    changed = ("epochs=3", "augmentation.hue=10", "augmentation.erase=0.5", "augmentation.camera=0.3")
    recipe = load_recipe("pesi50", [*TINY, *changed])
    for name in ("whole", "cut", "loader"):
        settings = RunSettings(data="spots", threads=1, device_augmentation=name != "loader")
        start_run(recipe, spots, tmp_path / name, settings, TASKS["isic2017"])
    assert run_training(tmp_path / "whole", show_progress=False)["augmented_by"] == "cpu"
    assert run_training(tmp_path / "loader", show_progress=False)["augmented_by"] == "loader"
    with pytest.raises(RuntimeError, match="cut"):
        run_training(tmp_path / "cut", show_progress=False, callbacks=(_Cut(),))
    run_training(tmp_path / "cut", show_progress=False)
    names = ("bundle/model.safetensors", "predictions/val.csv", "log.csv")
    for name in names:
        digests = [hashlib.sha256((tmp_path / run / name).read_bytes()).hexdigest() for run in ("whole", "cut")]
        assert digests[0] == digests[1], name
    losses = [_losses(tmp_path / run) for run in ("whole", "loader")]
    np.testing.assert_allclose(*losses, rtol=0.1)
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["settings"]["device_augmentation"] is True


def _losses(folder: Path) -> np.ndarray:
    return np.genfromtxt(folder / "log.csv", delimiter=",", names=True)["trainloss"]
