"""Policies: pure state machines that choose, from recorded history, which pass acts where and when."""

from __future__ import annotations

from nasir.policy.base import (
    ALL_FROZEN,
    At,
    Budget,
    Condition,
    Decision,
    Fault,
    History,
    Moment,
    Options,
    PhasePlan,
    PhaseView,
    Plateau,
    Policy,
    RulePlan,
    Threshold,
    Trial,
    Where,
)
from nasir.policy.conditions import Verdict, evaluate
from nasir.policy.evolve import EvolvePolicy
from nasir.policy.evolve_options import EvolveOptions
from nasir.policy.rules import RulesPolicy
from nasir.policy.schedule import Progress
from nasir.policy.simulation import Apply, Row, read_metrics, simulate
from nasir.records import Record

__all__ = [
    "ALL_FROZEN",
    "Apply",
    "At",
    "Budget",
    "Condition",
    "Decision",
    "EvolveOptions",
    "EvolvePolicy",
    "Fault",
    "History",
    "Moment",
    "Options",
    "PhasePlan",
    "PhaseView",
    "Plateau",
    "Policy",
    "Progress",
    "Record",
    "Row",
    "RulePlan",
    "RulesPolicy",
    "Threshold",
    "Trial",
    "Verdict",
    "Where",
    "evaluate",
    "read_metrics",
    "simulate",
]
