"""Which runtime runs a bundle's networks: chosen by name, or `auto`, the fastest that is here and changes no answer."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from pesi.errors import ChoiceError, PesiError, StorageError
from pesi.machine import processor_kind
from pesi.predict.runtimes.exports import ExportedGraph, exported_graphs
from pesi.predict.runtimes.graphs import graph_path, keep_graph, kept_graph
from pesi.predict.runtimes.session import Backend, GraphSession, Program, Session
from pesi.version import __version__

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("pesi")

RUNTIMES: dict[str, str] = {
    "auto": "the fastest that is installed and changes no probability by more than 0.001",
    "eager": "PyTorch as it is; on a GPU too",
    "compile": "PyTorch's compiler: needs one for C++, and minutes at each start",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
}
PRECISIONS = ("float32", "bfloat16", "int8")
TOLERANCE = 1e-3  # the most by which `auto` may change a probability
_BUILDING = threading.Lock()  # torch traces in one thread, and what is timed must have the cores for itself
SMALLEST = 48  # pixels, of a drawn lesion

# Of the libraries for graphs the faster first; `benchmarks/speed` times them.
_GRAPHS = ("openvino", "onnx")


def backend(name: str) -> Backend:
    """The library of a runtime for graphs."""
    return cast(Backend, import_module(f"pesi.predict.runtimes.on_{name}"))


def installed(name: str) -> bool:
    """Whether a runtime's library is here."""
    if name not in _GRAPHS:
        return True
    try:
        backend(name).version()
    except ImportError:
        return False
    return True


