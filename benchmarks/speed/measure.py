"""How fast everything is, against what else there is, in one run on one idle machine; one table comes out.

    python benchmarks/speed/measure.py [--out benchmarks/speed/measured.csv] [--sections batch training] [--quick]

Whatever is compared is timed alternately, `--repeats` times; the table keeps medians, quartiles and paired ratios, and
beside each figure the processor's instruction sets and the load. `report.py` writes the page's tables of it. A busy
machine is refused unless `--busy` says that this is a try. Sections:

    limits    what the machine can do: matrix products and copies
    batch     many pictures: networks by runtime, plain, with the attention, and with one naively written
    single    the same of one picture
    image     one file, from the file to the answer: median and 95th percentile
    cold      a command from its start to its end
    decode    files to pixels
    training  a step's time and peak memory
    folder    100, 1,000 and 10,000 files
    before    a folder by an earlier commit and now, one network
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np
import torch
from machine import PRECISIONS, check_idle, copy_rate, instructions, matrix_rate, processor
from paired import ROOT, TABLE, Figure, Subject, alternating, figures, process, seconds_of, spread, write_table
from subjects import (
    EAGER,
    FORMS,
    MEMBER,
    SIDES,
    WHOLE,
    Step,
    asked,
    bundle_of,
    large_jpeg,
    one_member,
    opened,
    operations,
    processor_seconds,
    quantised,
    runtimes,
    squares,
    step_memory,
    write_images,
)

from pesi.errors import PesiError
from pesi.images.decode import decode_image
from pesi.machine import available_cores, keep_memory
from pesi.predict.loading import load
from pesi.train.environment import git_commit

PREDICT = ("-m", "pesi", "predict", "--no-progress")
DECODE_LARGE = "import sys; from pesi.images.decode import decode_image as d; sys.argv[2:] and d(sys.argv[2])"
Works = Mapping[Subject, Callable[[], object]]


@dataclass
class Measurement:
    """What is measured, and how often; see the options."""

    options: argparse.Namespace
    work: Path
    _rates: dict[str, float] = field(default_factory=dict)

    @cached_property
    def bundles(self) -> dict[str, Path]:
        """The classifier that is measured, and its first network alone."""
        whole = load(self.options.bundle, device="cpu")
        assert whole.folder is not None
        found = {MEMBER: one_member(whole, self.work / "member")}
        return found | ({WHOLE: whole.folder} if len(whole.members) > 1 else {})

    @cached_property
    def images(self) -> list[Path]:
        """A few files."""
        return write_images(self.work / "images", 16)

    def rate(self, precision: str) -> float:
        """Operations a second that the machine can do at most."""
        if precision not in self._rates:
            self._rates[precision] = matrix_rate(precision, 8 * self.options.seconds)
        return self._rates[precision]

    def repeated(self, works: Works) -> dict[Subject, Callable[[], float]]:
        """Seconds a call of each, over as many calls as fill `seconds`; each has run twice before."""

        def timed(work: Callable[[], object]) -> Callable[[], float]:
            work()
            calls = max(1, round(self.options.seconds / max(seconds_of(work), 1e-9)))
            return partial(seconds_of, work, calls)

        return {subject: timed(work) for subject, work in works.items()}

    def limits(self) -> Iterator[Figure]:
        """Of the machine."""
        for precision in PRECISIONS:
            rate = self.rate(precision)
            subject = Subject("matrix products", precision=precision)
            yield Figure("limits", *subject, 0, "operations/s", rate, rate, rate)
        rate = copy_rate(8 * self.options.seconds)
        subject = Subject("copies, read and written")
        yield Figure("limits", *subject, 0, "bytes/s", rate, rate, rate)

    def batch(self) -> Iterator[Figure]:
        """Many pictures."""
        return self._networks("batch", self.options.batch)

    def single(self) -> Iterator[Figure]:
        """One picture."""
        return self._networks("single", 1)

    def _networks(self, section: str, pictures: int) -> Iterator[Figure]:
        groups = [
            {Subject(name, form): bundle_of(name, form, self.work / f"{name}-{form}") for form in FORMS}
            for name in self.options.networks
        ] + [{Subject("shipped", name): folder} for name, folder in self.bundles.items()]
        for group in groups:
            works: dict[Subject, Callable[[], object]] = {}
            needs: dict[Subject, float] = {}
            for subject, folder in group.items():
                need = operations(opened(folder, Subject("")))
                for runtime, precision in [EAGER] if subject.form == "naive" else runtimes(subject.form):
                    own = subject._replace(runtime=runtime, precision=precision)
                    classifier = opened(folder, own)
                    works[own] = partial(classifier.outputs, squares(classifier, pictures))
                    needs[own] = need

            def eager(subject: Subject) -> Subject:
                form = "spatial" if subject.form == "naive" else subject.form
                return subject._replace(form=form, runtime=EAGER[0], precision=EAGER[1])

            def plain(subject: Subject) -> Subject | None:
                return subject._replace(form="none") if subject.form in ("spatial", "naive") else None

            found = alternating(self.repeated(works), self.options.repeats)
            for figure in figures(section, "images/s", found, eager, pictures):
                a_second = needs[figure.subject] * figure.value
                yield replace(figure, limit=a_second / self.rate(figure.precision))
            costs = figures(f"{section} attention", "images/s", found, plain, pictures)
            yield from (figure for figure in costs if figure.against)

    def image(self) -> Iterator[Figure]:
        """One file."""
        for name, folder in self.bundles.items():
            works: dict[Subject, Callable[[], object]] = {}
            for runtime, precision in runtimes(name):
                subject = Subject("shipped", name, runtime, precision)
                works[subject] = partial(opened(folder, subject).predict, self.images[0])
            for work in works.values():
                work()
            each = {subject: partial(seconds_of, work) for subject, work in works.items()}
            found = alternating(each, max(4 * self.options.repeats, 4))
            for figure in figures(
                "image", "s", found, lambda one: one._replace(runtime=EAGER[0], precision=EAGER[1]), 1
            ):
                low, high = np.quantile(found[figure.subject], (0.25, 0.95))
                yield replace(figure, low=float(low), high=float(high))

    def cold(self) -> Iterator[Figure]:
        """Commands from their start."""
        works: dict[Subject, Callable[[], float]] = {
            Subject("pesi --help"): lambda: process(["-m", "pesi", "--help"]).seconds
        }
        for name, folder in self.bundles.items():
            for subject in (Subject("pesi predict one.jpg", name, *runtime) for runtime in (*runtimes(name), ("", ""))):
                if subject.precision == "int8":
                    quantised(folder, subject.runtime)
                command = [*PREDICT, self.images[0], "--bundle", folder, *asked(subject)]
                works[subject] = lambda command=command: process(command).seconds  # type: ignore[misc]
        for work in works.values():
            work()
        found = alternating(works, min(self.options.repeats, 7))
        yield from figures("cold", "s", found, lambda subject: None)

    def decode(self) -> Iterator[Figure]:
        """Files to pixels, on one thread; and 98 megapixels, in a process of their own."""
        paths, classifier = self.images, opened(self.bundles[MEMBER], Subject("shipped"))
        torch.set_num_threads(1)
        readers: dict[str, Callable[[Path], object]] = {
            "OpenCV, all pixels": lambda path: cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR),
            "decode_image": decode_image,
            "decoding, quality, the lesion": classifier.read,
        }
        works = {
            Subject(name): partial(seconds_of, lambda read=read: [*map(read, paths)])  # type: ignore[misc]
            for name, read in readers.items()
        }
        base = next(iter(works))
        found = alternating(works, self.options.repeats)
        yield from figures("decode", "images/s", found, lambda subject: base, len(paths))
        torch.set_num_threads(self.options.threads)
        empty = ["-c", DECODE_LARGE]
        for progressive in () if self.options.quick else (False, True):
            path = large_jpeg(self.work / f"large-{progressive}.jpg", progressive=progressive)
            name = f"98 megapixels, {'progressive' if progressive else 'baseline'} JPEG"
            ended = [(process([*empty, "-", path]), process([*empty, "-"])) for _ in range(3)]
            for unit, values in (
                ("s", [one.seconds - other.seconds for one, other in ended]),
                ("bytes", [float(one.memory - other.memory) for one, other in ended]),
            ):
                yield Figure("decode", *Subject(name), 1, unit, *spread(values), len(values))

    def training(self) -> Iterator[Figure]:
        """A step's time and peak memory."""
        device, batch = self.options.device, self.options.batch

        def plain(subject: Subject) -> Subject | None:
            return subject._replace(form="none") if subject.form != "none" else None

        for name in self.options.networks:
            for precision in ("float32", "bfloat16"):
                subjects = [Subject(name, form, "eager", precision) for form in FORMS]
                steps = {one: Step(name, one.form, precision, batch, device) for one in subjects}
                found = alternating(self.repeated(steps), self.options.repeats)
                yield from figures("training", "images/s", found, plain, batch)
                del steps

                def held(one: Subject) -> float:
                    words = (*one, str(batch), device)
                    return float(process([__file__, "--memory", *words], threads=self.options.threads).output)

                yield from figures("training", "bytes", {one: [held(one)] for one in subjects}, plain, batch)

    def folder(self) -> Iterator[Figure]:
        """Folders of files, as the command takes them by itself."""
        cores = available_cores()
        for name, bundle in self.bundles.items():
            busy = float(process([__file__, "--processor", bundle, self.images[0].parent]).output)
            for count in self.options.counts:
                folder = self.work / f"folder-{count}"
                if not folder.exists():
                    write_images(folder, count)
                out = self.work / "out.csv"
                ended = process([*PREDICT, folder, "--bundle", bundle, "--out", out])
                rows = sum(1 for _ in out.open()) - 1
                if rows != count:
                    raise PesiError(f"{rows} rows of {count} images.", "That is a fault: report it.")
                subject = Subject(f"{count} files", name)
                share = busy * count / cores / ended.seconds
                for unit, value, limit in (
                    ("images/s", count / ended.seconds, share),
                    ("processor s/image", ended.processor / count, None),
                    ("bytes", float(ended.memory), None),
                ):
                    yield Figure("folder", *subject, count, unit, value, value, value, 1, limit=limit)

    def before(self) -> Iterator[Figure]:
        """The same folder and bundle by an earlier commit."""
        tree, folder, count = (
            self.work / "before",
            self.work / "before-images",
            self.options.counts[len(self.options.counts) // 2],
        )
        subprocess.run(["git", "worktree", "add", "--detach", "-q", tree, self.options.before], cwd=ROOT, check=True)
        try:
            write_images(folder, count)
            command: list[str | Path] = [
                *PREDICT,
                folder,
                "--bundle",
                self.bundles[MEMBER],
                "--out",
                self.work / "before.csv",
            ]
            now, then = Subject("now", MEMBER), Subject(f"commit {self.options.before}", MEMBER)
            works: dict[Subject, Callable[[], float]] = {
                now: lambda: process([*command, *asked(now)]).seconds,
                then: lambda: process(command, source=tree).seconds,
            }
            for source in (ROOT, tree):  # graphs and bytecode are made once
                process([*PREDICT, folder / "000000.jpg", *command[len(PREDICT) + 1 :]], source=source)
            found = alternating(works, min(self.options.repeats, 3))
            yield from figures("before", "images/s", found, lambda subject: then, count)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=False)


