"""Finished rows packed: nothing is lost, and it does not matter where or in which order."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from outcome import read_outcome
from pack import finished, pack, read_rows
from table import Table, load_table

from benchmarks.conftest import BENCHMARKS
from pesi.errors import PesiError
from pesi.files import write_json

Fabricate = Callable[..., None]
PACKED = ("table.parquet", "table.jsonl")


@pytest.fixture
def rows(table: Table, fabricate: Fabricate) -> Table:
    """The table, with five finished rows, each with its own files."""
    for variant, seed, split in (("none", 0, 0), ("none", 0, 1), ("spatial", 0, 0), ("spatial", 0, 1), ("none", 1, 0)):
        fabricate(variant, seed, f"fold{split}")
    return table


def elsewhere(table: Table, folder: Path, *patterns: str) -> Table:
    """Another checkout, which has only the rows of some patterns."""
    other = folder / table.path.parent.name
    shutil.copytree(table.path.parent, other, ignore=shutil.ignore_patterns(*PACKED, "rows"))
    copy = load_table(other / table.path.name)
    copy.rows_folder.mkdir(parents=True)
    for file in {file for pattern in patterns for file in table.rows_folder.glob(pattern)}:
        shutil.copy(file, copy.rows_folder)
    return copy


def packed(table: Table) -> list[bytes]:
    return [path.read_bytes() for path in (table.parquet, table.jsonl)]


def test_nothing_is_lost(rows: Table, records: pd.DataFrame) -> None:
    before = read_outcome(rows, None, records)
    assert pack(rows) == "made/table: 5 rows; 5 new, 0 made again, 0 dropped"
    whole = pd.read_parquet(rows.parquet)
    for path in rows.rows_folder.glob("*.csv"):
        name, part = (path.stem.removesuffix("-test"), "test" if path.stem.endswith("-test") else "held_out")
        own = whole[(whole["row"] == name) & (whole["part"] == part)].drop(columns=["row", "part"])
        assert own.to_csv(index=False, float_format="%.5g").splitlines() == path.read_text().splitlines()
    lines = [json.loads(line) for line in rows.jsonl.read_text().splitlines()]
    assert [line["row"] for line in lines] == sorted(path.stem for path in rows.rows_folder.glob("*.json"))
    for line in lines:
        content = json.loads((rows.rows_folder / f"{line['row']}.json").read_text())
        assert content.items() <= line.items()
    shutil.rmtree(rows.rows_folder)
    after = read_outcome(rows, None, records)
    for variant, cells in before.finished.items():
        assert cells.keys() == after.finished[variant].keys()
        for cell, row in cells.items():
            pd.testing.assert_frame_equal(row.predictions, after.finished[variant][cell].predictions, check_exact=True)


def test_the_same_rows_give_the_same_files(rows: Table, tmp_path: Path) -> None:
    one = elsewhere(rows, tmp_path / "one", "none-s0-*")
    two = elsewhere(rows, tmp_path / "two", "spatial-*", "none-s1-*", "none-s0-fold1*")
    pack(one)
    pack(two)
    shutil.rmtree(two.rows_folder)
    pack(rows)
    assert pack(one, [two.path.parent]) == "made/table: 5 rows; 3 new, 0 made again, 0 dropped"
    assert pack(two, [one.rows_folder]) == "made/table: 5 rows; 1 new, 0 made again, 0 dropped"
    assert packed(one) == packed(two) == packed(rows)
    stamps = [path.stat().st_mtime_ns for path in (rows.parquet, rows.jsonl)]
    pack(rows, [one.path.parent])
    assert stamps == [path.stat().st_mtime_ns for path in (rows.parquet, rows.jsonl)]


def test_of_a_row_that_was_made_twice_the_later_stays(rows: Table, fabricate: Fabricate, tmp_path: Path) -> None:
    name = "none-s0-fold0"
    other = elsewhere(rows, tmp_path / "other", f"{name}*")
    fabricate("none", 0, "fold0", skill=3.0)
    for times in ((None, None), (None, "2026-11-02"), ("2026-11-03", "2026-11-02"), ("2026-11-03", "2026-11-04")):
        for one, time in zip((rows, other), times, strict=True):
            path = one.rows_folder / f"{name}.json"
            content = {k: v for k, v in json.loads(path.read_text()).items() if k != "finished"}
            write_json(path, content | ({"finished": time} if time else {}))
            for file in (one.parquet, one.jsonl):
                file.unlink(missing_ok=True)
        alone = [read_rows(one)[name].predictions["held_out"] for one in (rows, other)]
        assert not alone[0].equals(alone[1])
        both = [read_rows(rows, [other.path.parent]), read_rows(other, [rows.path.parent])]
        kept = [found[name] for found in both]
        assert kept[0].line == kept[1].line
        if any(times):
            assert kept[0].predictions["held_out"].equals(alone[times[1] == max(filter(None, times))])
        pack(other)
        assert "5 rows; 4 new" in pack(other, [rows.path.parent])
        pack(rows, [other.path.parent])
        assert packed(rows) == packed(other)


def test_git_merges_the_lines_and_packing_the_rest(rows: Table, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    one = elsewhere(rows, root, "none-s0-fold0*", "none-s1-*")
    shutil.copy(BENCHMARKS / ".gitattributes", root)

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout

    def commit() -> None:
        pack(one)
        git("add", "made/table.parquet", "made/table.jsonl", ".gitattributes")
        git("commit", "-m", "rows")

    git("init", "--initial-branch=ours")
    commit()
    git("checkout", "-b", "theirs")
    for file in rows.rows_folder.glob("spatial-s0-fold1*"):
        shutil.copy(file, one.rows_folder)
    commit()
    git("checkout", "ours")
    shutil.rmtree(one.rows_folder)
    one.rows_folder.mkdir()
    for file in rows.rows_folder.glob("spatial-s0-fold0*"):
        shutil.copy(file, one.rows_folder)
    commit()
    assert "CONFLICT (content): Merge conflict in made/table.parquet" in git("merge", "theirs")
    assert git("diff", "--name-only", "--diff-filter=U") == "made/table.parquet\n"
    shutil.rmtree(one.rows_folder)
    assert finished(one) == {"none-s0-fold0", "none-s1-fold0", "spatial-s0-fold0", "spatial-s0-fold1"}
    with pytest.raises(PesiError, match=r"has spatial-s0-fold1, table\.parquet lacks its predictions"):
        read_rows(one)
    git("worktree", "add", "theirs", "MERGE_HEAD")
    pack(one, [root / "theirs" / "made"])
    expected = elsewhere(rows, tmp_path / "expected", "none-s0-fold0*", "none-s1-*", "spatial-s0-*")
    pack(expected)
    assert packed(one) == packed(expected)


def test_a_dropped_row_is_made_anew(rows: Table) -> None:
    pack(rows)
    assert pack(rows, drop=["none-s0-*"]) == "made/table: 3 rows; 0 new, 0 made again, 2 dropped"
    assert finished(rows) == {"none-s1-fold0", "spatial-s0-fold0", "spatial-s0-fold1"}
    assert not list(rows.rows_folder.glob("none-s0-*"))
    assert len(read_rows(rows)) == 3
    pack(rows, drop=["*"])
    assert not rows.parquet.exists()
    assert not rows.jsonl.exists()
    assert finished(rows) == set()


def test_what_cannot_be_packed_is_told(rows: Table, tmp_path: Path) -> None:
    pack(rows)
    sound = rows.jsonl.read_text()
    rows.jsonl.write_text("<<<<<<< ours\n" + sound)
    with pytest.raises(PesiError, match=r"table\.jsonl, line 1 is no row"):
        pack(rows)
    rows.jsonl.write_text(sound)
    rows.parquet.write_bytes(b"PAR1")
    with pytest.raises(PesiError, match=r"table\.parquet cannot be read"):
        pack(rows)
    rows.parquet.unlink()
    pack(rows)  # from the rows' own files
    own = rows.rows_folder / "none-s0-fold0.json"
    content = json.loads(own.read_text())
    write_json(own, content | {"table": "made/other"})
    with pytest.raises(PesiError, match="none-s0-fold0 is of made/other, not of made/table"):
        pack(rows)
    write_json(own, content | {"row": "none-s0-fold1"})
    with pytest.raises(PesiError, match=r"it is of row none-s0-fold1"):
        pack(rows)
    own.unlink()
    other = pd.read_csv(rows.rows_folder / "spatial-s0-fold0.csv").rename(columns={"nevus": "mole"})
    other.to_csv(rows.rows_folder / "spatial-s0-fold0.csv", index=False)
    for path in (rows.parquet, rows.jsonl):
        path.unlink()
    with pytest.raises(PesiError, match="rows predict different classes"):
        pack(rows)


def test_the_packed_rows_of_the_project_are_whole_and_packed_anew_the_same(tmp_path: Path) -> None:
    tables = [load_table(path.with_suffix(".toml")) for path in sorted(BENCHMARKS.glob("*/*.jsonl"))]
    assert sum(len(read_rows(table)) for table in tables) >= 108
    table = next(table for table in tables if table.name == "isic2017/larger")
    again = table.model_copy(update={"path": tmp_path / f"{table.name}.toml"})
    pack(again, [table.path.parent])
    assert again.jsonl.read_bytes() == table.jsonl.read_bytes()
    assert pq.read_table(again.parquet).equals(pq.read_table(table.parquet))
    if pq.ParquetFile(table.parquet).metadata.created_by == pq.ParquetFile(again.parquet).metadata.created_by:
        assert again.parquet.read_bytes() == table.parquet.read_bytes()
