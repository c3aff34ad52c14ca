"""The measurement of speed: what it times is what it says, and its table and page hold together."""

from __future__ import annotations

import csv
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.conftest import BENCHMARKS
from pesi.errors import PesiError

sys.path.insert(0, str(BENCHMARKS / "speed"))

import machine
import paired
import report
import subjects
from paired import Figure, Subject


@pytest.mark.slow
def test_the_quick_form_measures_tiny_networks(tiny_run, tmp_path) -> None:
    out = tmp_path / "measured.csv"
    command = [sys.executable, BENCHMARKS / "speed" / "measure.py", "--quick", "--threads", 1, "--out", out]
    command += ["--networks", "pesi14", "--bundle", tiny_run / "bundle", "--sections", "limits", "single", "decode"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = paired.read_table(out)
    assert {figure.section for figure in figures} == {"limits", "single", "single attention", "decode"}
    assert all(figure.instructions == machine.instructions() and figure.low <= figure.high for figure in figures)
    single = {figure.subject: figure for figure in figures if figure.section == "single"}
    assert {subject.form for subject in single if subject.what == "pesi14"} == {"none", "spatial", "naive"}
    eager = Subject("pesi14", "none", "eager", "float32")
    assert single[eager].ratio == 1
    assert 0 < (single[eager].limit or 0) < 1  # no network is faster than the matrix products that it is made of
    page = report.tables(figures, 0.04)["single"]
    assert page.count("| pesi14 |") == len([one for one in single if one.what == "pesi14"])


def test_a_busy_machine_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0 * (os.cpu_count() or 1), 0.0, 0.0))
    with pytest.raises(PesiError, match=r"busy: a load of 2\.00"):
        machine.check_idle(anyway=False)
    assert machine.check_idle(anyway=True) == 2


def test_the_operations_are_those_that_are_published(tmp_path) -> None:
    """ResNet-50 at 224 px: 4.09 billion multiplications and additions (torchvision's page), two operations each."""
    from pesi.predict.loading import load

    classifier = load(subjects.bundle_of("pesi50", "none", tmp_path / "bundle"), device="cpu")
    assert subjects.operations(classifier) == pytest.approx(2 * 4.09e9, rel=0.01)


def test_the_naive_block_gives_what_ours_gives() -> None:
    torch.manual_seed(0)
    network, x = subjects.made("pesi14", "spatial").eval(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network(x)
        assert not torch.equal(expected, torch.zeros_like(expected))
        torch.testing.assert_close(subjects.naively(network)(x), expected, rtol=1e-4, atol=1e-5)


def test_works_alternate_and_their_ratios_are_of_the_same_rounds() -> None:
    clock, order = itertools.count(1), []

    def work(name: str, factor: float):
        def run() -> float:
            order.append(name)
            return factor * round_of(next(clock))

        return run

    def round_of(call: int) -> float:
        return float((call + 1) // 2)  # the machine becomes slower with each round

    fast, slow = Subject("fast"), Subject("slow")
    found = paired.alternating({fast: work("fast", 1), slow: work("slow", 3)}, 4)
    assert order == ["fast", "slow", "slow", "fast", "fast", "slow", "slow", "fast"]
    figures = {one.what: one for one in paired.figures("x", "images/s", found, lambda subject: slow, 6)}
    assert (figures["fast"].ratio, figures["fast"].ratio_low, figures["fast"].ratio_high) == (3, 3, 3)
    rates = [6 / value for value in found[fast]]
    assert figures["fast"].value == pytest.approx(np.median(rates))
    assert (figures["fast"].low, figures["fast"].high) == pytest.approx(tuple(np.quantile(rates, (0.25, 0.75))))


def test_a_process_is_seen_as_the_system_sees_it(tmp_path) -> None:
    busy = "import time\nx = bytearray(200_000_000)\nwhile time.process_time() < 0.7: pass"
    found = paired.process(["-c", busy])
    assert found.processor >= 0.7
    assert found.seconds >= 0.7
    assert 200e6 < found.memory < 400e6
    with pytest.raises(PesiError, match="ended with 3"):
        paired.process(["-c", "raise SystemExit(3)"])


def test_the_table_keeps_other_sections_and_reads_back_what_it_wrote(tmp_path) -> None:
    table = tmp_path / "measured.csv"
    old, kept = (Figure(name, "a", "", "eager", "float32", 1, "s", 0.5, 0.25, 1.0) for name in ("again", "kept"))
    paired.write_table(table, [old, kept])
    new = Figure("again", "b, c", "", "", "", 2, "s", 1.5, 1.0, 2.0, 5, "a", 2.0, 1.0, 3.0, 0.125, 1, 0.5, "p", "i")
    paired.write_table(table, [new])
    assert paired.read_table(table) == [kept, new]
    assert len(list(csv.DictReader(table.open()))) == 2


def test_the_images_are_photographs_in_size(tmp_path) -> None:
    paths = subjects.write_images(tmp_path, 5, drawn=2)
    assert len({path.stat().st_ino for path in paths}) == 2
    with Image.open(paths[4]) as image:
        assert (image.size, image.format) == ((1022, 767), "JPEG")
    assert 100_000 < paths[0].stat().st_size < 500_000


def test_ten_million_images_cost_what_the_largest_folder_says() -> None:
    figures = [
        Figure("folder", f"{count} files", "one member", "", "", count, unit, value, value, value)
        for count, rate in ((10, 1.0), (1000, 100.0))
        for unit, value in (("images/s", rate), ("processor s/image", 0.018), ("bytes", 1e9))
    ]
    page = report.archive(figures, price=0.1)
    assert "| one member | 100 | 27.8 h | 2.78 h | 0.278 h | 50 | 5 |" in page


def test_the_page_is_what_the_report_writes() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    written = report.filled(page, report.tables(paired.read_table(paired.TABLE), 0.04))
    assert written == page
    assert page.count("<!-- speed: ") == len(report.tables([], 0.04))
