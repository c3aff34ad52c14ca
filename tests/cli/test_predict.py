"""`pesi predict`, `explain` and `evaluate --predictions` in daily work: stops, pipes, lesions, what cannot be done."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from conftest import write_spots
from pesi.cli.app import app
from pesi.cli.prediction_run import standard_input
from pesi.errors import DataError
from pesi.predict.classifier import Classifier

FREE = ("--no-gates", "--views", "single", "--batch-size", 2)


def run(*arguments: object, status: int = 0, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn images in two folders, one of them not readable."""
    folder = tmp_path_factory.mktemp("images")
    for number, path in enumerate(sorted(write_spots(folder, train=6, val=0)["path"])):
        (folder / f"l{number % 2}").mkdir(exist_ok=True)
        shutil.move(path, folder / f"l{number % 2}" / f"i{number}.png")
    for path in folder.glob("*.png"):
        path.unlink()
    (folder / "l1" / "i5.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run writes."""
    path = tmp_path_factory.mktemp("whole") / "p.csv"
    run("predict", images, *FREE, "--out", path, status=1)
    return path


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch):
    """Have the system send a signal when so many images are done."""

    def prepare(count: int, number: signal.Signals) -> None:
        def stopped(self, *arguments, **options):
            for done, result in enumerate(predict_many(self, *arguments, **options)):
                if done == count:
                    os.kill(os.getpid(), number)
                yield result

        predict_many = Classifier.predict_many
        monkeypatch.setattr(Classifier, "predict_many", stopped)

    return prepare


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_keeps_what_is_done_and_goes_on(images, whole, stop_after, monkeypatch, tmp_path, number, status):
    out = tmp_path / "p.csv"
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context():
        stop_after(3, number)
        told = run("predict", images, *FREE, "--out", out, status=status).stderr
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) is before
    assert "3 of 6 images are done" in told
    assert "--resume" in told
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv.journal"]
    kept = (tmp_path / "p.csv.journal").read_bytes()

    with pytest.raises(DataError, match="holds 3 predictions"):
        run("predict", images, *FREE, "--out", out)
    with pytest.raises(DataError, match="gates False, now True"):
        run("predict", images, *FREE[1:], "--out", out, "--resume")
    with pytest.raises(DataError, match=r"images 6 .*, now 3"):
        run("predict", images / "l0", *FREE, "--out", out, "--resume")
    assert (tmp_path / "p.csv.journal").read_bytes() == kept

    run("predict", images, *FREE, "--out", out, "--resume", status=1)
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
    pd.testing.assert_frame_equal(pd.read_csv(out), pd.read_csv(whole), rtol=1e-5)
    assert "is complete: 6 images" in run("predict", images, *FREE, "--out", out, "--resume").stderr
    with pytest.raises(DataError, match="complete, but of other images"):
        run("predict", images / "l0", *FREE, "--out", out, "--resume")


def test_resume_begins_where_there_is_nothing_yet(images, whole, tmp_path):
    run("predict", images, *FREE, "--out", tmp_path / "p.csv", "--resume", status=1)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "p.csv"), pd.read_csv(whole), rtol=1e-5)


def test_without_a_file_nothing_is_kept_and_it_says_so(images, stop_after):
    stop_after(3, signal.SIGINT)
    told = run("predict", images, *FREE, status=130)
    assert "kept nowhere" in told.stderr
    assert told.stdout.count("triage") == 3


def test_a_repaired_file_completes_a_submission(images, tmp_path):
    shutil.copytree(images, tmp_path / "d")
    arguments = ("predict", tmp_path / "d", *FREE, "--format", "isic2017", "--out", tmp_path / "s.csv")
    with pytest.raises(DataError, match="1 image"):
        run(*arguments)
    shutil.copy(tmp_path / "d" / "l0" / "i0.png", tmp_path / "d" / "l1" / "i5.png")
    run(*arguments, "--resume")
    assert len(pd.read_csv(tmp_path / "s.csv")) == 6
    assert not (tmp_path / "s.csv.journal").exists()


