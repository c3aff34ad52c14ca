"""`pesi audit` and `pesi calibrate` as a user runs them: every file, and the report in a real browser, offline."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ImageFile
from playwright.sync_api import sync_playwright
from pypdf import PdfReader
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from conftest import write_spots
from pesi.bundle.config import read_config
from pesi.cli.app import app
from pesi.cli.audit import progress_bars, unseen_by_network
from pesi.datasets.readers import read_dataset
from pesi.errors import DataError, PesiError
from pesi.evaluate.audit import novelty
from pesi.evaluate.audit.run import TOPICS
from pesi.predict.loading import load

pytestmark = pytest.mark.slow  # a whole audit

CHROMIUM = shutil.which("chromium")
FIRST = {topic.key for topic in TOPICS}
EVERYWHERE = {topic.key for topic in TOPICS if topic.everywhere}


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def spots_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty labelled spots as a user's own CSV, with masks, sex and age."""
    folder = tmp_path_factory.mktemp("clinic")
    table = write_spots(folder, train=0, val=40, seed=5)
    table["image_id"] = "clinic_" + table["image_id"]  # by its own names: images are known again by their ids
    rng = np.random.default_rng(0)
    table["sex"] = rng.choice(["female", "male"], len(table))
    table["age"] = rng.integers(20, 90, len(table)).astype(float)
    table.to_csv(folder / "clinic.csv", index=False)
    return folder / "clinic.csv"


@pytest.fixture(scope="module", autouse=True)
def one_outlier_a_family() -> Iterator[None]:
    """Four of each take a minute, and show no more of the way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty, "_PICTURES", 1)
        yield


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, spots_csv: Path) -> Path:
    """The audit of a copy of the tiny run's bundle, kept in it."""
    folder = tmp_path_factory.mktemp("audited")
    shutil.copytree(tiny_run / "bundle", folder / "bundle")
    run(
        *("audit", folder / "bundle", "--data", spots_csv, "--split", "val", "--also", spots_csv, "--also-images", 20),
        *("--out", folder / "out", "--replicates", 100, "--stress-images", 12, "--keep", "--no-progress"),
        *("--cache", folder / "cache"),
    )
    return folder


def test_everything_is_measured_and_written(audited):
    names = {path.name for path in (audited / "out").iterdir()}
    assert names >= {"report.html", "report.pdf", "audit.json", "README.md", "predictions-clinic-val.csv"}
    audit = json.loads((audited / "out" / "audit.json").read_text())
    assert set(audit["sets"][0]["sections"]) == FIRST
    assert set(audit["sets"][1]["sections"]) == EVERYWHERE
    assert [part["fitted_on"] for part in audit["sets"]] == [False, False]
    for section in audit["sets"][0]["sections"].values():
        assert section["summary"]
        assert section["meaning"]


def test_anyone_can_score_it_again(audited):
    audit = json.loads((audited / "out" / "audit.json").read_text())
    table = pd.read_csv(audited / "out" / "predictions-clinic-val.csv")
    scores = audit["sets"][0]["sections"]["performance"]["values"]
    for name, code in (("melanoma", "MEL"), ("seborrheic_keratosis", "SK")):
        expected = roc_auc_score(table["diagnosis"] == code, table[name])
        assert scores["tasks"][name]["auc"] == pytest.approx(expected, abs=1e-6)


def test_the_card_and_the_evidence_go_into_the_bundle(audited):
    card = (audited / "bundle" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: pesi-cnn")
    for heading in ("Intended use", "Data and licence", "Results", "Claimed and measured", "Limits", "CLEAR Derm"):
        assert f"## {heading}" in card
    assert "## TRIPOD+AI" in card
    assert (audited / "bundle" / "audit.json").read_text() == (audited / "out" / "audit.json").read_text()
    assert read_config(audited / "bundle")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_the_report_opens_offline_in_a_browser(audited):
    """No request leaves the page, nothing is blocked or broken, and every link of the page leads somewhere in it."""
    page_file = audited / "out" / "report.html"
    requests, complaints = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(page_file.as_uri())
        assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]
        assert complaints == []
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert page.evaluate(broken) == 0
        targets = page.eval_on_selector_all("a", "links => links.map(a => a.getAttribute('href').slice(1))")
        assert targets
        assert all(page.evaluate("id => !!document.getElementById(id)", target) for target in targets)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1200
        figures = page.locator("figure").count()
        assert figures > 15
        assert page.locator("figure:visible").count() == figures
        headings = page.locator("h3").all_inner_texts()
        assert "Telling the classes apart" in headings
        browser.close()


def test_every_figure_says_what_it_means(audited):
    html = (audited / "out" / "report.html").read_text()
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.DOTALL)
    plots = [caption for caption in captions if 'class="patient"' in caption]
    assert len(plots) == html.count('role="img"')
    assert all(len(re.sub("<.*?>", "", caption)) > 40 for caption in plots)


def test_the_pdf_has_pages_with_the_same_words(audited):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES  # WeasyPrint sets it when it is imported
    pages = PdfReader(audited / "out" / "report.pdf").pages
    text = " ".join(page.extract_text() for page in pages)
    assert len(pages) > 5
    assert "Claimed and measured" in text
    assert "CLEAR Derm" in text


