"""What every test gets: one torch thread, an own cache, tiny pictures, and real data where there are any."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as PillowImage

from pesi.bundle.card import model_card
from pesi.bundle.config import (
    BundleConfig,
    MemberConfig,
    NetworkConfig,
    PreprocessConfig,
    TemperatureConfig,
    save_bundle,
    task_config,
)
from pesi.cli.divide import fold_table
from pesi.cli.train import score_folds
from pesi.datasets.records import record_table
from pesi.decide.calibration import VectorScaling
from pesi.decide.novelty import fit_novelty, novelty_config
from pesi.predict import gate
from pesi.predict.classifier import Classifier
from pesi.predict.fitting import id_list
from pesi.predict.regions import looking_at
from pesi.taxonomy import TASKS
from pesi.train.folder import RunSettings
from pesi.train.folds import run_folds, start_folds
from pesi.train.recipe import load_recipe
from pesi.train.run import run_training, start_run
from pesi.verdict import Verdict

os.environ.setdefault("MPLCONFIGDIR", "/tmp/pesi-matplotlib")
os.environ["PESI_RUNTIME"] = "eager"  # a test of another runtime names it: to build a graph takes seconds
torch.set_num_threads(1)
cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with `data/` and `weights/`, beside the project or named by PESI_SHARED."""
    folder = Path(os.environ.get("PESI_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip("needs the real images and weights of ../shared (or PESI_SHARED), which are absent")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PESI_CACHE", str(tmp_path_factory.getbasetemp() / "pesi-cache"))


@pytest.fixture
def real_gate() -> None:
    """Asked for by tests in which the dermoscopy gate judges as it ships."""


@pytest.fixture(autouse=True)
def _spots_pass(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' tiny pictures are no dermoscopy: without `real_gate` the gate lets everything pass."""
    if "real_gate" not in request.fixturenames:
        open_gate = SimpleNamespace(verdict=lambda features: Verdict("dermoscopy", "ok", 0.0, 1.0, "Let through."))
        monkeypatch.setattr(gate, "shipped_gate", lambda segmenter: open_gate)


@pytest.fixture(scope="session")
def rounds() -> Callable[[int], int]:
    """How often a slow test repeats what it does by the hundred: as often as it asks, or PESI_SLOW_ROUNDS times."""
    most = os.environ.get("PESI_SLOW_ROUNDS")
    return lambda wanted: min(wanted, int(most)) if most else wanted


def write_spots(folder: Path, *, train: int = 24, val: int = 12, size: int = 72, seed: int = 0) -> pd.DataFrame:
    """Pictures of one spot on skin, whose colour tells the class; a record table over them, with masks."""
    rng = np.random.default_rng(seed)
    colours = {"MEL": (40, 30, 60), "SK": (200, 160, 60), "NV": (120, 70, 40)}
    rows = []
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            diagnosis = list(colours)[index % 3]
            picture = np.clip(rng.normal((220, 180, 160), 12, (size, size, 3)), 0, 255).astype(np.uint8)
            centre = tuple(int(v) for v in rng.integers(size // 3, 2 * size // 3, 2))
            radius = int(rng.integers(size // 6, size // 4))
            colour = np.clip(np.add(colours[diagnosis], rng.normal(0, 12, 3)), 0, 255)
            cv2.circle(picture, centre, radius, [float(v) for v in colour], -1)
            mask = cv2.circle(np.zeros((size, size), np.uint8), centre, radius, 255, -1)
            name = f"{split}_{index:03d}"
            PillowImage.fromarray(picture).save(folder / f"{name}.png")
            PillowImage.fromarray(mask).save(folder / f"{name}_mask.png")
            rows.append(
                {
                    "image_id": name,
                    "path": str(folder / f"{name}.png"),
                    "diagnosis": diagnosis,
                    "split": split,
                    "mask_path": str(folder / f"{name}_mask.png"),
                    "source": "spots",
                }
            )
    return record_table(rows)


TINY = (
    "network.name=pesi14",
    "network.alpha=0.1",
    "picture.size=64",
    "picture.source_size=72",
    "batch_size=6",
    "epochs=2",
    "precision=32",
    "optimizer.warmup_epochs=0.5",
)


@pytest.fixture(scope="session")
def spots(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A record table of tiny pictures: 24 to train, 12 to validate."""
    return write_spots(tmp_path_factory.mktemp("spots"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, spots: pd.DataFrame) -> Path:
    """A finished run folder of a tiny Pesi-14 on the spots."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    cache = str(tmp_path_factory.mktemp("cache"))
    settings = RunSettings(data="spots", threads=1, cache_dir=cache)
    start_run(
        load_recipe("pesi50", [*TINY, "epochs=10", "ema=0.5", "optimizer.lr=1e-3"]),
        spots,
        folder,
        settings,
        TASKS["isic2017"],
    )
    run_training(folder, show_progress=False)
    return folder


@pytest.fixture
def classifier(tiny_run: Path) -> Classifier:
    """The tiny run's classifier."""
    return Classifier.load(tiny_run / "bundle", device="cpu")


@pytest.fixture(scope="session")
def folds_spots(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A record table of 54 tiny pictures without parts; the first six are of three patients."""
    spots = write_spots(tmp_path_factory.mktemp("folds"), train=54, val=0, seed=4)
    patients = ["a", "a", "b", "b", "c", "c", *[None] * 48]
    return spots.assign(split=None, patient_id=patients)


@pytest.fixture(scope="session")
def folds_run(tmp_path_factory: pytest.TempPathFactory, folds_spots: pd.DataFrame) -> Path:
    """A finished cross-validation of five folds with one tiny Pesi-14 each."""
    folder = tmp_path_factory.mktemp("runs") / "folds"
    settings = RunSettings(data="spots", threads=1, cache_dir=str(tmp_path_factory.mktemp("cache")), accelerator="cpu")
    table = fold_table(folds_spots, 5, seed=0, near_duplicates=False, progress=False)
    recipe = load_recipe("pesi50", [*TINY, "epochs=1", "optimizer.lr=1e-3", "ema=0", "views=single"])
    start_folds(recipe, folds_spots, table, folder, settings, TASKS["isic2017"])
    run_folds(folder, show_progress=False)
    score_folds(folder)
    return folder


# Of each network: the fold that it has not seen, its region, temperature, and whether it knows what is new.
SEVERAL = ((0, "image", 0.6, True), (1, "image", 1.7, True), (0, "lesion", 0.9, False), (1, "lesion", 1.3, False))
FOLDS = (tuple(f"train_{index:03d}" for index in range(9)), tuple(f"train_{index:03d}" for index in range(9, 24)))


def write_several(folder: Path, head: str = "multiclass", network_name: str = "pesi_lite0") -> Path:
    """A bundle of four small random networks, of two folds and two regions, calibrated all otherwise; its folder."""
    rng = np.random.default_rng(0)
    networks, members, novelty = [], [], []
    for number, (fold, region, temperature, knows) in enumerate(SEVERAL):
        torch.manual_seed(number)
        outputs = 3 if head == "multiclass" else 2
        network = NetworkConfig(name=network_name, num_classes=outputs, options={"alpha": 0.5})
        networks.append(network.create())
        torch.nn.init.normal_(networks[-1].fc.weight, 0, 0.01)
        preprocess = PreprocessConfig(
            source_size=72,
            size=64 if region == "image" else 72,
            geometry="squeeze",
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.3, 0.35),
        )
        preprocess = looking_at(preprocess, (region,))
        vector = VectorScaling(weight=(1.5, 0.5, 1.0)[:outputs], bias=(0.3, 0.0, -0.2)[:outputs], how="made up")
        members.append(
            MemberConfig(
                network=network,
                preprocess=preprocess,
                temperature=TemperatureConfig(value=temperature),
                vector=vector if number == 2 else None,
                fold=fold,
            )
        )
        features = np.abs(rng.normal(size=(40, networks[-1].num_features))).astype(np.float32)
        novelty.append(fit_novelty(features) if knows else None)
    known = next(each for each in novelty if each is not None)
    config = BundleConfig(
        name=f"several-{head}",
        members=tuple(members),
        folds=tuple(id_list(ids) for ids in FOLDS),
        task=task_config(TASKS["isic2017"], head),
        views="flips4",
        temperature=TemperatureConfig(value=1.4),
        novelty=novelty_config(known, {"made up": rng.uniform(1e5, 1e6, 20)}),
    )
    save_bundle(folder, config, networks, card=model_card(config), novelty=novelty, keep="float16")
    return folder


@pytest.fixture(scope="session")
def several_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `write_several`; not to be changed."""
    return write_several(tmp_path_factory.mktemp("several") / "several")


@pytest.fixture(scope="session")
def several(several_folder: Path) -> Classifier:
    """A classifier of four networks, of two folds and two regions; not to be changed."""
    return Classifier.load(several_folder, device="cpu")
