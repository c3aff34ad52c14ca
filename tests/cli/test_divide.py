"""`pesi train` divides a data set without a validation part: near-duplicates stay in one part."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pesi.cli.divide import training_records, with_train_and_val
from pesi.datasets.records import record_table
from pesi.errors import DataError
from pesi.synthetic import write_synthetic


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """24 pictures, and of each a lighter and smaller copy under another name; nothing else joins them."""
    folder = tmp_path_factory.mktemp("copies")
    drawn = sorted(write_synthetic(folder / "drawn", train=18, val=3, test=3, size=128).rglob("*.jpg"))
    rows = []
    for number, path in enumerate(drawn):
        picture = Image.open(path)
        lighter = picture.resize((110, 110)).point([min(255, value + 12) for value in range(256)] * 3)
        for kind, image in (("a", picture), ("b", lighter)):
            target = folder / f"{number:02d}{kind}.png"
            image.save(target)
            diagnosis = ("MEL", "SK", "NV")[number % 3]
            rows.append({"image_id": target.stem, "path": str(target), "diagnosis": diagnosis, "source": "made"})
    assert len(rows) == 48
    return record_table(rows)


def apart(table: pd.DataFrame) -> int:
    """How many pictures are in another part than their copy."""
    return int((table.groupby(table["image_id"].str[:2])["split"].nunique() > 1).sum())


def test_copies_stay_together(copies: pd.DataFrame) -> None:
    options = {"val": 0.3, "seed": 0, "progress": False}
    kept = with_train_and_val(copies, near_duplicates=True, **options)
    assert set(kept["split"]) == {"train", "val"}
    assert apart(kept) == 0
    assert apart(with_train_and_val(copies, near_duplicates=False, **options)) > 0


def test_a_data_set_s_own_parts_stay(copies: pd.DataFrame) -> None:
    own = copies.assign(split=["train", "val"] * 24)
    options = {"val": 0.3, "seed": 0, "near_duplicates": True, "progress": False}
    pd.testing.assert_frame_equal(with_train_and_val(own, **options), own)


def test_other_diagnoses_stop_or_are_left_out_but_not_of_the_test_part(
    copies: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copies.assign(split=["test", *[None] * 47])
    other.loc[[0, 5, 6], "diagnosis"] = "wart"
    with pytest.raises(DataError, match=r"2 image\(s\) have .*: wart \(2\)"):
        training_records(other, "isic2017", False)
    kept = training_records(other, "isic2017", True)
    assert sorted(set(other["image_id"]) - set(kept["image_id"])) == sorted(other["image_id"][[5, 6]])
    assert "wart (2)" in capsys.readouterr().err
    assert len(training_records(other, "classes", False)) == 48
    for diagnosis in ("NV", None):
        with pytest.raises(DataError, match=r"'nevus'|0 of 48"):
            training_records(copies.assign(diagnosis=diagnosis), "isic2017", True)


def test_the_command_line_keeps_copies_together(copies: pd.DataFrame, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pesi.cli.app import app

    table = tmp_path / "copies.csv"
    copies[["image_id", "path", "diagnosis"]].to_csv(table, index=False)
    small = ("network.name=pesi14", "epochs=1", "batch_size=4", "picture.size=64", "picture.source_size=72")
    settings = [word for override in small for word in ("--set", override)]
    done = CliRunner().invoke(
        app,
        ["train", "pesi50", "--data", str(table), "--out", str(tmp_path / "run"), "--threads", "1", *settings],
    )
    assert done.exit_code == 0, done.output
    assert apart(pd.read_csv(tmp_path / "run" / "records.csv")) == 0


def test_masks_are_divided_without_diagnoses(copies: pd.DataFrame) -> None:
    options = {"val": 0.3, "seed": 0, "near_duplicates": False, "progress": False, "masked": True}
    with pytest.raises(DataError, match="lesion mask"):
        with_train_and_val(copies, **options)
    with pytest.raises(DataError, match="lesion mask"):
        with_train_and_val(copies.assign(mask_path="m.png", split="test"), **options)
    some = copies.assign(
        mask_path=copies["path"].where(copies.index % 4 > 0, None),
        diagnosis=copies["diagnosis"].where(copies.index % 2 > 0, None),
    )
    for table in (some, some.assign(diagnosis=None)):
        divided = with_train_and_val(table, **options)
        assert set(divided["split"]) == {"train", "val"}
        assert sorted(divided["image_id"]) == sorted(table["image_id"][table["mask_path"].notna()])
        known = table.set_index("image_id").loc[divided["image_id"], "diagnosis"]
        assert list(divided["diagnosis"].fillna("-")) == list(known.fillna("-"))
        assert abs((divided["split"] == "val").mean() - 0.3) < 0.05
    # A validation part without any mask is none for the segmenter.
    own = some.assign(split=["val", "train", "train", "train"] * 12)
    assert set(with_train_and_val(own, **options)["split"]) == {"train", "val"}
