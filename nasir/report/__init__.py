"""The report of a run: one offline HTML page, and the rows that a terminal shows."""

from nasir.report.history import summary_rows as summary_rows
from nasir.report.html import write_drawing as write_drawing
from nasir.report.html import write_report as write_report
