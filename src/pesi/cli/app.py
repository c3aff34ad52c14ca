"""The `pesi` command: gathers the verbs, turns a user's mistakes into one clear message and an exit status."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import traceback
import warnings
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from pesi.cli.status import EXIT_BUG, EXIT_PIPE, EXIT_USAGE
from pesi.cli.streams import OutputLostError, guard_streams, tell_lost
from pesi.errors import PesiError
from pesi.machine import keep_memory, tune_threads
from pesi.version import __version__

# Verb -> its module, the function or typer.Typer there, and its first line of help, which must not need the module.
_VERBS: dict[str, tuple[str, str, str]] = {
    "train": ("train", "train", "Train a Pesi-CNN, calibrate it, and score it on the validation images."),
    "predict": ("predict", "predict", "Predict the probability of each diagnosis, with a triage."),
    "explain": (
        "explain",
        "explain",
        "Draw the class activation map, the attention of each stage, and both blended.",
    ),
    "evaluate": (
        "evaluate",
        "evaluate",
        "Score a classifier by the rules of the ISIC 2017 challenge, every figure with its 95 % interval.",
    ),
    "compare": (
        "evaluate",
        "compare",
        "Test whether two classifiers differ, on the same images: paired DeLong and paired bootstrap.",
    ),
    "audit": (
        "audit",
        "audit",
        "Audit a classifier: scores, calibration, thresholds, uncertainty, refusals, stress tests, groups, "
        "explanations.",
    ),
    "calibrate": (
        "calibrate",
        "calibrate",
        "Set a classifier's probabilities, thresholds, triage, prediction sets and refusals on your own images.",
    ),
    "export": (
        "export",
        "export",
        "Write a classifier's networks as graphs, compare them with PyTorch, and record what they change.",
    ),
    "describe": (
        "describe",
        "describe",
        "Describe the lesion in each image after the ABCD rule of dermatoscopy: a measurement, not a diagnosis.",
    ),
    "recipes": ("recipes", "recipes", "List the shipped recipes, or print one to start your own from."),
    "bundles": (
        "bundles",
        "bundles",
        "List the installed bundles, those of pesi-cnn and of other packages, by the names that --bundle takes.",
    ),
    "demo": (
        "demo",
        "demo",
        "Make synthetic dermoscopy images, train a Pesi-14 on them, evaluate it, and explain one image.",
    ),
    "segment": (
        "segmenter",
        "segment",
        "Find the lesion in each image and write it as a mask of the image's size.",
    ),
    "data": ("data", "data_app", "Fetch, check, make and split data sets."),
    "segmenter": ("segmenter", "segmenter_app", "Train and score the lesion segmenter."),
    "similar": ("similar", "similar_app", "Find similar cases among your own labelled images."),
}


class _Verbs(dict[str, Any]):
    """The verbs' commands by name; a verb's module is imported when its command is asked for."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(_VERBS))

    def __getitem__(self, name: str) -> Any:
        if (command := super().__getitem__(name)) is None:
            module, attribute, _ = _VERBS[name]
            verb = getattr(import_module(f"pesi.cli.{module}"), attribute)
            if not isinstance(verb, typer.Typer):
                alone = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
                alone.command()(verb)
                verb = alone
            else:
                verb._add_completion = False
            command = typer.main.get_command(verb)
            command.name = name
            self[name] = command
        return command

    def get(self, name: str, default: Any = None) -> Any:
        """The command, or else the default."""
        try:
            return self[name]
        except KeyError:
            return default

    def items(self) -> Any:
        """Names and commands."""
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        """The commands."""
        return [self[name] for name in self]


class _Pesi(TyperGroup):
    """The verbs, whose list needs none of their modules: `pesi --help` answers at once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Verbs()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Plainly: what draws frames around it takes longer to import than all the rest."""
        markup, self.rich_markup_mode = self.rich_markup_mode, None
        try:
            super().format_help(ctx, formatter)
        finally:
            self.rich_markup_mode = markup

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A line a verb."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, _, told) in _VERBS.items()])


app = typer.Typer(
    name="pesi",
    cls=_Pesi,
    help="Classify skin lesions in dermoscopy images with attention residual learning.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"pesi-cnn {__version__}")
        raise typer.Exit


def _say_on_stderr() -> None:
    """What the rooms below have to tell, such as a fetched bundle's licence; they print nothing themselves."""
    told, log = logging.StreamHandler(sys.stderr), logging.getLogger("pesi")
    told.setFormatter(logging.Formatter("pesi: %(message)s"))
    log.handlers[:] = [told]  # `main` may be called again, with another stderr
    log.setLevel(logging.INFO)


def main() -> None:
    """Run the command line; a `PesiError` becomes a message on stderr and status 2, Ctrl-C status 130.

    So does output that is lost, but for a pipe that is closed: that ends quietly, with a shell's status for it.
    Anything else is a mistake of the program's: its traceback, and status 70.
    """
    guard_streams()
    tune_threads()  # before a verb imports torch
    keep_memory()
    gc.set_threshold(100_000)  # imports make many objects that stay: to look for garbage among them takes 0.1 s
    _say_on_stderr()
    warnings.filterwarnings("ignore", module="PIL")  # its remarks on odd files: what matters of them is refused
    try:
        status = _run()
        sys.stdout.flush()
    except OutputLostError as lost:
        status = EXIT_PIPE if lost.closed else EXIT_USAGE
        if not lost.closed:
            print(f"pesi: {lost}\n  -> Send it to a file on a disk with space, or name one by --out.", file=sys.stderr)
    if status >= EXIT_USAGE:
        tell_lost()
    sys.exit(status)


def command() -> NoReturn:
    """`main` as a process of its own, which ends at once: to take its graphs down piece by piece would take 0.2 s."""
    status = EXIT_BUG
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else EXIT_USAGE
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # there is none, or it is closed
                stream.flush()
        os._exit(status)


def _run() -> int:
    """The exit status of what the command line asks for."""
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_USAGE if end.code else 0
    except PesiError as error:
        print(f"pesi: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("pesi: stopped.", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        print("pesi: this is a mistake of the program's, not yours: please report the lines above.", file=sys.stderr)
        return EXIT_BUG
    return 0
