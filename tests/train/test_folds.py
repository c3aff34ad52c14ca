"""Cross-validations: one bundle of all networks, resumed as one; what is refused before anything is trained."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from conftest import TINY, write_spots
from pesi.bundle.config import read_config
from pesi.cli.app import app
from pesi.cli.train import score_folds
from pesi.errors import DataError, PesiError, RecipeError, StorageError
from pesi.evaluate.scoring import predicted_table
from pesi.predict.classifier import Classifier
from pesi.synthetic import write_synthetic
from pesi.taxonomy import TASKS
from pesi.train import folds as folds_module
from pesi.train.callbacks import PartOf, RunProgress
from pesi.train.classification_module import LesionModule
from pesi.train.folder import RunSettings
from pesi.train.folds import open_folds, run_folds, start_folds
from pesi.train.recipe import Recipe, load_recipe

NAMES = ("melanoma", "seborrheic_keratosis", "nevus")


def alone(folds_run: Path) -> list[Classifier]:
    """The five networks, each opened from its own run folder."""
    return [Classifier.load(folds_run / f"fold{fold}-network" / "bundle", device="cpu") for fold in range(5)]


def calibrated(networks: list[Classifier], temperature: float, path: str) -> np.ndarray:
    """The mean of networks' probabilities of an image: each by its own temperature times the common one."""
    each = []
    for network in networks:
        logits = network.logits([network.squares(path)])[0, 0].astype(np.float64)
        each.append(softmax(logits / network.config.temperature.value / temperature))
    return np.mean(each, axis=0)


def test_five_networks_predict_the_mean_of_five(folds_run, tmp_path):
    whole = Classifier.load(folds_run / "bundle", device="cpu")
    networks = alone(folds_run)
    assert len(whole.members) == 5
    assert len({member.weights_sha256 for member in whole.config.members}) == 5
    others = write_spots(tmp_path, train=0, val=6, seed=9)
    for path in others["path"]:
        found = whole.predict(path)
        expected = calibrated(networks, whole.config.temperature.value, path)
        assert list(found.probabilities.values()) == pytest.approx(expected, abs=1e-6)


def test_images_of_the_folds_are_answered_by_the_networks_that_have_not_seen_them(folds_run, folds_spots):
    whole, networks = Classifier.load(folds_run / "bundle", device="cpu"), alone(folds_run)
    fold = pd.read_csv(folds_run / "folds.csv", index_col="image_id")["fold"]
    table = predicted_table(whole, folds_spots).set_index("image_id")
    for image_id, path in zip(folds_spots["image_id"][::6], folds_spots["path"][::6], strict=True):
        expected = calibrated([networks[fold[image_id]]], whole.config.temperature.value, path)
        assert table.loc[image_id].to_numpy(float) == pytest.approx(expected, abs=1e-6)
        trained = json.loads((folds_run / f"fold{fold[image_id]}-network" / "splits.json").read_text())["train"]["ids"]
        assert image_id not in trained
    # Cross-fitted they have the temperature that the other folds set: within a fold the order is the same.
    crossed = pd.read_csv(folds_run / "predictions" / "out-of-fold.csv").set_index("image_id")
    assert list(crossed["fold"]) == list(fold.loc[crossed.index])
    for name in NAMES:
        for _, part in crossed.groupby("fold"):
            logit = {kind: np.log(values.loc[part.index, name]) for kind, values in (("a", table), ("b", crossed))}
            assert np.corrcoef(logit["a"], logit["b"])[0, 1] > 0.9


