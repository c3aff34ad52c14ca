"""The journal loses no row that was kept, whenever it is cut, and never mixes rows of two kinds."""

from __future__ import annotations

import resource

import pytest

from pesi.errors import DataError, StorageError
from pesi.predict.journal import Journal

MADE_FROM = {"bundle": "a@1", "images": "3 (abc)"}
ROWS = [{"image": "é\u2028\udcff", "p": 0.1}, {"image": "b", "p": 1 / 3}, {"image": "c", "p": 5e-324}]


def filled(path, rows=ROWS):
    with Journal(path, MADE_FROM) as journal:
        for number, row in enumerate(rows):
            journal.add(number, row)
    return path.read_bytes()


@pytest.mark.parametrize("named", [True, False])
def test_rows_come_back_as_they_were_in_any_order(tmp_path, named):
    with Journal(tmp_path / "j" if named else None, MADE_FROM) as journal:
        for number in (2, 0):
            journal.add(number, ROWS[number])
        assert list(journal.rows()) == [(0, ROWS[0]), (2, ROWS[2])]
        assert journal.missing(4) == [1, 3]
        journal.add(1, ROWS[1])
        assert list(journal.rows([2, 1])) == [(2, ROWS[2]), (1, ROWS[1])]
        assert len(journal) == 3
        journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_cut_at_any_byte_only_the_torn_row_is_lost(tmp_path):
    path = tmp_path / "j"
    whole = filled(path)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = max(0, whole[:cut].count(b"\n") - 1)
        with Journal(path, MADE_FROM, resume=True) as journal:
            assert list(journal.rows()) == list(enumerate(ROWS[:kept]))
            for number in journal.missing(3):
                journal.add(number, ROWS[number])
            assert list(journal.rows()) == list(enumerate(ROWS))
        assert path.read_bytes() == whole


def test_rows_are_in_the_file_as_soon_as_they_are_added(tmp_path):
    with Journal(tmp_path / "j", MADE_FROM) as journal:
        for number, row in enumerate(ROWS):
            journal.add(number, row)
            assert (tmp_path / "j").read_bytes().count(b"\n") == number + 2


def test_rows_that_are_there_are_not_overwritten(tmp_path):
    path = tmp_path / "j"
    whole = filled(path)
    with pytest.raises(DataError, match="holds 3 predictions") as caught:
        Journal(path, MADE_FROM)
    assert "--resume" in caught.value.cure
    with pytest.raises(DataError, match="bundle a@1, now b@2"):
        Journal(path, MADE_FROM | {"bundle": "b@2"}, resume=True)
    assert path.read_bytes() == whole


def test_a_journal_without_rows_is_begun_anew(tmp_path):
    path = tmp_path / "j"
    filled(path, [])
    with Journal(path, MADE_FROM | {"bundle": "b@2"}) as journal:
        journal.add(0, ROWS[0])
    assert b"b@2" in path.read_bytes()


@pytest.mark.parametrize("foreign", [b"a,b\n1,2\n", b"{}\n", b'{"a": 1}', b"\xff\xfe", b"\n", b"[]\n"])
def test_another_kind_of_file_is_left_alone(tmp_path, foreign):
    (tmp_path / "j").write_bytes(foreign)
    for resume in (False, True):
        with pytest.raises(DataError, match="no journal"):
            Journal(tmp_path / "j", MADE_FROM, resume=resume)
    assert (tmp_path / "j").read_bytes() == foreign


def test_images_that_could_not_be_read_are_tried_again(tmp_path):
    filled(tmp_path / "j", [ROWS[0], {"image": "b", "refused": "torn"}, ROWS[2]])
    with Journal(tmp_path / "j", MADE_FROM, resume=True) as journal:
        assert journal.missing(3) == [1]
        journal.add(1, ROWS[1])
        assert list(journal.rows()) == list(enumerate(ROWS))
    with Journal(tmp_path / "j", MADE_FROM, resume=True) as journal:
        assert journal.missing(3) == []
        assert list(journal.rows()) == list(enumerate(ROWS))


def test_two_cannot_write_one(tmp_path):
    with Journal(tmp_path / "j", MADE_FROM) as journal:
        journal.add(0, ROWS[0])
        with pytest.raises(DataError, match="Another process"):
            Journal(tmp_path / "j", MADE_FROM, resume=True)


def test_what_was_written_before_the_disk_was_full_stays(tmp_path):
    """The system's own limit of a file's size stands for the disk: the row on which it falls is written in part."""
    path = tmp_path / "j"
    size = len(filled(path))
    path.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 5, before[1]))
    try:
        with pytest.raises(StorageError, match=r"Could not write .*j: ") as caught:
            filled(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "--resume" in caught.value.cure
    assert path.stat().st_size == size - 5
    with Journal(path, MADE_FROM, resume=True) as journal:
        assert list(journal.rows()) == list(enumerate(ROWS[:2]))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "j", tmp_path / ("n" * 300)):
        with pytest.raises(StorageError, match="Could not write"):
            Journal(path, MADE_FROM)
