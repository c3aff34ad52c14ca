"""What is timed: networks as bundles, in each form of the attention and each runtime; training steps; images."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from paired import Subject
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pesi.bundle.config import BundleConfig, MemberConfig, NetworkConfig, PreprocessConfig, TaskConfig
from pesi.errors import PesiError
from pesi.images.decode import decode_image
from pesi.images.transforms import fit_square
from pesi.machine import thread_count, tune_streams, tune_threads
from pesi.nn.block import AttendingBlock
from pesi.nn.cnn import PesiCNN
from pesi.nn.models import create_model
from pesi.predict.classifier import Classifier
from pesi.predict.loading import load
from pesi.predict.segmenter import shipped_segmenter
from pesi.synthetic.image import draw_parameters, render

# "none" is the plain network: a ResNet-50 where that of pesi50 is asked for, an EfficientNet-Lite0 of pesi_lite0.
FORMS = ("none", "spatial", "naive")
SIDES = {"pesi_lite0": 192, "pesi18": 224, "pesi50": 224}  # pixels of the input; others: `TINY_SIDE`
TINY_SIDE = 64
WIDTH, HEIGHT = 1022, 767  # of ISIC 2017's most frequent size
MEMBER, WHOLE = "one member", "all members"


EAGER = ("eager", "float32")
_TOGETHER = 4  # images
_RUNTIMES = "pesi.predict.runtimes.runtime"


def runtimes(bundle: str = "") -> list[tuple[str, str]]:
    """Runtimes that are installed here, with their precisions; not `compile`, which takes minutes to begin.

    Nor int8 of `WHOLE`: its graphs would lie beside the bundle that ships, and `MEMBER` tells of each network.
    """
    if find_spec(_RUNTIMES.rpartition(".")[0]) is None:
        return [EAGER]
    known: Any = import_module(_RUNTIMES)
    found = []
    for name, precision in product(known.RUNTIMES, known.PRECISIONS):
        if name not in ("auto", "compile") and not (bundle == WHOLE and precision == "int8"):
            with suppress(PesiError):
                known.Runtime(name, precision, device="cpu")
                found.append((name, precision))
    return found


def opened(folder: Path, subject: Subject) -> Classifier:
    """A bundle by a subject's runtime, else eager; `naive`: with that block. Of int8, graphs are made first."""
    if subject.precision == "int8":
        quantised(folder, str(subject.runtime))
    chosen: dict[str, Any] = {"runtime": subject.runtime or EAGER[0], "precision": subject.precision or EAGER[1]}
    known = find_spec(_RUNTIMES.rpartition(".")[0]) is not None
    classifier = load(folder, device="cpu", **(chosen if known else {}))
    if subject.form == "naive":
        for network in classifier.networks:
            naively(network)
    return classifier


def quantised(folder: Path, runtime: str) -> None:
    """Write a bundle's int8 graphs of a runtime beside it, if there are none; noise tells what numbers occur."""
    from pesi.predict.export import FEWEST, export_graphs
    from pesi.predict.runtimes.exports import GRAPHS, name_of

    if not (folder / GRAPHS / name_of(runtime, "int8")).exists():
        plain = load(folder, device="cpu", runtime=EAGER[0])
        export_graphs(plain, runtime, "int8", folder / GRAPHS, squares=squares(plain, FEWEST), on="noise")


def asked(subject: Subject) -> list[str]:
    """The options by which a command takes a subject's runtime; none: what it takes by itself."""
    if not subject.runtime or len(runtimes()) == 1:
        return []
    return ["--runtime", subject.runtime, "--precision", subject.precision]


def made(name: str, form: str) -> PesiCNN:
    """A network with random weights; `naive` is `spatial`, its block's end written as anyone would."""
    network = create_model(name, num_classes=3, attention="spatial" if form == "naive" else form, alpha=0.1)
    return naively(network) if form == "naive" else network


def naively(network: PesiCNN) -> PesiCNN:
    """The network with the attention in torch's own operations, one after the other."""

    def forward(block: AttendingBlock) -> Callable[..., Tensor]:
        def run(x: Tensor, traces: object = None) -> Tensor:
            high, low = block.branches(x)
            assert low is not None
            assert block.alpha is not None
            o, s = high.map(), low.map()
            m = torch.softmax(o.float().flatten(2), dim=2).view(o.shape)
            y = s + o + block.alpha.view(1, -1, 1, 1) * m * s
            return torch.relu(y) if block.relu else y

        return run

    for block in network.modules():
        if isinstance(block, AttendingBlock) and block.alpha is not None:
            setattr(block, "forward", forward(block))  # noqa: B010 - a method of the class
    return network