def test_calibrate_makes_a_new_bundle_of_the_same_weights(tmp_path, tiny_run, spots_csv):
    rule = tmp_path / "triage.toml"
    levels = ('name = "see today"\ncriterion = "sensitivity"\nvalue = 0.9', 'name = "later"\ncriterion = "rest"')
    rule.write_text("".join(f"[[level]]\n{level}\n" for level in levels))
    said = run(
        *("calibrate", tiny_run / "bundle", "--data", spots_csv, "--split", "val", "--method", "vector"),
        *("--triage", rule, "--known", "val", "--out", tmp_path / "new", "--no-progress"),
    )
    before, after = read_config(tiny_run / "bundle"), read_config(tmp_path / "new")
    assert after.weights_sha256 == before.weights_sha256
    assert after.vector is not None
    assert after.temperature.value == 1
    assert [level.level for level in after.triage] == ["see today", "later"]
    assert after.novelty.train_images == 40
    assert after.bundle_id == before.bundle_id
    assert after.answer_id != before.answer_id
    assert "the val images of clinic" in said
    # The images that set everything are known as such from now on, and no others are.
    classifier, records = load(tmp_path / "new"), read_dataset(str(spots_csv))
    assert unseen_by_network(classifier, records, "clinic") == (0, 0, len(records), 0, True)
    assert unseen_by_network(classifier, records.iloc[1:4], "clinic") == (0, 0, 3, 0, True)  # parts of them too
    assert unseen_by_network(load(tiny_run / "bundle"), records, "clinic") == (0, 0, 0, 0, True)
    refused = CliRunner().invoke(
        app, ["calibrate", str(tiny_run / "bundle"), "--data", str(spots_csv), "--out", str(tiny_run / "bundle")]
    )
    assert "Choose another --out" in str(refused.exception)


def test_calibrate_lets_a_network_look_at_the_lesion_too(tmp_path, tiny_run, spots_csv):
    def calibrated(name, *more):
        out = tmp_path / name
        run("calibrate", tiny_run / "bundle", "--data", spots_csv, "--no-progress", "--out", out, *more)
        return load(out)

    both = calibrated("both", "--region", "image", "--region", "lesion")
    assert both.config.preprocess.regions == ("image", "lesion")
    assert both.config.preprocess.segmenter.startswith("segmenter-lite0@")
    assert both.config.novelty is not None
    alone = calibrated("alone", "--region", "image")
    assert alone.config.preprocess == load(tiny_run / "bundle").config.preprocess
    assert alone.config.answer_id != both.config.answer_id
    assert alone.config.weights_sha256 == both.config.weights_sha256
    assert "the lesion, found by segmenter-lite0" in (tmp_path / "both" / "README.md").read_text()
    # What is new is told by the whole image, as before; what the old bundle knew says nothing of lesions.
    assert calibrated("unknown", "--region", "lesion").config.novelty is None
    path = read_dataset(str(spots_csv))["path"][0]
    ours, theirs = (each.outputs([each.squares(path)]) for each in (both, alone))
    assert ours.logits.shape[1] == 2 * theirs.logits.shape[1]
    np.testing.assert_allclose(ours.features, theirs.features, atol=1e-5)


def test_images_of_its_folds_are_audited_by_networks_that_have_not_seen_them(tmp_path, several_folder, spots):
    """Every section, with several networks of two regions and sizes."""
    some = spots.iloc[::2]
    some.to_csv(tmp_path / "spots.csv", index=False)
    said = CliRunner().invoke(
        app,
        [
            *("audit", str(several_folder), "--data", str(tmp_path / "spots.csv"), "--split", "all", "--no-progress"),
            *("--no-pdf", "--out", str(tmp_path / "out"), "--replicates", "100", "--stress-images", "10"),
            *("--cache", str(tmp_path / "cache")),
        ],
    )
    assert said.exit_code == 0, said.output
    assert "12 of the 18 images are of the folds that made several-multiclass" in said.stderr
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert set(audit["sets"][0]["sections"]) == FIRST
    assert audit["sets"][0]["fitted_on"] is False
    report = (tmp_path / "out" / "report.html").read_text()
    assert "4 networks (pesi_lite0): probabilities, features and maps are the means of theirs" in report
    written = pd.read_csv(tmp_path / "out" / "predictions-spots-all.csv").set_index("image_id")
    classifier, row = load(several_folder), some.iloc[2]
    (own,) = classifier.of_fold(0).predict([row["path"]], gates=False)
    for name, value in own.probabilities.items():
        assert written.loc[row["image_id"], name] == pytest.approx(value, abs=1e-5)


def test_images_that_trained_the_network_are_not_audited(tiny_run, spots):
    classifier = load(tiny_run / "bundle")
    training, validation = (spots[spots["split"] == split] for split in ("train", "val"))
    with pytest.raises(DataError, match="24 of the 24 images of spots train trained this network"):
        unseen_by_network(classifier, training, "spots train")
    with pytest.raises(DataError, match="2 of the 14 images of both trained this network"):
        unseen_by_network(classifier, pd.concat([training.iloc[:2], validation]), "both")
    assert unseen_by_network(classifier, validation, "spots val") == (0, 0, 12, 12, True)


def test_mistakes_cost_no_work(tmp_path, tiny_run, spots_csv):
    arguments = ("calibrate", tiny_run / "bundle", "--data", spots_csv, "--known", "val", "--no-progress")
    for more, message in (
        (("--exclude", tmp_path / "none.txt", "--out", tmp_path / "new"), "Cannot read"),
        (("--out", spots_csv), "Could not replace|Could not write"),
    ):
        result = CliRunner().invoke(app, [str(argument) for argument in (*arguments, *more)])
        assert isinstance(result.exception, PesiError)
        assert re.search(message, str(result.exception))
    assert pd.read_csv(spots_csv).shape[0] == 40


def test_each_task_has_one_bar(capsys):
    with progress_bars(True) as progress:
        for name in ("decoding", "predicting"):
            for done in range(1, 6):
                progress(name, done, 5)
    lines = [line for line in capsys.readouterr().err.split("\n") if line]
    assert [line.split("\r")[-1].split(":")[0] for line in lines] == ["decoding", "predicting"]
    assert all("5/5" in line for line in lines)
