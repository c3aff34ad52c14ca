"""The `pesi` command: gathers the verbs, turns a user's mistakes into one clear message and an exit status."""

from __future__ import annotations

import sys

import typer

from pesi.errors import PesiError

EXIT_REFUSED = 1  # some inputs were refused, the rest was done
EXIT_USAGE = 2  # nothing could be done: wrong option, file or setting

app = typer.Typer(
    name="pesi",
    help="Classify skin lesions in dermoscopy images with attention residual learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a `PesiError` becomes a message on stderr and status 2, Ctrl-C status 130."""
    try:
        app()
    except PesiError as error:
        print(f"pesi: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        print("pesi: stopped.", file=sys.stderr)
        sys.exit(130)
