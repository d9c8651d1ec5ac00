"""Runs -> one self-contained HTML page.

`run` reads a run; `data` turns runs into one plain dict of finished numbers, with `items` and `differences` for its
parts; `page` puts it into a file with the scripts and styles of `assets/`, which draw what is in there and estimate
nothing.
"""

from __future__ import annotations

from forget_callback.report.data import report_data
from forget_callback.report.page import write_report
from forget_callback.report.run import Run

__all__ = ["Run", "report_data", "write_report"]