def test_the_folder_holds_what_its_first_line_says(folds_run, folds_spots):
    assert {path.name for path in folds_run.iterdir()} == {
        *("recipe.toml", "run.json", "records.csv", "folds.csv", "predictions", "bundle", "result.json"),
        *("metrics.json", "report.html"),
        *(f"fold{fold}-network" for fold in range(5)),
    }
    assert not list(folds_run.rglob("*.ckpt"))
    assert json.loads((folds_run / "result.json").read_text())["networks"] == 5
    run = open_folds(folds_run)
    assert list(run.records["image_id"]) == list(folds_spots["image_id"])
    assert run.records["split"].isna().all()
    assert run.folds["fold"].value_counts().between(9, 13).all()
    patients = run.records["patient_id"]
    assert (run.folds["fold"].groupby(patients).nunique() == 1).all()
    assert run.folds["group"].nunique() == 51
    assert run.recipe.select == "last"
    config = read_config(folds_run / "bundle")
    assert [fold.count for fold in config.folds] == list(run.folds["fold"].value_counts().sort_index())
    assert sorted(member.fold for member in config.members) == [0, 1, 2, 3, 4]
    assert config.fitted_on is not None
    assert config.fitted_on.count == 54


def test_every_figure_of_the_card_is_in_the_metrics(folds_run):
    metrics = json.loads((folds_run / "metrics.json").read_text())
    crossed = pd.read_csv(folds_run / "predictions" / "out-of-fold.csv")
    for name, code in (("melanoma", "MEL"), ("seborrheic_keratosis", "SK")):
        assert metrics["tasks"][name]["auc"] == pytest.approx(
            roc_auc_score(crossed["diagnosis"] == code, crossed[name])
        )
    expected = [(metrics["mean_auc"], *metrics["mean_auc_ci"])]
    expected += [(task["auc"], *task["auc_ci"]) for task in metrics["tasks"].values()]
    found = metrics["cross_fitted"]
    parts = [part for sets in found["coverage"].values() for part in sets["classes"].values()]
    for level in found["triage"]:
        parts += [level["malignant_below"], level["benign_at_or_above"]]
    parts += [part for part in [found["above_novelty_threshold"]] if part]
    expected += [(part["share"], *part["ci"]) for part in parts]
    card = (folds_run / "bundle" / "README.md").read_text()
    measured = card.partition("## Measured")[2].partition("##")[0]
    assert re.findall(r"(\S+) \(95 % interval (\S+) to (\S+)\)", measured) == [
        tuple(f"{value:.3f}" for value in each) for each in expected
    ]
    assert "each image answered by the networks that have not seen it" in measured
    assert "on the safe side" in card


def copy_of(folds_run: Path, folder: Path) -> Path:
    """The run as it is when all trainings are done and nothing is decided yet."""
    shutil.copytree(folds_run, folder)
    for name in ("bundle", "predictions"):
        shutil.rmtree(folder / name)
    for name in ("result.json", "metrics.json", "report.html"):
        (folder / name).unlink()
    return folder


def stamps(folder: Path) -> dict[str, int]:
    """When each file of the finished trainings was written."""
    done = [path.parent for path in folder.glob("fold*/result.json")]
    return {str(path): path.stat().st_mtime_ns for own in done for path in own.rglob("*") if path.is_file()}


def weights(folder: Path) -> dict[str, str]:
    return {member.weights: member.weights_sha256 for member in read_config(folder / "bundle").members}


def same(a: Path, b: Path) -> None:
    """Two cross-validations came to the same."""
    assert weights(a) == weights(b)
    for name in ("predictions/out-of-fold.csv", "folds.csv", "records.csv", "recipe.toml", "metrics.json"):
        first, second = ((folder / name).read_bytes() for folder in (a, b))
        if name == "metrics.json":
            bundles = [read_config(folder / "bundle").bundle_id.encode() for folder in (a, b)]
            assert bundles[0] == bundles[1]
        assert first == second, name
    one, two = (json.loads((folder / "bundle" / "config.json").read_text()) for folder in (a, b))
    for config in (one, two):
        config["provenance"].pop("environment")
        config.pop("made", None)
    assert one == two
    known = [load_file(folder / "bundle" / "novelty.safetensors") for folder in (a, b)]
    assert known[0].keys() == known[1].keys()
    assert all((known[0][name] == known[1][name]).all() for name in known[0])


