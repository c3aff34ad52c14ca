"""`pesi train --folds` on a user's own table, and every verb that takes the bundle that it ends in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image as PillowImage
from typer.testing import CliRunner

from conftest import TINY, write_spots
from pesi.bundle.config import read_config
from pesi.cli.app import app
from pesi.decide.calibration import calibrated_probabilities
from pesi.errors import DataError, PesiError, RecipeError
from pesi.predict.classifier import Classifier
from pesi.train import folds as folds_module
from pesi.train.folds import open_folds
from pesi.train.recipe import Recipe

SETS = [part for override in (*TINY, "epochs=1", "views=single") for part in ("--set", override)]


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pesi train --folds` ends where the training would begin."""
    monkeypatch.setattr(folds_module, "run_folds", lambda *_, **__: {})


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return write_spots(tmp_path_factory.mktemp("spots"), train=42, val=0).drop(columns="split")


def write(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False)
    return path


@pytest.mark.usefixtures("untrained")
def test_what_is_trained_with_and_what_stays_together(spots, tmp_path):
    """Patients, lesions and copies in one fold; no test image or relative of one, nothing unlabelled or excluded."""
    table = spots.copy()
    table["patient_id"] = table["lesion_id"] = table["split"] = None
    table.loc[[0, 1, 2], "patient_id"] = "a"
    table.loc[[2, 3], "lesion_id"] = "b"  # by way of image 2 of patient a's, too
    table.loc[[4, 5], "patient_id"] = "c"
    table.loc[4, "split"] = "test"  # and so 5 is left out
    table.loc[6, "diagnosis"] = None
    for copy, original in ((8, 7), (10, 9)):  # lighter and smaller
        picture = (
            PillowImage.open(table.loc[original, "path"]).resize((64, 64)).point(lambda value: min(255, value + 9))
        )
        path = tmp_path / f"copy_{copy}.png"
        picture.save(path)
        table.loc[copy, ["path", "mask_path", "diagnosis"]] = [str(path), None, table.loc[original, "diagnosis"]]
    table.loc[9, "split"] = "test"  # and so 10 is left out
    ids = list(table["image_id"])
    (tmp_path / "never.txt").write_text(f"{ids[20]}\n{ids[21]}\nnone of these\n")
    given = ("--data", write(table, tmp_path / "mine.csv"), "--out", tmp_path / "run", *SETS)
    told = run("train", "pesi50", *given, "--folds", 3, "--exclude", tmp_path / "never.txt").stderr
    assert "1 of the 3 ids in never.txt are not among the data's images." in told
    assert "2 training images are left out (never.txt)." in told
    assert "2 images are left out: of the patients or lesions of test images, or nearly their copies." in told
    assert f"pesi train --resume {tmp_path / 'run'}" in told
    kept = pd.read_csv(tmp_path / "run" / "folds.csv")
    left_out = {ids[index] for index in (4, 5, 6, 9, 10, 20, 21)}
    assert set(kept["image_id"]) == set(ids) - left_out
    assert list(pd.read_csv(tmp_path / "run" / "records.csv")["image_id"]) == list(kept["image_id"])
    fold = kept.set_index("image_id")["fold"]
    for together in ((0, 1, 2, 3), (7, 8)):
        assert fold[[ids[index] for index in together]].nunique() == 1
    assert sorted(fold.unique()) == [0, 1, 2]
    assert fold.value_counts().between(9, 14).all()
    assert (kept.groupby("group")["fold"].nunique() == 1).all()
    # Stratified: each fold has its share of each diagnosis.
    diagnosis = table.set_index("image_id")["diagnosis"][kept["image_id"]].to_numpy()
    assert (pd.crosstab(fold.to_numpy(), diagnosis) >= 2).all(axis=None)


