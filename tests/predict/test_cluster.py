"""Rows by a Ray cluster on this machine: those of this process, each once, though processes are killed meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray  # noqa: F401 - brings psutil
from typer.testing import CliRunner

from pesi.cli.app import app
from pesi.errors import PesiError
from pesi.predict import cluster
from pesi.predict.cluster import Question, cluster_rows, packed_bundle

OPTIONS = {"views": "single", "gates": False, "batch_size": 2}


@pytest.fixture
def deadly(spots, monkeypatch) -> Iterator[tuple[str, Counter[str]]]:
    """A store on the loopback whose `once` image kills who asks for it first, and whose `always` image everyone.

    Gives its address, and how often each image was asked for.
    """
    data, asked = Path(spots["path"].iloc[0]).read_bytes(), Counter[str]()

    class Store(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").removesuffix(".png")
            asked[name] += 1
            if name == "always" or (name == "once" and asked[name] == 1):
                os.kill(asking(self.client_address[1]), signal.SIGKILL)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    def asking(port: int) -> int:
        """The actor's process that has this port."""
        import psutil

        for process in psutil.Process().children(recursive=True):
            if any(each.laddr.port == port for each in process.net_connections("tcp")):
                return process.pid
        raise AssertionError("Nobody below this process asked.")

    monkeypatch.setattr(cluster, "_TRIES", 1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.slow  # processes that import everything, several times
def test_each_image_has_one_row_though_actors_are_killed(deadly, classifier, spots) -> None:
    address, asked = deadly
    names = [f"{address}/{name}.png" for name in ("a", "once", "b", "always", "c", "d")]
    names += [*spots["path"].iloc[:4], "/nowhere/e.png"]
    images = [(number, name, f"i{number}") for number, name in enumerate(names)]
    question = Question((packed_bundle(classifier.folder),), OPTIONS, "cpu")
    rows = list(cluster_rows("local", question, images, block=2))
    assert sorted(number for number, _ in rows) == list(range(len(names)))
    found = dict(rows)
    assert {number for number, row in found.items() if "refused" in row} == {3, 10}
    assert "each process that it was given to" in found[3]["refused"]
    assert asked["once"] >= 2  # the first who asked was killed in the midst of it
    assert asked["always"] >= 2  # among others, and alone
    for number, row in found.items():
        assert row["image"] == f"i{number}"
        if "refused" not in row:
            path = names[number] if number > 5 else spots["path"].iloc[0]
            expected = classifier.predict(path, views="single", gates=False)
            assert row["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-5)


@pytest.mark.slow  # a cluster
def test_the_command_writes_what_it_writes_without_a_cluster(tiny_run, spots, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"path": [*spots["path"].iloc[:5], "broken.png"]}).to_parquet("list.parquet")
    Path("broken.png").write_text("no picture")
    common = ["predict", "list.parquet", "--bundle", str(tiny_run / "bundle"), "--no-gates"]
    for options in (["--ray", "local", "--out", "there.parquet"], ["--out", "here.parquet"]):
        result = CliRunner().invoke(app, [*common, *options])
        assert result.exit_code == 1, result.output  # one is refused
    there, here = (pd.read_parquet(name) for name in ("there.parquet", "here.parquet"))
    assert here["no_result"].str.contains("cannot be read").sum() == 1
    pd.testing.assert_frame_equal(there, here, rtol=1e-5)
    assert not Path("there.parquet.journal").exists()


def test_a_bundle_that_cannot_be_opened_there_is_told() -> None:
    actor = cluster.Answers(Question(({"config.json": b"{}"},), OPTIONS, "cpu", version="0.0"))
    (row,) = actor({name: np.array(["x"]) for name in ("number", "source", "id")})["row"]
    assert "0.0 asks" in row


def test_without_ray_it_is_said_how_to_install_it(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(cluster, "import_module", missing)
    with pytest.raises(PesiError, match=r"pesi-cnn\[ray\]"):
        next(cluster_rows("local", Question((), {}, None), [(0, "a.png", "a")]))
