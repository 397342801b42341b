"""Reports of runs and studies: offline HTML pages, and the rows that a terminal shows."""

from nasir.report.history import summary_rows as summary_rows
from nasir.report.html import write_drawing as write_drawing
from nasir.report.html import write_report as write_report
from nasir.report.study_page import write_study_report as write_study_report