def test_json_lines_on_standard_output(images, whole):
    done = run("predict", images, *FREE, "--out", "-", status=1)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    table = pd.read_csv(whole)
    assert [row["image"] for row in rows] == list(table["image"])
    assert [row.get("malignant") for row in rows[:5]] == pytest.approx(list(table["malignant"][:5]), rel=1e-5)
    assert "images" in done.stderr  # the summary


def test_the_summary_counts(images, whole, tmp_path):
    told = run("predict", images, *FREE, "--out", tmp_path / "p.csv", status=1).stdout
    counts = {" ".join(line.split()[:-1]): int(line.split()[-1]) for line in told.splitlines() if line.strip()}
    table = pd.read_csv(whole)
    assert (counts["images"], counts["answered"], counts["cannot be read"]) == (6, 5, 1)
    levels = table["triage"].value_counts()
    assert {level: counts[level] for level in levels.index} == levels.to_dict()
    assert levels.sum() == 5
    assert any("text file" in reason for reason in counts)


def test_an_image_on_standard_input(images, tmp_path):
    data = (images / "l0" / "i0.png").read_bytes()
    (row,) = json.loads(f"[{run('predict', '-', *FREE, '--out', '-', stdin=data).stdout}]")
    run("predict", images / "l0" / "i0.png", *FREE, "--out", tmp_path / "p.json")
    assert row["probabilities"] == pytest.approx(json.loads((tmp_path / "p.json").read_text())[0]["probabilities"])
    assert (row["image"], row["path"]) == ("standard-input", None)
    done = run("predict", "-", *FREE, "--overlay", tmp_path / "o", stdin=data)
    assert "triage" in done.stdout
    assert len(list((tmp_path / "o").iterdir())) == 1
    assert "refused -" in run("predict", "-", stdin=b"text", status=2).stderr
    with pytest.raises(DataError, match="is empty"):
        run("predict", "-", stdin=b"")


def test_a_terminal_is_no_image(monkeypatch):
    leader, follower = os.openpty()
    with os.fdopen(follower, "r") as terminal, os.fdopen(leader):
        monkeypatch.setattr(sys, "stdin", terminal)
        with pytest.raises(DataError, match="terminal"):
            standard_input()


def test_lesions_by_folder_and_by_table(images, whole, tmp_path):
    single = pd.read_csv(whole)
    single["lesion_id"] = [Path(path).parent.name for path in single["path"]]
    single[["image", "lesion_id"]].to_csv(tmp_path / "t.csv", index=False)
    for number, lesions in enumerate(("folders", tmp_path / "t.csv")):
        out = tmp_path / f"p{number}.csv"
        run("predict", images, *FREE, "--out", out, "--lesions", lesions, status=1)
        assert list(pd.read_csv(out)["lesion_id"]) == list(single["lesion_id"])
        found = pd.read_csv(tmp_path / f"p{number}-lesions.csv").set_index("lesion_id")
        names = ["melanoma", "seborrheic_keratosis", "nevus", "malignant"]
        means = single.groupby("lesion_id")[names].mean()
        pd.testing.assert_frame_equal(found[names], means, rtol=1e-4)
        assert found["images"].to_dict() == {"l0": 3, "l1": 3}
        assert found["answered"].to_dict() == {"l0": 3, "l1": 2}


@pytest.mark.slow
def test_pictures_that_cannot_be_written_stop_nothing_else(images, tmp_path):
    (tmp_path / "o" / "i2-explained.png" / "in the way").mkdir(parents=True)
    done = run("predict", images / "l0", *FREE, "--overlay", tmp_path / "o", "--out", tmp_path / "p.csv", status=1)
    assert "no picture of" in done.stderr
    assert "i2-explained.png" in done.stderr
    assert len(pd.read_csv(tmp_path / "p.csv")) == 3
    assert sum(path.is_file() for path in (tmp_path / "o").iterdir()) == 2
    (tmp_path / "m" / "i2_segmentation.png" / "in the way").mkdir(parents=True)
    done = run("segment", images / "l0", "--out", tmp_path / "m", status=1)
    assert "no mask of" in done.stderr
    assert sum(path.is_file() for path in (tmp_path / "m").iterdir()) == 2


