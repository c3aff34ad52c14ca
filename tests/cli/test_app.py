"""The list of verbs: true to the verbs themselves, and shown without importing one of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from pesi.cli.app import _VERBS, app


@pytest.mark.parametrize("name", _VERBS)
def test_the_list_says_of_a_verb_what_its_own_help_begins_with(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.name == name
    assert " ".join(command.help.split("\n\n")[0].split()) == _VERBS[name][2]


def test_help_and_version_import_no_verb_and_no_library_of_numbers() -> None:
    for flag in ("--help", "--version"):
        code = (
            f"import sys; sys.argv = ['pesi', '{flag}']\n"
            "from pesi.cli.app import main\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code\n"
            "print(*sys.modules, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(done.stderr.split())
        assert not {"torch", "numpy", "pandas", "cv2", "PIL", "rich.markdown", "pesi.cli.predict"} & loaded
        assert "pesi" in done.stdout
