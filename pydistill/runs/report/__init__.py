"""The report of a run: one HTML file with its images, curves, tables and the commands to run it again."""

from pydistill.runs.report.pictures import draw_run
from pydistill.runs.report.write import write_report

__all__ = ["draw_run", "write_report"]
