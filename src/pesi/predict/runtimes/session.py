"""What a runtime runs and gives: a program, from pictures to named arrays, and a session that is ready to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, NDArray[np.float32]]

# Pictures a pass on a CPU, by PyTorch and by a graph. More is no faster, and needs buffers that are mapped anew in
# every layer, which can cost more than the arithmetic.
CPU_PICTURES, GRAPH_PICTURES = 8, 4


@dataclass(frozen=True, eq=False)
class Program:
    """What is to be run: square pictures (N, S, S, 3), uint8 sRGB, to named float32 arrays whose first axis is N.

    Attributes:
        name: What it is, in words.
        key: Digest of all that its numbers rest on: weights, architecture, preprocessing.
        size: S, pixels.
        module: Makes the network: uint8 (N, S, S, 3) -> a tuple of tensors, whose names are its attribute `names`.
        probabilities: Of its outputs, to tell by how much another runtime changes them; (N, ...).
        exported: Whether `pesi export` makes a graph of it; others are run in float32 where int8 is wanted.
    """

    name: str
    key: str
    size: int
    module: Callable[[], nn.Module]
    probabilities: Callable[[Arrays], NDArray[np.floating]]
    exported: bool = False


class Session(Protocol):
    """A program that is ready to run. Several threads may call it."""

    runtime: str
    precision: str
    measured: Mapping[str, Any]  # against eager float32, when it was built

    def run(self, pictures: NDArray[np.uint8]) -> Arrays:
        """Pictures (N, S, S, 3) -> the program's outputs."""
        ...


class Backend(Protocol):
    """A library that runs graphs, as a module of this room: `on_openvino`, `on_onnx`."""

    PRECISIONS: tuple[str, ...]

    def version(self) -> str:
        """Of the library; ImportError where it is not installed."""
        ...

    def convert(self, module: nn.Module, size: int, stem: Any) -> list[Any]:
        """Write a module as the library's graph beside `stem`, and give the files, the first to be named to `compile`.

        Args:
            module: See `Program.module`.
            size: Side of its pictures.
            stem: Path of the files, without their endings.
        """
        ...

    def quantise(self, files: list[Any], pictures: NDArray[np.uint8]) -> None:
        """Replace a graph's files by one whose convolutions compute in int8 (post-training quantisation).

        Depthwise convolutions and the attention, which lose accuracy and gain no time, stay as they are.

        Args:
            files: As `convert` gave them.
            pictures: That tell what numbers occur, (N, S, S, 3).
        """
        ...

    def compile(self, file: Any, *, precision: str) -> tuple[Any, bytes]:
        """Make a graph ready for this machine: what runs it, and the same as bytes for `restore`."""
        ...

    def restore(self, data: memoryview, *, precision: str) -> Any:
        """What runs a graph, from `compile`'s bytes."""
        ...

    def runner(self, compiled: Any) -> Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]:
        """Pictures (N, S, S, 3), N at least 1 -> the outputs in their order; called by several threads."""
        ...


class GraphSession:
    """A graph of a library that knows nothing of torch.

    Args:
        run: The backend's `runner`.
        header: What is known of the graph: names, shapes, runtime, precision, what was measured.
    """

    def __init__(
        self, run: Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]], header: Mapping[str, Any]
    ) -> None:
        self._run = run
        self._outputs: dict[str, list[int]] = header["outputs"]  # name -> shape without the first axis
        self.runtime, self.precision, self.measured = header["runtime"], header["precision"], header["measured"]

    def run(self, pictures: NDArray[np.uint8]) -> Arrays:
        """Pictures (N, S, S, 3) -> the program's outputs."""
        if not len(pictures):
            return {name: np.zeros((0, *shape), np.float32) for name, shape in self._outputs.items()}
        starts = range(0, len(pictures), GRAPH_PICTURES)
        passes = [self._run(np.ascontiguousarray(pictures[start : start + GRAPH_PICTURES])) for start in starts]
        return {
            name: np.concatenate(parts) if len(parts) > 1 else parts[0]
            for name, parts in zip(self._outputs, zip(*passes, strict=True), strict=True)
        }
