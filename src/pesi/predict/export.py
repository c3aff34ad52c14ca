"""A bundle's networks as graphs of another library, beside the bundle, with what that changes of its answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.errors import PesiError, StorageError
from pesi.files import write_json
from pesi.images.views import VIEWS, cut_views
from pesi.predict.classifier import Classifier
from pesi.predict.members import groups_alike
from pesi.predict.runtimes.exports import RECORD, ExportRecord, GraphRecord, name_of
from pesi.predict.runtimes.runtime import backend, drawn_pictures, measured, output_shapes
from pesi.predict.runtimes.session import GraphSession
from pesi.version import __version__

FEWEST = 32  # images that tell what numbers occur


def export_graphs(
    classifier: Classifier,
    runtime: str,
    precision: str,
    folder: Path,
    *,
    squares: Sequence[NDArray[np.uint8]] = (),
    on: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> ExportRecord:
    """Write a bundle's graphs into `folder/RUNTIME-PRECISION`, whole or not at all; those that were there are replaced.

    Args:
        classifier: The bundle, opened with the runtime `eager`.
        runtime: "openvino" or "onnx".
        precision: One that it has.
        folder: See `exports.export_folders`.
        squares: Of the images that tell what numbers occur, each (R, S, S, 3), and on which the graphs are compared
            with PyTorch; for float32 and bfloat16 none are needed: then that is done on drawn pictures.
        on: What these images are, in words.
        progress: Called with (graphs done, graphs in all).

    Raises:
        PesiError: int8, and too few images, or what makes the graphs is not installed.
        StorageError: The system refused to write.
    """
    if precision == "int8" and len(squares) < FEWEST:
        raise PesiError(
            f"{len(squares)} images are too few to tell what numbers occur in the networks: {FEWEST} at least.",
            "Give more of the images that trained the networks; 300 are enough.",
        )
    library, name = backend(runtime), name_of(runtime, precision)
    groups = groups_alike(classifier.members, range(len(classifier.members)))
    making = folder / f".{name}.part"
    try:
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        graphs = []
        for done, group in enumerate(groups):
            if progress:
                progress(done, len(groups))
            graphs.append(
                _graph(classifier, group, library, runtime, precision, making / f"networks-{done}", squares, on)
            )
        record = ExportRecord(
            bundle_id=classifier.config.bundle_id,
            runtime=runtime,
            precision=precision,
            made_by=f"pesi-cnn {__version__}, {runtime} {library.version()}",
            calibrated_on=on if precision == "int8" else "",
            graphs=tuple(graphs),
        )
        write_record(making, record)
        shutil.rmtree(folder / name, ignore_errors=True)
        making.rename(folder / name)
    except ImportError as error:
        extra = "int8" if runtime == "openvino" else runtime
        raise PesiError(
            f"What makes {precision} graphs for {runtime} is not installed: {error.name}.",
            f"Install it: pip install pesi-cnn[{extra}].",
        ) from error
    except OSError as error:
        problem = f"Could not write {folder / name}: {error.strerror or error}."
        raise StorageError(problem, "Choose another --out.") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    if progress:
        progress(len(groups), len(groups))
    return record


def write_record(folder: Path, record: ExportRecord) -> None:
    """Write the record of a folder of graphs."""
    write_json(folder / RECORD, record.model_dump(mode="json"))


def _graph(
    classifier: Classifier,
    group: Sequence[int],
    library: Any,
    runtime: str,
    precision: str,
    stem: Path,
    squares: Sequence[NDArray[np.uint8]],
    on: str,
) -> GraphRecord:
    """The graph of networks that see alike."""
    from pesi.predict.runtimes.on_torch import TorchSession, cpu

    program = classifier.members[group[0]].networks.program("answers", tuple(group))
    module = program.module()
    plain = TorchSession(module, cpu(), precision="float32", compiled=False)
    views, member = VIEWS[classifier.config.views], classifier.members[group[0]]
    pictures, what = drawn_pictures(program.size), "drawn"
    if len(squares):
        what = on
        # One view of each region and image: another view is another picture, but no other kind of numbers.
        seen = [square[region] for square in squares for region in member.regions]
        pictures = np.stack([cut_views(each, (views[n % len(views)],), program.size)[0] for n, each in enumerate(seen)])
    files = library.convert(module, program.size, stem)
    if precision == "int8":
        library.quantise(files, pictures)
    shapes = output_shapes(plain, program.size)
    compiled, _ = library.compile(files[0], precision=precision)
    header = {"runtime": runtime, "precision": precision, "outputs": shapes, "measured": {}}
    some = pictures[:: max(1, len(pictures) // 32)][:32]
    return GraphRecord(
        program=program.key,
        members=tuple(group),
        size=program.size,
        files={file.name: sha256(file.read_bytes()).hexdigest() for file in files},
        outputs=shapes,
        measured=measured(GraphSession(library.runner(compiled), header), plain, program, some, what),
    )
