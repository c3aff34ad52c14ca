"""`pesi data`."""

import typer

data_app = typer.Typer()


@data_app.callback()
def _d() -> None:
    pass