@pytest.mark.slow
def test_a_folder_is_explained(images, tmp_path):
    done = run("explain", images, "--out", tmp_path / "e", "--no-gates", status=1)
    assert "i5.png" in done.stderr
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == [f"i{n}-explained.png" for n in range(5)]
    assert "i3: " in done.stdout
    assert "mask is of one image" in " ".join(
        run("explain", images, "--mask", images / "l0" / "i0.png", status=2).stderr.split()
    )


def test_what_predict_wrote_is_scored(tmp_path):
    """Images without a result, or a row, are counted and left out; the rest is scored as by scikit-learn."""
    rng = np.random.default_rng(3)
    ids = [f"{n:03d}" for n in range(40)] + ["NA"]
    truth = rng.permutation(["MEL"] * 14 + ["NV"] * 16 + ["SK"] * 11)
    table = pd.DataFrame(rng.dirichlet((1, 1, 1), 41), columns=["melanoma", "seborrheic_keratosis", "nevus"])
    table.insert(0, "image", ids)
    table["no_result"] = ["too dark" if n % 9 == 0 else "" for n in range(41)]
    table.loc[table["no_result"] != "", ["melanoma", "seborrheic_keratosis", "nevus"]] = np.nan
    table["remark"], table["score"] = "x", 7
    for image_id in ids:
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / f"{image_id}.png")
    pd.DataFrame({"image_id": ids, "diagnosis": truth}).to_csv(tmp_path / "truth.csv", index=False)
    answered = table["no_result"] == ""
    expected = roc_auc_score(truth[answered] == "MEL", table["melanoma"][answered])
    entries = [
        {"image": row["image"], "no_result": row["no_result"] or None, "probabilities": row[1:4].to_dict()}
        for _, row in table.fillna(0.5).iterrows()
    ]
    table.to_csv(tmp_path / "p.csv", index=False)
    table.to_parquet(tmp_path / "p.parquet", index=False)
    (tmp_path / "p.json").write_text(json.dumps(entries))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    table.assign(image=table["image"] + ".JPG")[answered | (table.index % 2 == 0)].to_csv(tmp_path / "e.csv")
    for name in ("p.csv", "p.parquet", "p.json", "p.jsonl", "e.csv"):
        arguments = ("--data", tmp_path / "truth.csv", "--split", "all", "--out", tmp_path / "s", "--replicates", 100)
        done = run("evaluate", "--predictions", tmp_path / name, *arguments)
        assert "Without a result: 5 of 41 images" in done.stdout
        assert ("2 of them without a row" in done.stdout) == (name == "e.csv")
        metrics = json.loads((tmp_path / "s" / "metrics.json").read_text())
        assert metrics["images"] == 36
        assert metrics["tasks"]["melanoma"]["auc"] == pytest.approx(expected)
        assert "left out of the scores" in (tmp_path / "s" / "report.html").read_text()
    table[:10].to_csv(tmp_path / "few.csv", index=False)
    with pytest.raises(DataError, match=r"no row for 31 of 41 images, the first is 010"):
        run("evaluate", "--predictions", tmp_path / "few.csv", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_killed_at_random_no_row_is_lost_and_none_is_there_twice(tmp_path, rounds, ending):
    folder = tmp_path / "d"
    folder.mkdir()
    write_spots(folder, train=300, val=0, size=64)
    for path in folder.glob("*_mask.png"):
        path.unlink()
    out, journal = tmp_path / f"p.{ending}", tmp_path / f"p.{ending}.journal"
    read = getattr(pd, f"read_{ending}")
    rng, kills = random.Random(0), rounds(10)

    def command(path: Path) -> list[str]:
        words = ("predict", folder, "--out", path, "--resume", "--no-progress", *FREE)
        return [sys.executable, "-m", "pesi", *map(str, words)]

    def kept() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    for _ in range(kills):
        with subprocess.Popen(command(out), stderr=subprocess.DEVNULL) as process:
            goal = kept() + rng.randrange(300 // kills)
            while kept() <= goal and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.random() * 0.1)
            process.kill()
        assert not out.exists()
    for path in (out, tmp_path / f"whole.{ending}"):
        subprocess.run(command(path), check=True, capture_output=True)
    assert list(read(out)["image"]) == [f"train_{number:03d}" for number in range(300)]
    pd.testing.assert_frame_equal(read(out), read(tmp_path / f"whole.{ending}"), rtol=1e-5)
    assert not journal.exists()
