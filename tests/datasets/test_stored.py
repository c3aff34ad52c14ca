"""Lists of images, and images in object storage: fsspec's own memory store and pyarrow stand for the real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from pesi.datasets.inputs import image_files, image_ids
from pesi.datasets.stored import StoredImage, is_address, listed_images, opened_later
from pesi.errors import DataError, ImageError


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """A store with two images, in a folder each, and what is no image."""
    memory = fsspec.filesystem("memory")
    for name in ("/archive/b/mole.jpg", "/archive/a/mole.jpg", "/archive/a/notes.txt", "/archive/.thumbs/small.jpg"):
        memory.pipe(name, name.encode())
    yield memory
    memory.rm("/archive", recursive=True)


def test_a_folder_of_a_store_gives_its_images_by_address(store) -> None:
    names, ids = listed_images(["memory://archive"])
    assert names == ["memory:///archive/a/mole.jpg", "memory:///archive/b/mole.jpg"]
    assert ids == ["a_mole", "b_mole"]  # as two of one name are told apart in folders
    assert [opened_later(name).read() for name in names] == [b"/archive/a/mole.jpg", b"/archive/b/mole.jpg"]
    assert listed_images(["memory://archive/a/mole.jpg"]) == (["memory://archive/a/mole.jpg"], ["mole"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_list_names_files_beside_it_and_addresses(tmp_path, kind) -> None:
    (tmp_path / "b.jpg").write_bytes(b"b")
    table = pd.DataFrame({"image_id": ["x", "y", "z"], "path": ["b.jpg", "/elsewhere/c.jpg", "s3://bucket/d.jpg"]})
    path = tmp_path / f"list.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    names, ids = listed_images([str(path), str(tmp_path / "b.jpg")])  # once, though named twice
    assert names == [str(tmp_path / "b.jpg"), "/elsewhere/c.jpg", "s3://bucket/d.jpg"]
    assert ids == ["b", "c", "d"]


def test_a_list_in_a_store_is_relative_to_its_folder(store) -> None:
    with fsspec.open("memory://archive/list.parquet", "wb") as file:
        pd.DataFrame({"url": ["a/mole.jpg"]}).to_parquet(file)
    assert listed_images(["memory://archive/list.parquet"])[0] == ["memory://archive/a/mole.jpg"]


def test_files_and_folders_are_what_they_were(spots) -> None:
    folder = Path(spots["path"].iloc[0]).parent
    files = image_files([folder])
    assert listed_images([str(folder)]) == ([str(path) for path in files], image_ids(files))


def test_an_image_that_a_store_does_not_have_is_refused(store) -> None:
    with pytest.raises(ImageError, match=r"memory://archive/gone\.jpg cannot be read"):
        StoredImage("memory://archive/gone.jpg").read()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nosuchstore://bucket", "cannot be reached"),
        ("memory://nothing-here/", "nothing-here"),
        ("gone.csv", "gone.csv"),
        ("gone.parquet", "cannot be read"),
    ],
)
def test_what_is_not_there_is_told(given, said) -> None:
    with pytest.raises((DataError, ImageError), match=said):
        _ = [StoredImage(name).read() for name in listed_images([given])[0]]


@pytest.mark.parametrize(
    ("row", "said"), [({"path": ["a.jpg", None]}, "row 2"), ({"name": ["a.jpg"]}, "no column path")]
)
def test_a_list_that_names_no_file_is_told(tmp_path, row, said) -> None:
    pd.DataFrame(row).to_parquet(tmp_path / "list.parquet")
    with pytest.raises(DataError, match=said):
        listed_images([str(tmp_path / "list.parquet")])


def test_a_drive_is_no_address() -> None:
    assert [is_address(text) for text in ("s3://b/k", "abfs://c@a/k", "c://x.jpg", "a.jpg", "/a://b")] == [
        *(True, True, False, False, False)
    ]


def test_one_image_by_its_address_is_answered_as_its_file(classifier, spots, tmp_path) -> None:
    path = Path(spots["path"].iloc[0])
    data = path.read_bytes()
    found = classifier.predict(StoredImage(path.as_uri()))
    assert found.path == path.as_uri()
    assert found.probabilities == classifier.predict(path).probabilities
    assert hashlib.sha256(StoredImage(path.as_uri()).read()).digest() == hashlib.sha256(data).digest()
