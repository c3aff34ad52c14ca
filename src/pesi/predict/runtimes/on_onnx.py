"""The runtime `onnx`: graphs on processors, by ONNX Runtime (MIT)."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pesi.machine import stream_count, thread_count

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = ("float32", "int8")  # on x86 it computes nothing in bfloat16
_CALIBRATION = 8  # pictures a pass


def version() -> str:
    """Of the library; PackageNotFoundError (an ImportError) where it is not installed."""
    return installed_version("onnxruntime")


def convert(module: nn.Module, size: int, stem: Path) -> list[Path]:
    """See `session.Backend`."""
    import torch

    file = stem.with_name(f"{stem.name}.onnx")
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    names = [f"output{index}" for index in range(len(tuple(module.names)))]  # type: ignore[arg-type]
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter by tracing: that by torch.export takes 18 s for each network where this takes 1.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            file,
            dynamo=False,
            input_names=["pictures"],
            output_names=names,
            dynamic_axes={name: {0: "pictures"} for name in ("pictures", *names)},
            opset_version=17,
        )
    return [file]


def quantise(files: list[Path], pictures: NDArray[np.uint8]) -> None:
    """See `session.Backend`."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(range(0, len(pictures), _CALIBRATION))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            start = next(self._left, None)
            return None if start is None else {"pictures": pictures[start : start + _CALIBRATION]}

    (file,) = files
    graph = onnx.load(file).graph
    grouped = [node.name for node in graph.node if any(each.name == "group" and each.i > 1 for each in node.attribute)]
    quantised = file.with_name(f"{file.stem}-int8.onnx")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises what does not matter here: a line for each convolution
    try:
        quantize_static(
            file,
            quantised,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=grouped,  # depthwise
        )
    finally:
        root.setLevel(level)
    quantised.replace(file)


def compile(file: Path, *, precision: str) -> tuple[Any, bytes]:
    """See `session.Backend`."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "optimised.onnx"
        options = _options()
        options.optimized_model_filepath = str(kept)
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return session, kept.read_bytes()


def restore(data: memoryview, *, precision: str) -> Any:
    """See `session.Backend`."""
    import onnxruntime as ort

    options = _options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was, when it was written
    return ort.InferenceSession(bytes(data), options, providers=["CPUExecutionProvider"])


def runner(compiled: Any) -> Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]:
    """See `session.Backend`."""

    def run(pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return [np.asarray(each, np.float32) for each in compiled.run(None, {"pictures": pictures})]

    return run


def _options() -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = thread_count() // stream_count(), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other programs may want the core
    options.log_severity_level = 3  # errors: a graph that is fit for this processor alone is what is wanted
    return options