def bundle_of(name: str, form: str, folder: Path) -> Path:
    """A bundle of one such network, which looks at the whole picture once; the one that is there, if there is one."""
    if (folder / "config.json").exists():
        return folder
    side = SIDES.get(name, TINY_SIDE)
    options = {"attention": "spatial" if form == "naive" else form}
    member = MemberConfig(
        network=NetworkConfig(name=name, num_classes=3, options=options),
        preprocess=PreprocessConfig(
            source_size=side, size=side, geometry="squeeze", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
    )
    classes = tuple((diagnosis, (diagnosis,)) for diagnosis in ("MEL", "SK", "NV"))
    task = TaskConfig(name="speed", classes=classes, scored=("MEL",), head="multiclass")
    config = BundleConfig(name=f"{name}-{form}", members=(member,), task=task)
    Classifier(config, made(name, form), device="cpu").save_pretrained(folder)
    return folder


def one_member(whole: Classifier, folder: Path) -> Path:
    """The first network of a bundle as a bundle of its own."""
    member = whole.config.members[0].model_copy(update={"fold": None})
    config = whole.config.model_copy(update={"members": (member,), "folds": ()})
    Classifier(config, whole.networks[:1], whole.novelty[:1], device="cpu").save_pretrained(folder)
    return folder


def squares(classifier: Classifier, count: int) -> list[NDArray[np.uint8]]:
    """Noise as the regions of so many images, (R, S, S, 3)."""
    rng, side = np.random.default_rng(0), classifier.config.members[0].preprocess.source_size
    return [rng.integers(0, 256, (len(classifier.regions), side, side, 3), np.uint8) for _ in range(count)]


def operations(classifier: Classifier) -> float:
    """Multiplications and additions that an image takes in the networks' convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        classifier.outputs(squares(classifier, 1))
    return float(counter.get_total_flops())


def processor_seconds(folder: Path, paths: Sequence[Path]) -> float:
    """What an image's decoding and networks, the segmenter's too, take of processors where nothing else is done.

    By the runtime that `pesi predict` takes by itself, with all cores at work, for each is slower beside the others;
    once a process.
    """
    tune_threads()
    tune_streams(len(paths))
    cv2.setNumThreads(1)
    classifier = load(folder, device="cpu")
    segmenter = shipped_segmenter(classifier.runtime)
    side = segmenter.config.preprocess.source_size
    groups = [paths[start : start + _TOGETHER] for start in range(0, len(paths), _TOGETHER)]
    cut = [[classifier.squares(path) for path in group] for group in groups]
    seen = [[fit_square(decode_image(path), side, "squeeze") for path in group] for group in groups]

    def work(number: int) -> None:
        for path, square in zip(groups[number], seen[number], strict=True):
            decode_image(path)
            segmenter.outputs([square])
        classifier.outputs(cut[number])

    taken = []
    with ThreadPoolExecutor(thread_count()) as pool:
        for _ in range(4):
            started = time.process_time()
            list(pool.map(work, range(len(groups))))
            taken.append((time.process_time() - started) / len(paths))
    return statistics.median(taken[1:])


class Step:
    """A training step on random pictures: forward, backward, AdamW.

    Args:
        name, form: See `made`.
        precision: float32, or bfloat16 by autocast.
        batch: Pictures.
        device: torch's.
    """

    def __init__(self, name: str, form: str, precision: str, batch: int, device: str) -> None:
        self.device, self.bfloat16 = device, precision == "bfloat16"
        self.network: nn.Module = made(name, form).train().to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)
        side = SIDES.get(name, TINY_SIDE)
        self.x = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
        self.classes = torch.randint(0, 3, (batch,), device=device)

    def __call__(self) -> None:
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.bfloat16):
            loss = nn.functional.cross_entropy(self.network(self.x).float(), self.classes)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def step_memory(name: str, form: str, precision: str, batch: int, device: str) -> int:
    """Bytes that three training steps hold at most, over what the process held before; once a process."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = _peak(anew=True)
    step = Step(name, form, precision, batch, device)
    for _ in range(3):
        step()
    return (torch.cuda.max_memory_allocated() if device.startswith("cuda") else _peak()) - before


def _peak(*, anew: bool = False) -> int:
    """Bytes of memory that this process has held at most; `anew`: from now on (proc(5), clear_refs)."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def write_images(folder: Path, count: int, drawn: int = 16) -> list[Path]:
    """Drawn lesions as JPEG files of `WIDTH` x `HEIGHT` with a sensor's noise, `drawn` different ones, linked."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths[:drawn]):
        path.write_bytes(jpeg(picture(number)))
    for number in range(drawn, count):
        os.link(paths[number % drawn], paths[number])
    return paths


def picture(number: int) -> NDArray[np.uint8]:
    """A drawn lesion, (HEIGHT, WIDTH, 3); its noise makes the JPEG as large as a photograph's."""
    rng = np.random.default_rng(number)
    small = render(draw_parameters(rng, ("MEL", "SK", "NV")[number % 3]), size=256).image
    large = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    noisy: NDArray[np.uint8] = np.clip(large + rng.normal(0, 4, large.shape), 0, 255).astype(np.uint8)
    return noisy


def jpeg(image: NDArray[np.uint8], *, progressive: bool = False) -> bytes:
    """An image as the bytes of a JPEG file."""
    options: Sequence[Any] = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive))
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1])


def large_jpeg(path: Path, *, progressive: bool) -> Path:
    """A JPEG file of 98 megapixels: the drawn lesion, again and again."""
    tile = picture(0)[:760, :1000]
    path.write_bytes(jpeg(np.tile(tile, (13, 10, 1))[:9880, :9950], progressive=progressive))
    return path