class Runtime:
    """How a bundle's networks are run.

    Args:
        name: A key of `RUNTIMES`; None: that of the environment's PESI_RUNTIME, else "auto".
        precision: One of `PRECISIONS`; below float32 only on request.
        device: Where to compute, such as "cpu" or "cuda"; None: a GPU if there is one. Graphs run on the CPU alone.

    Raises:
        ChoiceError: No runtime or precision has that name.
        PesiError: It is not installed, has not that precision, or there is no such device.
    """

    def __init__(
        self, name: str | None = None, precision: str | None = None, *, device: str | torch.device | None = None
    ) -> None:
        name, precision = name or os.environ.get("PESI_RUNTIME") or "auto", precision or "float32"
        if name not in RUNTIMES:
            raise ChoiceError("runtime", name, RUNTIMES)
        if precision not in PRECISIONS:
            raise ChoiceError("precision", precision, PRECISIONS)
        self.name, self.precision = name, precision
        self._wanted = None if device is None else str(device)
        self._device: torch.device | None = None
        if name in ("eager", "compile") or (name == "auto" and self._wanted not in (None, "cpu")):
            _ = self.device  # a name that is none must be told at once
        self.exports: tuple[Path, ...] = ()
        self.whole_graphs: tuple[tuple[int, ...], ...] = ()  # the networks of each exported graph
        self._candidates = tuple(self._chosen())
        if not self._candidates:
            raise PesiError(
                f"The runtime {name} has no {precision} here.",
                "Graphs on the CPU have it: --runtime openvino --device cpu.",
            )

    def __repr__(self) -> str:
        return f"<Runtime {self.name}, {self.precision}>"

    @property
    def device(self) -> torch.device:
        """Where PyTorch computes, or would."""
        if self._device is None:
            from pesi.predict.device import torch_device

            self._device = torch_device(self._wanted)
        return self._device

    @property
    def runs_torch(self) -> bool:
        """Whether PyTorch will run the networks, whatever else is here."""
        return self._candidates[0] in ("eager", "compile")

    @property
    def place(self) -> str:
        """Where the networks are run, such as "cpu"."""
        return str(self.device) if self.runs_torch else "cpu"

    def on(self, device: str | torch.device | None) -> Self:
        """The same on another device."""
        found = type(self)(self.name, self.precision, device=device)
        return found.with_exports(self.exports) if self.exports else found

    def with_exports(self, folders: Sequence[Path]) -> Self:
        """The same, which takes a bundle's exported graphs where there are some.

        Args:
            folders: See `exports.export_folders`.

        Raises:
            PesiError: int8 is wanted, and there are no such graphs.
        """
        found = copy(self)
        found.exports = tuple(folders)
        if self.precision == "int8":
            found._candidates = tuple(each for each in self._candidates if exported_graphs(folders, each, "int8"))
            if not found._candidates:
                raise PesiError(
                    f"There are no int8 graphs of this bundle for the runtime {' or '.join(self._candidates)}.",
                    "Make them, from images: pesi export --precision int8 --data DIR.",
                )
        graphs = exported_graphs(folders, found._candidates[0], self.precision)
        found.whole_graphs = tuple(graph.record.members for graph in graphs)
        return found

    @property
    def without_exports(self) -> Self:
        """The same without them, in float32 where int8 was wanted."""
        return type(self)(self.name, "float32" if self.precision == "int8" else self.precision, device=self._wanted)

    def session(self, program: Program) -> Session:
        """Make a program ready to run.

        Raises:
            PesiError: The runtime cannot run it.
        """
        return next(self._opened(program))

    def _chosen(self) -> Iterator[str]:
        """The runtimes to try, in their order.

        Raises:
            PesiError: There is none.
        """
        name, precision = self.name, self.precision
        elsewhere = self._wanted not in (None, "cpu") or (self._wanted is None and self._on_gpu())
        if name in _GRAPHS:
            if not installed(name):
                what = "pesi-cnn[onnx]" if name == "onnx" else name
                raise PesiError(f"The runtime {name} is not installed.", f"Install it: pip install {what}")
            if self._wanted not in (None, "cpu"):
                raise PesiError(f"The runtime {name} computes on the CPU alone.", "Use --device cpu, or another.")
            if precision not in backend(name).PRECISIONS:
                raise PesiError(f"The runtime {name} has no {precision} here.", f"It has: {_precisions(name)}.")
            yield name
        elif name == "auto" and not elsewhere:
            yield from (each for each in _GRAPHS if installed(each) and precision in backend(each).PRECISIONS)
        if name not in _GRAPHS and precision != "int8":
            yield name if name == "compile" else "eager"

    def _on_gpu(self) -> bool:
        """Whether there is a GPU that PyTorch knows; asks it only where there may be one, for to import it is slow."""
        nvidia, amd = Path("/dev/nvidiactl"), Path("/dev/kfd")
        return ("torch" in sys.modules or sys.platform != "linux" or nvidia.exists() or amd.exists()) and (
            self.device.type != "cpu"
        )

    def _opened(self, program: Program) -> Iterator[Session]:
        for name in self._candidates:
            if name not in _GRAPHS:
                yield self._torch_session(name, program)
                continue
            try:
                session = self._graph_session(name, program)
            except PesiError:
                raise
            except Exception as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
                if len(self._candidates) == 1:
                    raise PesiError(
                        f"{name} cannot run {program.name}: {reason.rstrip('.')}.",
                        "Use --runtime eager.",
                    ) from error
                _log.warning("%s cannot run %s: %s", name, program.name, reason)
                continue
            change = session.measured["probability"]
            if self.name == "auto" and self.precision == "float32" and change > TOLERANCE:
                _log.warning("%s changes probabilities of %s by up to %.4f: left out.", name, program.name, change)
                continue
            self._say(session, program)
            yield session

    def _torch_session(self, name: str, program: Program) -> Session:
        from pesi.predict.runtimes.on_torch import TorchSession

        module = program.module()
        session = TorchSession(module, self.device, precision=self.precision, compiled=name == "compile")
        if self.precision != "float32":
            plain = TorchSession(module, self.device, precision="float32", compiled=False)
            session.measured = measured(session, plain, program)
            self._say(session, program)
        return session

    def _graph_session(self, name: str, program: Program, precision: str | None = None) -> Session:
        """From the cache, or built and put there."""
        precision = precision or self.precision
        library, path = backend(name), graph_path(program.key, name, precision)
        header: dict[str, Any] = {
            "program": program.key,
            "runtime": name,
            "precision": precision,
            "version": library.version(),
            "pesi": __version__,
            "machine": processor_kind(),
            "exported": "",
        }
        own = [each for each in exported_graphs(self.exports, name, precision) if each.record.program == program.key]
        exported = own[0] if own else None
        if exported is not None:
            header["exported"] = exported.record.digest
        elif precision == "int8":
            if program.exported:
                raise PesiError(
                    f"The int8 graphs in {self.exports[0].parent} are not of {program.name} as it is now.",
                    "Export it again: pesi export --precision int8 --data DIR.",
                )
            return self._graph_session(name, program, "float32")
        if (kept := kept_graph(path, header)) is not None:
            try:
                return GraphSession(library.runner(library.restore(kept.data, precision=precision)), kept.header)
            except Exception as error:  # whatever the library has against it, it can be built again
                _log.warning("%s cannot be opened (%s): it is built again.", path, error)
        if exported is not None:
            return opened(exported, header, path)
        with _BUILDING:
            return build(name, program, header, path)

    def _say(self, session: Session, program: Program) -> None:
        if session.precision != "float32":
            _log.info(
                "%s in %s by %s: probabilities change by up to %.4f (on %s).",
                program.name,
                session.precision,
                session.runtime,
                session.measured["probability"],
                session.measured["on"],
            )


