"""The runtime `openvino`: graphs on processors, by Intel's library (Apache-2.0)."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pesi.machine import thread_count

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = ("float32", "bfloat16")
_IMPORTING = threading.Lock()


def version() -> str:
    """Of the library; PackageNotFoundError (an ImportError) where it is not installed."""
    return installed_version("openvino")


def convert(module: nn.Module, size: int, stem: Path) -> list[Path]:
    """See `session.Backend`."""
    import torch
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
    file = stem.with_name(f"{stem.name}.xml")
    _library().save_model(model, file, compress_to_fp16=False)
    return [file, file.with_suffix(".bin")]


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


def _settings(precision: str) -> dict[str, Any]:
    # Without the hint, processors that have bfloat16 would compute in it. One stream: calls of several threads wait
    # for one another, so that a process never runs more than its threads; unpinned, for other programs may run beside.
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": thread_count(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