def test_a_full_disk_at_the_end_costs_no_training(folds_run, tmp_path, monkeypatch):
    folder = copy_of(folds_run, tmp_path / "run")
    before = stamps(folder)
    assert before
    with monkeypatch.context() as patched:

        def full(*_: object, **__: object) -> None:
            raise StorageError("Could not write: no space left on device.", "Make space.")

        patched.setattr(folds_module, "save_bundle", full)
        with pytest.raises(StorageError, match="no space left"):
            run_folds(folder, show_progress=False)
    assert not (folder / "result.json").exists()
    run_folds(folder, show_progress=False)
    score_folds(folder)
    assert stamps(folder) == before
    same(folder, folds_run)
    said: list[str] = []
    run_folds(folder, say=said.append, show_progress=False)
    assert said == [f"{folder} is finished already."]


def test_the_bundle_tells_nothing_of_ids_or_the_machine(folds_run, folds_spots):
    text = (folds_run / "bundle" / "config.json").read_text()
    assert "train_000" not in text
    assert str(Path(folds_spots["path"].iloc[0]).parent) not in text


@pytest.fixture(scope="module")
def spots_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spots as a user's own CSV, without parts."""
    folder = tmp_path_factory.mktemp("mine")
    write_spots(folder).drop(columns="split").to_csv(folder / "spots.csv", index=False)
    return folder / "spots.csv"


SETS = [part for override in (*TINY, "epochs=1", "views=single") for part in ("--set", override)]