def opened(exported: ExportedGraph, header: Mapping[str, Any], path: Path) -> Session:
    """Make an exported graph ready for this machine, and keep it.

    Raises:
        BundleError: It is damaged.
    """
    library, record = backend(header["runtime"]), exported.record
    compiled, data = library.compile(exported.checked(), precision=header["precision"])
    told = {**header, "outputs": record.outputs, "measured": record.measured}
    _keep(path, told, data)
    return GraphSession(library.runner(compiled), told)


def build(name: str, program: Program, header: Mapping[str, Any], path: Path) -> Session:
    """Make a graph of a program, compare it with PyTorch, and keep it."""
    from pesi.predict.runtimes.on_torch import TorchSession, cpu

    _log.info("building the %s graph of %s, once; it is kept in %s", name, program.name, path.parent)
    library, module, precision = backend(name), program.module(), header["precision"]
    plain = TorchSession(module, cpu(), precision="float32", compiled=False)
    with tempfile.TemporaryDirectory() as folder:
        files = library.convert(module, program.size, Path(folder) / "graph")
        compiled, data = library.compile(files[0], precision=precision)
    told = {**header, "outputs": output_shapes(plain, program.size), "measured": {}}
    session = GraphSession(library.runner(compiled), told)
    session.measured = told["measured"] = measured(session, plain, program)
    _keep(path, told, data)
    return session


def _keep(path: Path, told: Mapping[str, Any], data: bytes) -> None:
    try:
        keep_graph(path, told, data)
    except StorageError as error:
        _log.warning("the graph is not kept: %s", error.problem)


def output_shapes(session: Session, size: int) -> dict[str, list[int]]:
    """Of a session's outputs for pictures (N, size, size, 3), without the first axis."""
    return {name: list(values.shape[1:]) for name, values in session.run(drawn_pictures(size)[:1]).items()}


def measured(
    session: Session, plain: Session, program: Program, pictures: NDArray[np.uint8] | None = None, on: str = "drawn"
) -> dict[str, Any]:
    """By how much a session's outputs differ from PyTorch's, and how long each takes for one picture.

    Args:
        session, plain: What is measured, and PyTorch in float32.
        program: What both run.
        pictures: (N, S, S, 3); default: drawn lesions.
        on: What they are, in words.
    """
    if pictures is None:
        pictures = drawn_pictures(program.size)
    found, expected = session.run(pictures), plain.run(pictures)
    change = np.abs(program.probabilities(found) - program.probabilities(expected))
    return {
        "on": f"{len(pictures)} pictures: {on}",
        "probability": float(change.max()) if np.isfinite(change).all() else float("inf"),
        "outputs": {name: float(np.abs(found[name] - expected[name]).max()) for name in expected},
        "seconds": {name: _seconds(one, pictures[:1]) for name, one in (("eager", plain), (session.runtime, session))},
    }


def _seconds(session: Session, picture: NDArray[np.uint8]) -> float:
    return min(_timed(lambda: session.run(picture)) for _ in range(3))


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return round(time.perf_counter() - began, 5)


def drawn_pictures(size: int) -> NDArray[np.uint8]:
    """Drawn lesions of every kind, (6, size, size, 3)."""
    from pesi.synthetic import draw_lesion  # slow to import

    rng, side = np.random.default_rng(0), max(size, SMALLEST)
    drawn = [draw_lesion(rng, diagnosis, size=side).image[:size, :size] for diagnosis in ("MEL", "NV", "SK") * 2]
    return np.stack(drawn)


def _precisions(name: str) -> str:
    return ", ".join(backend(name).PRECISIONS)
