"""What is looked at before a run begins: whether the data go with the network, as far as that can be told yet."""

from __future__ import annotations

from nasir.datasets.fit import LONE, LONE_REMEDY, lone_norms, misfits
from nasir.datasets.options import DataContext
from nasir.datasets.survey import look
from nasir.errors import DataAbsent, DataError
from nasir.ir import Graph
from nasir.policy.plans import RULES
from nasir.records import DataSummary
from nasir.running.resolution import summary_of
from nasir.spec import Spec
from nasir.spec.problems import Problem, raise_problems

_KEYS = {"input": ("input",), "classifier": ("network",), "network": ("network",)}


def check_data(spec: Spec, graph: Graph, whole: bool = False) -> DataSummary | str:
    """The summary of the data of a spec, or a sentence that says why they were not looked at.

    Names, labels and headers are read, or, if the `whole` is wanted, the data. Raises SpecProblems where they are wrong
    or do not fit the network.
    """
    try:
        data = look(spec.data.plan(), DataContext(spec.source.resolve().parent), whole)
    except DataAbsent as error:
        return f"the data were not looked at: {error}"
    except DataError as error:
        raise spec.problem(("data",), str(error)) from error
    if data is None:
        return f"the data were not looked at: only a run can read {spec.data.dataset!r}"
    problems: list[Problem] = []
    for key, text, remedy in misfits(graph, data.shape or None, data.classes, data.dataset):
        problems += spec.problem(_KEYS[key], text, remedy).problems
    raise_problems(problems)
    if data.counts:
        check_batches(spec, graph, data.total("train"))
    return summary_of(spec, data)


def check_batches(spec: Spec, graph: Graph, examples: int | None = None) -> None:
    """Raise SpecProblems where a batch of one example comes before a norm over one value, which cannot be trained.

    `examples`: those that are trained on, None where that is not known. Only phases that surely begin with the network
    `graph` are looked at.
    """
    size = spec.data.batch_size
    if size > 1 and examples != 1:
        return
    path = ("data", "batch_size") if size == 1 else ("data",)
    for phase in spec.phases:
        lone = lone_norms(graph, phase.freeze or ())
        if lone:
            raise spec.problem(path, LONE.format(lone[0]), LONE_REMEDY)
        plan = phase.plan()
        if plan.rules or plan.policy != RULES:
            return
