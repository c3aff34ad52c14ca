"""The `pesi` command: gathers the verbs, turns a user's mistakes into one clear message and an exit status."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from typing import Annotated

import typer

from pesi.cli.audit import audit
from pesi.cli.bundles import bundles
from pesi.cli.calibrate import calibrate
from pesi.cli.data import data_app
from pesi.cli.demo import demo
from pesi.cli.describe import describe
from pesi.cli.evaluate import compare, evaluate
from pesi.cli.explain import explain
from pesi.cli.predict import predict
from pesi.cli.recipes import recipes
from pesi.cli.segmenter import segment, segmenter_app
from pesi.cli.similar import similar_app
from pesi.cli.status import EXIT_BUG, EXIT_PIPE, EXIT_USAGE
from pesi.cli.streams import OutputLostError, guard_streams, tell_lost
from pesi.cli.train import train
from pesi.errors import PesiError
from pesi.machine import keep_memory, tune_threads
from pesi.version import __version__

app = typer.Typer(
    name="pesi",
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


app.command()(train)
app.command()(predict)
app.command()(explain)
app.command()(evaluate)
app.command()(compare)
app.command()(audit)
app.command()(calibrate)
app.command()(describe)
app.command()(recipes)
app.command()(bundles)
app.command()(demo)
app.command()(segment)
app.add_typer(data_app, name="data")
app.add_typer(segmenter_app, name="segmenter")
app.add_typer(similar_app, name="similar")


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
    tune_threads()  # the verbs import torch
    keep_memory()
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
