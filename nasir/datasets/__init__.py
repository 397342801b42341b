"""Data sets as they lie on disk, without torch: found, read as arrays, split, looked at before a run."""

from nasir.datasets.survey import Survey as Survey
