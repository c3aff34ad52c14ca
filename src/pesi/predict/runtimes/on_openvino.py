"""The runtime `openvino`: graphs on processors, by Intel's library (Apache-2.0)."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pesi.machine import stream_count, thread_count

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = ("float32", "bfloat16", "int8")
# Depthwise convolutions lose most and, one number a multiplication, gain nothing; the rest is the attention and sums.
_NOT_QUANTISED = (
    *("GroupConvolution", "Add", "Multiply", "Subtract", "Divide", "Exp", "ReduceMax", "ReduceSum", "ReduceMean"),
    *("Softmax", "ReduceLogSumExp", "MatMul", "Pad", "Transpose"),
)
_CALIBRATION = 8  # pictures a pass
_IMPORTING = threading.Lock()


def version() -> str:
    """Of the library; PackageNotFoundError (an ImportError) where it is not installed."""
    return installed_version("openvino")


def convert(module: nn.Module, size: int, stem: Path) -> list[Path]:
    """See `session.Backend`."""
    import torch
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        # torch.jit is deprecated; torch.export, which it points to, takes many times as long for these networks.
        warnings.simplefilter("ignore")
        example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
        traced = torch.jit.trace(module, (example,), check_trace=False)  # type: ignore[no-untyped-call]
        # The parts of `openvino.convert_model`, which would tell its maker that it was called.
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced, example_input=example)  # must live as long as what is loaded
        model = frontend.convert(frontend.load(decoder))
    model.reshape([-1, size, size, 3])
    apply_moc_transformations(model, cf=False)  # batch norms become part of the convolutions
    file = stem.with_name(f"{stem.name}.xml")
    _library().save_model(model, file, compress_to_fp16=False)
    return [file, file.with_suffix(".bin")]


def quantise(files: list[Path], pictures: NDArray[np.uint8]) -> None:
    """See `session.Backend`."""
    os.environ.setdefault("NNCF_CI", "1")  # else it tells its maker that it was called
    import nncf

    ov = _library()
    logging.getLogger("nncf").setLevel(logging.ERROR)
    passes = [pictures[start : start + _CALIBRATION] for start in range(0, len(pictures), _CALIBRATION)]
    with redirect_stdout(sys.stderr if sys.stderr.isatty() else io.StringIO()):  # its progress bars
        quantised = nncf.quantize(
            ov.Core().read_model(files[0]),
            nncf.Dataset(passes),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(passes),
            ignored_scope=nncf.IgnoredScope(types=list(_NOT_QUANTISED), validate=False),
            # By default half the range, for processors whose sums of int8 overflow 16 bits: these gain nothing anyway.
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE),
        )
    file = files[0].with_name(f"{files[0].stem}-int8.xml")  # the others' bytes are still mapped
    ov.save_model(quantised, file, compress_to_fp16=False)
    for made, replaced in zip((file, file.with_suffix(".bin")), files, strict=True):
        made.replace(replaced)


def compile(file: Path, *, precision: str) -> tuple[Any, bytes]:
    """See `session.Backend`."""
    ov = _library()
    compiled = ov.Core().compile_model(file, "CPU", _settings(precision))
    return compiled, compiled.export_model().getvalue()


def restore(data: memoryview, *, precision: str) -> Any:
    """See `session.Backend`."""
    ov = _library()
    return ov.Core().import_model(ov.Tensor(np.frombuffer(data, np.uint8)), "CPU", _settings(precision))


def runner(compiled: Any) -> Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]:
    """See `session.Backend`."""
    own = threading.local()  # a request serves one call at a time

    def run(pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        request = getattr(own, "request", None)
        if request is None:
            request = own.request = compiled.create_infer_request()
        found = request.infer([pictures], share_inputs=True)
        return [np.asarray(each, np.float32) for each in found.values()]

    return run


def _library() -> Any:
    """`openvino` without its converter's command line, whose import takes longer than all the rest of it."""
    with _IMPORTING:
        left_out = "openvino" not in sys.modules and "openvino.tools.ovc" not in sys.modules
        if left_out:
            sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            if left_out:
                del sys.modules["openvino.tools.ovc"]
    return openvino


def _hint(precision: str) -> str:
    """In what is computed what is not int8."""
    if precision == "int8":
        return "bf16" if "BF16" in _library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    return "bf16" if precision == "bfloat16" else "f32"


def _settings(precision: str) -> dict[str, Any]:
    # Without the hint, processors that have bfloat16 would compute in it. Calls beyond the streams wait for others,
    # so that a process never runs more than its threads; unpinned, for other programs may run beside.
    return {
        "INFERENCE_PRECISION_HINT": _hint(precision),
        "INFERENCE_NUM_THREADS": thread_count(),
        "NUM_STREAMS": stream_count(),
        "ENABLE_CPU_PINNING": False,
    }
