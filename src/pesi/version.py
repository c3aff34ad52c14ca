"""The version of the package: the one place that says it, so that nobody reads the installation's files for it."""

from __future__ import annotations

__version__ = "0.1.0"
