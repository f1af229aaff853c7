"""A run's report: one HTML file with the images, the curves, the tables and how to do it again."""

from pydistill.runs.report.write import write_report

__all__ = ["write_report"]