def train(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in ("train", *arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_what_diverges_in_a_later_fold_leaves_the_finished_ones(spots_csv, tmp_path, monkeypatch):
    step, count = LesionModule.training_step, 0

    def diverge(self, batch, index):
        nonlocal count
        count += 1
        if count > 5:  # past the first training, before the first epoch of the second is done
            raise PesiError("The training diverged.")
        return step(self, batch, index)

    start = ("pesi50", "--data", spots_csv, "--folds", 2, "--threads", 1, "--no-near-duplicates", *SETS)
    with monkeypatch.context() as patched:
        patched.setattr(LesionModule, "training_step", diverge)
        with pytest.raises(PesiError, match="diverged"):
            train(*start, "--out", tmp_path / "cut")
        count = 100
        with pytest.raises(PesiError, match="diverged"):
            train(*start, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()  # nothing was done: the cured command can be run as it is
    before = stamps(tmp_path / "cut")
    assert {Path(name).relative_to(tmp_path / "cut").parts[0] for name in before} == {"fold0-network"}
    told = train("--resume", tmp_path / "cut")
    assert f"use it: pesi predict mole.jpg --bundle {tmp_path / 'cut' / 'bundle'}" in told
    assert "36 images of spots, each image answered by the networks that have not seen it" in told
    assert before.items() <= stamps(tmp_path / "cut").items()


def records_and_folds(spots: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = spots[["image_id"]].assign(fold=np.arange(len(spots)) // 3 % 2, group=spots["image_id"])
    return spots, table


TWO = {"members": [{"name": "whole"}, {"name": "lesion", "set": ['picture.regions=["lesion"]']}]}


def two_members(**changes: object) -> Recipe:
    values = load_recipe("pesi50", [*TINY, "views=single"]).model_dump(mode="json")
    return Recipe.model_validate(values | TWO | changes)


def test_members_begin_anew_with_other_seeds(spots, tmp_path):
    start_folds(two_members(), *records_and_folds(spots), tmp_path, RunSettings("x"), TASKS["isic2017"], members=5)
    parts = open_folds(tmp_path).parts()
    names = ("whole", "lesion", "whole-2", "lesion-2", "whole-3")
    assert [name for _, name, _ in parts] == [f"fold{fold}-{name}" for fold in (0, 1) for name in names]
    assert [recipe.seed for _, _, recipe in parts] == [0, 1, 2, 3, 4] * 2
    assert [recipe.picture.regions[0] for _, _, recipe in parts[:5]] == ["image", "lesion"] * 2 + ["image"]
    assert all((recipe.select, recipe.patience, recipe.members) == ("last", 0, ()) for _, _, recipe in parts)


def test_a_seed_of_its_own_is_not_trained_twice(spots):
    recipe = two_members(members=[{"name": "a", "set": ["seed=7", "select=best", "patience=3"]}], seed=2**32 - 1)
    found = [recipe.member(index) for index in range(3)]
    assert [(name, own.seed, own.select, own.patience) for name, own in found] == [
        ("a", 7, "last", 0),
        ("a-2", 8, "last", 0),
        ("a-3", 9, "last", 0),
    ]
    plain = two_members(members=[], seed=2**32 - 1)
    assert [plain.member(index)[1].seed for index in range(2)] == [2**32 - 1, 0]
    with pytest.raises(ValueError, match="name"):  # names never meet those of members that begin anew
        two_members(members=[{"name": "whole"}, {"name": "whole-2"}])


REFUSED = {
    "views": (['views="flips4"'], "member 'other' differs in views: flips4, not single"),
    "task": (['task="ham10000"'], "member 'other' differs in task"),
    "head": (['loss.head="multilabel"'], "member 'other' differs in loss.head"),
    "source size": (["picture.source_size=80"], "member 'other' differs in picture.source_size: 80, not 72"),
    "geometry": (["picture.geometry=pad"], "member 'other' differs in picture.geometry|member other: picture.geometry"),
    "corrections": (['picture.corrections=["hair_removal"]'], "member 'other' differs in picture.corrections"),
    "regions": (['predict_regions=["image", "lesion"]'], "member 'other' differs in number of regions"),
    "precision of the weights": (["weights=float16"], "member 'other' differs in weights: float16, not float32"),
    "a key": (["epoch=3"], "member other: unknown key 'epoch'"),
    "a value": (["epochs=0"], "member other: epochs"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_member_at_fault_is_named(wrong, tmp_path):
    sets, message = REFUSED[wrong]
    text = load_recipe("pesi50", [*TINY, "views=single"]).to_toml()  # members can be appended to it
    path = tmp_path / "recipe.toml"
    path.write_text(f"{text}\n[[members]]\nname = 'whole'\n[[members]]\nname = 'other'\nset = {json.dumps(sets)}\n")
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    (tmp_path / "two.toml").write_text('name = "two"\n[[members]]\nname = "a"\n[[members]]\nname = "a"\n')
    with pytest.raises(RecipeError, match="two members have one name"):
        load_recipe(tmp_path / "two.toml")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["network.name=pesi14", "batch_size=30"], "18 training images do not fill one batch of 30"),
        (["network.name=pesi_lite0"], "different numbers of features: .*fold0-whole.*fold0-other"),
    ],
)
def test_what_a_later_member_would_fail_of_is_refused_before_anything_is_trained(spots, tmp_path, sets, message):
    recipe = two_members(members=[{"name": "whole"}, {"name": "other", "set": sets}])
    with pytest.raises(RecipeError, match=message):
        start_folds(recipe, *records_and_folds(spots), tmp_path / "run", RunSettings("x"), TASKS["isic2017"])
    assert not (tmp_path / "run").exists()


def test_images_and_folds_must_match(spots, tmp_path):
    records, table = records_and_folds(spots)
    given = (RunSettings("x"), TASKS["isic2017"])
    with pytest.raises(DataError, match="The image val_011 has no fold"):
        start_folds(two_members(), records, table.iloc[:-1], tmp_path / "run", *given)
    with pytest.raises(RecipeError, match="of one process"):
        start_folds(two_members(), records, table, tmp_path / "run", RunSettings("x", devices=2), TASKS["isic2017"])
    alone = table.assign(fold=(records["diagnosis"] == "MEL").astype(int))
    with pytest.raises(DataError, match="All 12 images with a diagnosis are of the class 'melanoma'"):
        start_folds(two_members(), records, alone, tmp_path / "run", *given)
    assert not (tmp_path / "run").exists()


def test_one_bar_goes_through_all_trainings(capsys):
    trainer = SimpleNamespace(
        is_global_zero=True, num_training_batches=3, max_epochs=4, current_epoch=1, callback_metrics={}
    )
    for done in (1, 4):
        bar = RunProgress(("val/mean_auc", "mean AUC"), PartOf(f"fold{done}-whole", done, 5))
        bar.setup(trainer, None, "fit")  # type: ignore[arg-type]
        bar.on_train_start(trainer)  # type: ignore[arg-type]
        bar.on_train_epoch_start(trainer)  # type: ignore[arg-type]
        found = bar.train_progress_bar
        assert (found.n, found.total, found.leave) == (3 * (4 * done + 1), 60, done == 4)
        found.refresh()
        found.close()
        assert f"fold{done}-whole epoch 2/4" in capsys.readouterr().err


COMMAND = "from pesi.cli.app import main; main()"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", COMMAND, *(str(argument) for argument in arguments)]


def steps(folder: Path) -> Iterator[Path]:
    """What a cross-validation has come to, a file a step."""
    for pattern in ("fold*/run.json", "fold*/log.csv", "fold*/checkpoints/last.ckpt", "fold*/bundle/config.json"):
        yield from folder.glob(pattern)
    for pattern in ("fold*/result.json", "bundle/model-*.safetensors", "predictions/out-of-fold.csv", "result.json"):
        yield from folder.glob(pattern)


def two_members_of_spots(folder: Path) -> tuple[object, ...]:
    """Whole pictures, and the lesions that the shipped segmenter finds."""
    (folder / "two.toml").write_text(two_members(epochs=2, seed=3).to_toml())
    write_spots(folder).drop(columns="split").to_csv(folder / "spots.csv", index=False)
    return folder / "two.toml", "--data", folder / "spots.csv", "--folds", 2


def what_ships_on_drawn_lesions(folder: Path) -> tuple[object, ...]:
    """The shipped recipe, made small."""
    drawn = write_synthetic(folder / "drawn", train=48, val=6, test=3, size=96)
    small = ("epochs=1", "batch_size=16", "picture.size=64", "picture.source_size=72", "views=single")
    sets = [part for override in small for part in ("--set", override)]
    return "isic2017-lite0", "--data", drawn, "--folds", 5, *sets


@pytest.mark.slow
@pytest.mark.parametrize(("made", "networks"), [(two_members_of_spots, 4), (what_ships_on_drawn_lesions, 5)])
def test_killed_at_random_it_ends_in_the_same_bundle_and_trains_nothing_twice(made, networks, tmp_path, rounds):
    given = ("train", *made(tmp_path), "--threads", 1, "--no-progress", "--no-near-duplicates")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in ("whole", "killed"):
        options = ("--cache", tmp_path / f"cache-{name}", "--out", tmp_path / name)
        process = subprocess.Popen(command(*given, *options), env=environment, stderr=subprocess.DEVNULL)
        if name == "whole":
            assert process.wait(timeout=600) == 0
    folder, rng, seen = tmp_path / "killed", random.Random(1), 0
    finished: dict[str, int] = {}
    for _ in range(rounds(3)):
        goal, deadline = seen + rng.randint(1, 9), time.monotonic() + 300
        while len(list(steps(folder))) < goal and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen, now = len(list(steps(folder))), stamps(folder)
        assert finished.items() <= now.items()
        # What was finished stays as it is, but for the checkpoints, which go.
        finished = {name: when for name, when in now.items() if ".ckpt" not in name}
        resume = command("train", "--resume", folder, "--no-progress")
        process = subprocess.Popen(resume, env=environment, stderr=subprocess.PIPE, text=True)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told
    assert finished.items() <= stamps(folder).items()
    same(folder, tmp_path / "whole")
    assert len(read_config(folder / "bundle").members) == networks


@pytest.mark.slow
def test_a_signal_tells_how_the_whole_goes_on(spots_csv, tmp_path):
    folder = tmp_path / "run"
    given = ("pesi50", "--data", spots_csv, "--folds", 2, "--threads", 1, "--no-near-duplicates", "--out", folder)
    process = subprocess.Popen(
        command("train", *given, *SETS, "--set", "epochs=500"), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("fold0-network/checkpoints/last.ckpt")):
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 143, told
    assert f"Stopped; go on with: pesi train --resume {folder}\n" in told
