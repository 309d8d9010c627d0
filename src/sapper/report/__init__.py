"""From a run folder to a report. Imports no torch."""

from sapper.report.page import write_report

__all__ = ["write_report"]
