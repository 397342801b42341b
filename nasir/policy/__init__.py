"""Policies: pure state machines that choose, from recorded history, which pass acts where and when."""

from __future__ import annotations

from nasir.policy.asking import Rounds, decisions_of
from nasir.policy.base import Fault, History, PhaseView, Policy
from nasir.policy.conditions import Verdict, evaluate
from nasir.policy.decision import (
    Decision,
    DropIndividual,
    EndPhase,
    FreezeSite,
    KeepIndividual,
    RecallIndividual,
    RewriteSite,
    TrySites,
)
from nasir.policy.evolve import EvolvePolicy
from nasir.policy.evolve_options import EvolveOptions
from nasir.policy.metrics_csv import read_metrics
from nasir.policy.plans import (
    ALL_FROZEN,
    AtEpochs,
    Budget,
    Condition,
    Moment,
    Options,
    PhasePlan,
    Plateau,
    RulePlan,
    Threshold,
    Trial,
    Where,
)
from nasir.policy.rules import RulesPolicy
from nasir.policy.schedule import PhaseProgress
from nasir.policy.simulation import Apply, Row, Structural, simulate
from nasir.records import Record

__all__ = [
    "ALL_FROZEN",
    "Apply",
    "AtEpochs",
    "Budget",
    "Condition",
    "Decision",
    "DropIndividual",
    "EndPhase",
    "EvolveOptions",
    "EvolvePolicy",
    "Fault",
    "FreezeSite",
    "History",
    "KeepIndividual",
    "Moment",
    "Options",
    "PhasePlan",
    "PhaseProgress",
    "PhaseView",
    "Plateau",
    "Policy",
    "RecallIndividual",
    "Record",
    "RewriteSite",
    "Rounds",
    "Row",
    "RulePlan",
    "RulesPolicy",
    "Structural",
    "Threshold",
    "Trial",
    "TrySites",
    "Verdict",
    "Where",
    "decisions_of",
    "evaluate",
    "read_metrics",
    "simulate",
]