@pytest.mark.usefixtures("untrained")
def test_official_images_of_train_and_val_are_all_trained_with(spots, tmp_path):
    table = spots.assign(split=[*["train"] * 24, *["val"] * 12, *["test"] * 6])
    given = ("--data", write(table, tmp_path / "mine.csv"), "--out", tmp_path / "run", "--no-near-duplicates", *SETS)
    run("train", "pesi50", *given, "--folds", 2)
    kept = pd.read_csv(tmp_path / "run" / "folds.csv")
    assert list(kept["image_id"]) == list(table["image_id"][:36])
    assert list(open_folds(tmp_path / "run").records["image_id"]) == list(kept["image_id"])


@pytest.mark.usefixtures("untrained")
def test_what_cannot_be_divided_is_refused_before_anything_is_made(spots, tmp_path):
    def refused(table: pd.DataFrame, *options: object) -> tuple[object, ...]:
        data = write(table, tmp_path / "mine.csv")
        given = ("--data", data, "--out", tmp_path / "run", "--no-near-duplicates", *SETS)
        return ("train", "pesi50", *given, *options)

    patients = spots.assign(patient_id=[f"p{index % 4}" for index in range(len(spots))])
    with pytest.raises(DataError, match="4 patients or lesions with a diagnosis cannot be divided into 5 folds"):
        run(*refused(patients, "--folds", 5))
    with pytest.raises(DataError, match="No division into 15 folds"):  # 14 images of each diagnosis
        run(*refused(spots, "--folds", 15))
    with pytest.raises(RecipeError, match="of one process"):
        run(*refused(spots, "--folds", 2, "--devices", 2))
    with pytest.raises(DataError, match="0 of 42 images have a diagnosis"):
        run(*refused(spots.assign(diagnosis=None), "--folds", 2))
    told = run(*refused(spots, "--members", 2), status=2)
    assert "--members goes with --folds" in " ".join(told.stderr.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("untrained")
def test_a_class_that_one_fold_alone_has_is_told(spots, tmp_path, recwarn):
    table = spots.assign(diagnosis=[*["rare"] * 2, *spots["diagnosis"][2:]], patient_id=["r", "r", *[None] * 40])
    given = ("--data", write(table, tmp_path / "mine.csv"), "--out", tmp_path / "run", "--no-near-duplicates", *SETS)
    told = run("train", "pesi50", *given, "--set", "task=classes", "--folds", 3).stderr
    assert "All images of rare are in one fold" in told
    assert not [warning for warning in recwarn if "populated" in str(warning.message)]


def test_a_segmenter_has_no_folds(spots, tmp_path):
    data = write(spots, tmp_path / "mine.csv")
    for option in ("--folds", "--members"):
        told = run("segmenter", "train", "segmenter-lite0", "--data", data, option, 2, status=2)
        assert f"No such option: {option}" in " ".join(told.stderr.split())
    assert "--folds" not in run("segmenter", "train", "--help").stdout


@pytest.mark.parametrize("option", [("--folds", "5"), ("--members", "2"), ("--exclude", "x"), ("--set", "epochs=3")])
def test_resume_takes_no_other_option(folds_run, option):
    result = run("train", "--resume", folds_run, *option, status=2)
    assert f"{option[0]} does not go with --resume" in " ".join(result.stderr.split())


def test_a_finished_run_is_scored_again_and_not_begun_anew(folds_run, folds_spots, tmp_path):
    shutil.copytree(folds_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    told = run("train", "--resume", tmp_path / "run")
    assert "is finished already" in told.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == json.loads(
        (folds_run / "metrics.json").read_text()
    )
    with pytest.raises(PesiError, match="holds a run already"):
        run("train", "pesi50", "--data", write(folds_spots, tmp_path / "a.csv"), "--out", folds_run, "--folds", 5)


def test_help_and_recipes_tell_of_folds(tmp_path, monkeypatch):
    recipe = tmp_path / "two.toml"
    recipe.write_text('name = "two"\ndescription = "Two."\n[[members]]\nname = "a"\n[[members]]\nname = "b"\n')
    monkeypatch.setattr(Recipe, "shipped_names", lambda: [str(recipe)])
    assert "Two. With --folds a fold has: a, b.\n" in run("recipes").stdout
    told = " ".join(run("train", "--help").stdout.split())
    assert "--folds" in told
    assert "pesi train isic2017-lite0 --data photos/ --folds 5 --out runs/mine" in told


HELD_OUT = (
    "54 of the 54 images are of the folds that made pesi50: each is answered by the networks that have not seen it."
)


@pytest.fixture(scope="module")
def folds_csv(folds_spots: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(folds_spots, tmp_path_factory.mktemp("own") / "own.csv")


def test_evaluated_on_its_own_images_it_gives_the_out_of_fold_answers(folds_run, folds_csv, tmp_path):
    given = ("--data", folds_csv, "--split", "all", "--out", tmp_path, "--no-attention", "--replicates", 100)
    told = run("evaluate", "--bundle", folds_run / "bundle", *given)
    assert HELD_OUT in told.stderr
    found = pd.read_csv(tmp_path / "predictions.csv").set_index("image_id")
    crossed = pd.read_csv(folds_run / "predictions" / "out-of-fold.csv").set_index("image_id").loc[found.index]
    classifier = Classifier.load(folds_run / "bundle", device="cpu")
    config = classifier.config
    for image_id in found.index[::9]:  # the same logits; the cross-fitted have the temperature of the other folds
        squares = classifier.squares(str(folds_csv_path(folds_csv, image_id)))
        logits = classifier.outputs([squares], folds=classifier.folds_of([image_id])).logits
        own = calibrated_probabilities(logits.astype(float), config.task.head, config.temperature, config.vector)[0]
        assert found.loc[image_id].to_numpy(float) == pytest.approx(own, abs=1e-6)
    names = list(found.columns)
    ratio = np.log(found[names].to_numpy() / found[names].to_numpy()[:, [0]])[:, 1:]
    other = np.log(crossed[names].to_numpy() / crossed[names].to_numpy()[:, [0]])[:, 1:]
    scale = (ratio / other).round(4)  # log ratios of one view scale by the two temperatures' ratio, one a fold
    for _, part in pd.DataFrame(scale).groupby(crossed["fold"].to_numpy()):
        assert np.ptp(part.to_numpy()) < 2e-3


def folds_csv_path(table: Path, image_id: str) -> str:
    return str(pd.read_csv(table, index_col="image_id").loc[image_id, "path"])


def test_it_may_be_calibrated_on_its_own_images(folds_run, folds_csv, tmp_path):
    told = run("calibrate", folds_run / "bundle", "--data", folds_csv, "--split", "all", "--out", tmp_path / "again")
    assert HELD_OUT in told.stderr
    before, after = read_config(folds_run / "bundle"), read_config(tmp_path / "again")
    assert after.temperature.value == pytest.approx(before.temperature.value, rel=1e-4)
    assert [level.at_least for level in after.triage] == pytest.approx([t.at_least for t in before.triage], abs=1e-6)
    assert after.members == before.members


def test_predict_explain_and_similar_take_it(folds_run, folds_csv, tmp_path):
    bundle, image = folds_run / "bundle", folds_csv_path(folds_csv, "train_007")
    told = run("predict", image, "--bundle", bundle, "--no-gates", "--out", tmp_path / "one.csv").stdout
    row = pd.read_csv(tmp_path / "one.csv").iloc[0]
    expected = Classifier.load(bundle, device="cpu").predict(image, gates=False).probabilities
    assert row[list(expected)].to_numpy(float) == pytest.approx(list(expected.values()), abs=1e-5), told
    run("explain", image, "--bundle", bundle, "--out", tmp_path / "map.png")
    assert PillowImage.open(tmp_path / "map.png").size > (0, 0)
    run("similar", "build", folds_csv, "--split", "all", "--bundle", bundle, "--out", tmp_path / "references")
    found = run("similar", "find", image, "--reference", tmp_path / "references", "--bundle", bundle).stdout
    assert len(found.splitlines()) >= 6
    assert "train_" in found
