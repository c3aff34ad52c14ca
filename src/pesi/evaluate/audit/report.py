"""What comes of an audit: the report, one self-contained HTML page, the same as PDF; and the bundle's model card."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import ImageFile

from pesi.bundle.card import card_header, made_with
from pesi.bundle.config import BundleConfig
from pesi.errors import PesiError
from pesi.evaluate.audit.run import Audit
from pesi.evaluate.report import environment
from pesi.files import whole_file


def report_html(audit: Audit, *, title: str, provenance: Mapping[str, str]) -> str:
    """The report as a web page.

    Args:
        audit: What was measured.
        title: The page's title.
        provenance: Name -> value: which bundle, which images, which machine.
    """
    checklists = answered_checklists(audit.section_keys)
    template = environment().get_template("audit.html.j2")
    return template.render(title=title, audit=audit, provenance=provenance, checklists=checklists)


def audit_card(config: BundleConfig, audit: Audit) -> str:
    """A bundle's `README.md` with the evidence of an audit; the header is the one that the Hugging Face hub reads.

    Args:
        config: The bundle's configuration.
        audit: What was measured with it.
    """
    text = (
        environment()
        .get_template("card.md.j2")
        .render(
            header="\n".join(card_header(config)),
            made_with="\n".join(made_with(config)),
            config=config,
            audit=audit,
            checklists=answered_checklists(audit.section_keys),
        )
    )
    return text.rstrip() + "\n"


def answered_checklists(section_keys: Collection[str]) -> list[dict[str, Any]]:
    """CLEAR Derm and TRIPOD+AI for an audit that holds these sections: name, source, answers.

    Each answer has the item's number and topic, whether it is answered, and where, or why it is not.

    Args:
        section_keys: Keys of the sections that are there; an item that needs another one counts as open.
    """
    text = files("pesi.evaluate.audit").joinpath("checklists.toml").read_text(encoding="utf-8")

    def answer(item: Mapping[str, Any]) -> dict[str, Any]:
        needed = item.get("sections", ())
        absent = [key for key in needed if key not in section_keys]
        where = item.get("open") or "".join(f"section {key}; " for key in needed) + item["where"]
        if absent and "open" not in item:
            where = f"not in this audit: section {', '.join(absent)}"
        return {
            "number": item["number"],
            "topic": item["topic"],
            "answered": not absent and "open" not in item,
            "where": where,
        }

    checklists: list[dict[str, Any]] = tomllib.loads(text)["checklists"]
    return [
        {"name": each["name"], "source": each["source"], "answers": [answer(item) for item in each["items"]]}
        for each in checklists
    ]


def write_pdf(html: str, path: str | Path) -> None:
    """Write a report as .pdf.

    Raises:
        PesiError: WeasyPrint or the Pango library that it needs is not installed.
        StorageError: The file cannot be written.
    """
    weasyprint = pdf_writer()
    with whole_file(path) as temporary:
        temporary.write_bytes(weasyprint.HTML(string=html).write_pdf())


def pdf_writer() -> Any:
    """WeasyPrint.

    Raises:
        PesiError: It, or the Pango library that it needs, is not installed.
    """
    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        import weasyprint
    except (ImportError, OSError) as error:  # OSError: WeasyPrint is there, Pango is not
        raise PesiError(
            f"The PDF cannot be made: {error}",
            'Install it with: pip install "pesi-cnn[pdf]", and the system\'s Pango (Debian: libpangoft2-1.0-0 '
            "libharfbuzz-subset0); or leave the PDF out with --no-pdf.",
        ) from error
    finally:
        # WeasyPrint tells Pillow to read damaged files without a word; what reads patients' images must not.
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant
    return weasyprint
