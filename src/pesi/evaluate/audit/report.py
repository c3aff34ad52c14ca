"""The audit's report: one self-contained HTML page, no script, no request; and the same as PDF."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import ImageFile

from pesi.errors import PesiError
from pesi.evaluate.audit.checklists import answered_checklists
from pesi.evaluate.audit.run import Audit
from pesi.files import whole_file, write_text


def report_html(audit: Audit, *, title: str, provenance: Mapping[str, str]) -> str:
    """The report as a web page.

    Args:
        audit: What was measured.
        title: The page's title.
        provenance: Name -> value: which bundle, which images, which machine.
    """
    environment = Environment(
        loader=PackageLoader("pesi.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The plots are matplotlib's own, all text as outlines: safe to set in as they are.
    environment.filters["drawing"] = Markup
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment.get_template("audit.html.j2").render(
        title=title, audit=audit, provenance=provenance, checklists=answered_checklists(audit.section_keys)
    )


def write_report(audit: Audit, path: str | Path, *, title: str, provenance: Mapping[str, str]) -> None:
    """Write the report as .html.

    Raises:
        StorageError: The file cannot be written.
    """
    write_text(path, report_html(audit, title=title, provenance=provenance))


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
