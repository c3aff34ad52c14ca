"""From the rows of a table to a bundle that ships, once, on drawn pictures."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import spearmanr

from benchmarks.conftest import BENCHMARKS
from pesi.bundle.config import read_config
from pesi.datasets.readers import read_dataset
from pesi.errors import PesiError
from pesi.predict.classifier import Classifier
from pesi.synthetic import write_synthetic

sys.path.insert(0, str(BENCHMARKS))

import ship
import table as tables
from train_row import train_row

TABLE = """
title = "Made up"
recipe = '{recipe}'
splits = ["fold0", "fold1"]
seeds = [0]
folds = "folds.csv"
fold_count = 2
find_duplicates = false
set = [
    "network.name=pesi14", "picture.size=64", "picture.source_size=72", "batch_size=8", "epochs=1", "select=last",
    "weights=float16", "pretrained=", "precision=32", "predict_regions=[]",
]
[variants.lesion]
set = ['picture.regions=["lesion"]']
[variants.whole]
"""
ENTRY = """
[made]
table = "made/members.toml"
rows = ["lesion-*", "whole-*"]
views = "flips2"
geometry = "center_crop"
bundle = "bundles/made"
name = "made"
licence = "CC0-1.0: drawn"
"""


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's root with a table whose rows are trained but for one."""
    root = tmp_path_factory.mktemp("ship")
    write_synthetic(root / "data", train=36, val=0, test=0, size=72, workers=1)
    (root / "made").mkdir()
    recipe = Path(ship.ROOT) / "src" / "pesi" / "train" / "recipes" / "isic2017-lite0.toml"
    (root / "made" / "members.toml").write_text(TABLE.format(recipe=recipe))
    (root / "ship.toml").write_text(ENTRY)
    table = tables.load_table(root / "made" / "members.toml")
    for row in table.rows():
        if row.name != "whole-s0-fold1":
            train_row(table, row, data=root / "data", work=root / "work" / table.name, keep_bundles=True)
    return root


@pytest.mark.slow
def test_rows_become_a_bundle_and_the_bundle_is_made_again(rooms, monkeypatch, capsys):
    monkeypatch.setattr(ship, "ROOT", rooms)
    monkeypatch.setattr(ship, "HERE", rooms)
    with pytest.raises(PesiError, match="no other"):
        ship.entry("other")
    with pytest.raises(PesiError, match=r"Neither .* nor .* has lesion-s0-fold0"):
        ship.make("made", rooms / "data", None)  # neither networks nor a bundle

    copied = ship.keep("made", rooms / "work")
    assert sorted(copied) == ["lesion-s0-fold0", "lesion-s0-fold1", "whole-s0-fold0"]
    assert ship.keep("made", rooms / "work") == []
    assert (rooms / "models/made/whole-s0-fold0/novelty.safetensors").is_file()
    assert not (rooms / "models/made/lesion-s0-fold0/novelty.safetensors").is_file()

    found = ship.make("made", rooms / "data", None)
    assert "whole-s0-fold1 are missing" in capsys.readouterr().err
    config = read_config(rooms / "bundles/made")
    assert [member.fold for member in config.members] == [0, 1]
    assert {member.preprocess.geometry for member in config.members} == {"center_crop"}
    assert config.views == "flips2"
    assert config.measured == found.measured
    assert (config.name, config.licence) == ("made", "CC0-1.0: drawn")

    # What stands in the table is what the fold's own network says, calibrated as in the bundle.
    answers = pd.read_csv(rooms / "shipped" / "made-out-of-fold.csv").set_index("image_id")
    records = read_dataset(rooms / "data")
    assert set(answers.index) == set(records.loc[records["split"] != "test", "image_id"])
    opened = Classifier.load(rooms / "bundles/made", device="cpu")
    paths = records.set_index("image_id")["path"]
    ids = list(answers.index[:6])
    held_out = opened.predict_many([paths[i] for i in ids], image_ids=ids, gates=False, held_out=True)
    for result in held_out:
        own = opened.of_fold(opened.folds_of([result.image_id])[0]).predict(paths[result.image_id], gates=False)
        assert result.probabilities == pytest.approx(own.probabilities, abs=1e-6)
        # The table's are cross-fitted: another common temperature, which keeps the order of the melanoma probabilities.
    together = pd.Series(
        {
            r.image_id: r.probabilities["melanoma"]
            for r in opened.predict_many(
                [paths[i] for i in answers.index], image_ids=list(answers.index), gates=False, held_out=True
            )
        }
    )
    for _, part in answers.groupby("fold"):
        assert spearmanr(part["melanoma"], together[part.index]).statistic > 0.95
    told = json.loads((rooms / "shipped" / "made.json").read_text())
    assert told["bundle"] == config.bundle_id

    # Once it ships, its own networks are enough.
    shutil.rmtree(rooms / "models")
    ship.make("made", rooms / "data", None)
    remade = read_config(rooms / "bundles/made")
    assert remade.model_dump(exclude={"provenance"}) == config.model_dump(exclude={"provenance"})

    # What was missing comes later, and the others are taken from the bundle.
    table = tables.load_table(rooms / "made" / "members.toml")
    row = next(row for row in table.rows() if row.name == "whole-s0-fold1")
    train_row(table, row, data=rooms / "data", work=rooms / "work" / table.name, keep_bundles=True)
    ship.keep("made", rooms / "work")
    for kept in (rooms / "models/made").glob("lesion-*"):
        shutil.rmtree(kept)
    ship.make("made", rooms / "data", None)
    larger = read_config(rooms / "bundles/made")
    assert [(m.preprocess.regions, m.fold) for m in larger.members] == [
        (("image",), 0), (("image",), 1), (("lesion",), 0), (("lesion",), 1)
    ]  # fmt: skip
    assert [m.weights_sha256 for m in larger.members[2:]] == [m.weights_sha256 for m in config.members]