SECTIONS: dict[str, Callable[[Measurement], Iterator[Figure]]] = {
    name: getattr(Measurement, name)
    for name in ("limits", "batch", "single", "image", "cold", "decode", "training", "folder", "before")
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TABLE, help="its figures of other sections stay")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--networks", nargs="+", default=list(SIDES))
    parser.add_argument("--bundle", help="default: the classifier that ships")
    parser.add_argument("--counts", nargs="+", type=int, default=[100, 1000, 10000], help="files of the folders")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.5, help="least time of one measurement")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--device", default="cpu", help="of the training steps")
    parser.add_argument("--before", default="487ff45", help="the earlier commit")
    parser.add_argument("--quick", action="store_true", help="a try: few repeats, small folders, figures mean nothing")
    parser.add_argument("--busy", action="store_true", help="measure a busy machine all the same")
    parser.add_argument("--memory", nargs=6, help=argparse.SUPPRESS)  # one training's, in a process of its own
    parser.add_argument("--processor", nargs=2, type=Path, help=argparse.SUPPRESS)  # a classifier's, in its own too
    options = parser.parse_args()
    if options.memory:
        name, form, _, precision, batch, device = options.memory
        print(step_memory(name, form, precision, int(batch), device))
        return 0
    if options.processor:
        bundle, folder = options.processor
        print(processor_seconds(bundle, sorted(folder.iterdir())))
        return 0
    if options.quick:
        options.repeats, options.seconds, options.batch, options.counts = 2, 0.01, 2, [4, 8]
    keep_memory()
    torch.set_num_threads(options.threads)
    try:
        load = check_idle(anyway=options.busy or options.quick)
        where = {
            "threads": options.threads,
            "load": load,
            "processor": processor(),
            "instructions": instructions(),
            "torch": torch.__version__,
            "commit": str(git_commit()),
        }
        with tempfile.TemporaryDirectory() as work:
            measurement = Measurement(options, Path(work))
            for section in options.sections:
                found = [replace(figure, **where) for figure in SECTIONS[section](measurement)]
                write_table(options.out, found)
                for one in found:
                    ratio = f"  {one.ratio:.3g} times {one.against}" if one.ratio is not None else ""
                    print(f"{one.section:<16} {one.subject!s:<48} {one.value:>10.4g} {one.unit}{ratio}", flush=True)
    except PesiError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
