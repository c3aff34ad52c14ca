"""Other copies of the same photographs: what changes."""

from __future__ import annotations

from pathlib import Path

import other_copies
import pandas as pd
import pytest
from PIL import Image

from pesi.errors import DataError
from pesi.predict.classifier import Classifier


def test_the_same_files_change_nothing(classifier: Classifier, spots: pd.DataFrame) -> None:
    val = spots[spots["split"] == "val"]
    text = other_copies.change_text(classifier, val, val.iloc[::-1], replicates=50)
    assert text.startswith("12 images; ")
    assert "another most probable diagnosis: 0, 0.000" in text
    assert text.count("+0.000 (+0.000 to +0.000)") == 3


def test_other_pictures_of_the_same_ids_change_answers(
    classifier: Classifier, spots: pd.DataFrame, tmp_path: Path
) -> None:
    val = spots[spots["split"] == "val"].reset_index(drop=True)
    paths = []
    for index, name in enumerate(val["image_id"]):
        paths.append(str(tmp_path / f"{name}.png"))
        source = val["path"].iloc[(index + 1) % len(val)]  # another class's: the answers move on with it
        Image.open(source).resize((144, 144)).save(paths[-1])
    other = val.assign(path=paths)
    before, after = (other_copies.answers(classifier, table).argmax(1) for table in (val, other))
    changed = int((before != after).sum())
    assert changed > 0
    text = other_copies.change_text(classifier, val, other, replicates=50)
    assert f"another most probable diagnosis: {changed}, {changed / 12:.3f}" in text
    with pytest.raises(DataError, match="share no labelled image"):
        other_copies.change_text(classifier, val, spots[spots["split"] == "train"], replicates=50)
