"""What a spec must satisfy beyond the shape of its parts: names that exist, phases that end, rules that can fire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from nasir.blocks import STEPS
from nasir.counted import counted
from nasir.errors import NasirError, OptionError
from nasir.ir.regions import covers
from nasir.options import Path, suggestion
from nasir.options.words import UNKNOWN_OPTION
from nasir.policy.plans import METRICS, RULES, PhasePlan
from nasir.registry import Registry, backends, blocks, code_of, datasets, ops, optimizers, passes, penalties, policies
from nasir.rewriting.propose import make_pass
from nasir.rewriting.rewrite import Pass
from nasir.spec.model import Phase, Spec
from nasir.spec.model_network import StageStep, Step
from nasir.spec.model_phase import Condition, Rule
from nasir.spec.model_registered import Optimizer, Penalty
from nasir.spec.passes import NoOptions, find, make_policy, option_faults, options_for, policy_options
from nasir.spec.problems import NOWHERE, Problem
from nasir.spec.tree import Tree, children, key_place, locate
from nasir.training.data import ExtraMetric


@dataclass(slots=True)
class Findings:
    """Problems and notes so far; `lenient` when plugins that are not imported may supply unknown names."""

    tree: Tree
    lenient: bool = False
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, path: Path, text: str, remedy: str) -> None:
        """A problem with the value at `path`."""
        self.problems.append(Problem(locate(self.tree, path), path, text, remedy))

    def add_key(self, path: Path, text: str, remedy: str) -> None:
        """A problem with the last key of `path` itself."""
        self.problems.append(Problem(key_place(self.tree, path), path, text, remedy))

    def unknown(
        self, registry: Registry, path: Path, name: str, known: Sequence[str] = (), is_key: bool = False, what: str = ""
    ) -> None:
        """A name that is neither registered nor otherwise `known`; a note if a plugin may know it."""
        place = key_place(self.tree, path) if is_key else locate(self.tree, path)
        text = f"unknown {what or registry.kind} {name!r}"
        if self.lenient:
            self.notes.append(f"{place}: {text} here; a run must find it in the plugins the spec lists")
        else:
            self.problems.append(Problem(place, path, text, suggestion(name, known or registry.names())))


def check_tree(tree: Tree, findings: Findings) -> None:
    """Checks that need no valid model: names and options of passes, policies, optimizers and penalties."""
    for path, action in _actions(tree):
        _check_named(passes, path, action, findings)
    for index, phase in children(tree.child("phases")):
        policy = phase.child("policy")
        if policy is not None:
            _check_named(policies, ("phases", index, "policy"), policy, findings)
        _check_trained(index, phase, findings)


def _check_trained(index: int | str, phase: Tree, findings: Findings) -> None:
    """The optimizer and the penalties of a phase; a known name without options is what the model refuses."""
    named: list[tuple[Registry, Path, Tree]] = []
    optimizer = phase.child("optimizer")
    if optimizer is not None:
        named.append((optimizers, ("phases", index, "optimizer"), optimizer))
    for number, term in children(phase.child("regularize")):
        named.append((penalties, ("phases", index, "regularize", number), term))
    for registry, path, tree in named:
        if isinstance(tree.value, Mapping) or tree.value not in registry.names():
            _check_named(registry, path, tree, findings)


def _actions(tree: Tree) -> Iterator[tuple[Path, Tree]]:
    """Path and value of each `do:`."""
    for phase_index, phase in children(tree.child("phases")):
        for rule_index, rule in children(phase.child("rules")):
            action = rule.child("do")
            if action is not None:
                yield ("phases", phase_index, "rules", rule_index, "do"), action


def rule_passes(tree: Tree) -> Iterator[Any]:
    """The pass of each rule of a checked tree, except those whose names are not known here."""
    for _, action in _actions(tree):
        named = _named(action)
        if named is not None and find(passes, named[0]) is not None:
            yield make_pass(*named)


def _named(action: Tree) -> tuple[str, Any] | None:
    """The name and the options of a pass or a policy, as written."""
    if isinstance(action.value, str):
        return action.value, {}
    if isinstance(action.value, Mapping) and len(action.value) == 1:
        [(name, entry)] = action.value.items()
        return name, entry.tree.plain() or {}
    return None


def _check_named(registry: Registry, path: Path, action: Tree, findings: Findings) -> None:
    """The name and the options of a pass or a policy."""
    named = _named(action)
    if named is None:
        return
    name, options = named
    at = (*path, name)
    try:
        made = find(registry, name)
    except NasirError as error:
        findings.add_key(at, str(error), "mend or remove it")
        return
    if made is None:
        findings.unknown(registry, at, name, is_key=True)
        return
    kind = policy_options(made) if registry is policies else made
    if not isinstance(options, dict) or not isinstance(kind, type):
        return
    for below, text, remedy in option_faults(kind, options, registry.kind):
        where = (*at, *below)
        if text == UNKNOWN_OPTION:
            findings.add_key(where, f"{text} of {name}", remedy)
        else:
            findings.add(where, text, remedy)


def check_spec(spec: Spec, findings: Findings) -> None:
    """Checks of a valid model as a whole."""
    _check_network(spec, findings)
    _check_data(spec, findings)
    _check_computing(spec, findings)
    _unique([(("phases", i, "name"), phase.name) for i, phase in enumerate(spec.phases)], "phase", findings)
    if spec.phases[0].optimizer is None:
        findings.add(("phases", 0), "the first phase has no optimizer", "add `optimizer: {sgd: {lr: 0.1}}`")
    for index, phase in enumerate(spec.phases):
        before = len(findings.problems)
        _check_phase(spec, phase, ("phases", index), findings)
        if len(findings.problems) == before:
            _check_plans(spec, phase, ("phases", index), findings)


def _unique(
    named: Iterable[tuple[Path, str]], what: str, findings: Findings, remedy: str = "give each its own name"
) -> None:
    seen: dict[str, Path] = {}
    for path, name in named:
        if name in seen:
            first = locate(findings.tree, seen[name])
            findings.add(path, f"the {what} {name!r} exists already, at line {first.line}", remedy)
        seen.setdefault(name, path)


def _stages(spec: Spec) -> dict[str, Path]:
    stages: dict[str, Path] = {}
    for index, step in enumerate(spec.steps):
        if isinstance(step.chosen, StageStep):
            stages.setdefault(step.chosen.name, ("network", index, "stage", "name"))
    return stages


def _check_network(spec: Spec, findings: Findings) -> None:
    stages = [(i, step.chosen) for i, step in enumerate(spec.steps) if isinstance(step.chosen, StageStep)]
    _unique([(("network", i, "stage", "name"), stage.name) for i, stage in stages], "stage", findings)
    known_blocks = sorted({*blocks.names(), *spec.blocks})
    for index, stage in stages:
        if blocks.names() and stage.block not in known_blocks:
            findings.unknown(blocks, ("network", index, "stage", "block"), stage.block, known_blocks)
    known_steps = [*Step.kinds(), *STEPS, *ops.names(), *known_blocks]
    for index, step in enumerate(spec.steps):
        if ops.names() and step.kind not in known_steps:
            findings.unknown(ops, ("network", index, step.kind), step.kind, known_steps, is_key=True, what="step")


def _check_data(spec: Spec, findings: Findings) -> None:
    name = spec.data.dataset
    if datasets.names() and name not in datasets.names():
        findings.unknown(datasets, ("data", "dataset"), name)
    if spec.input.vector is not None and spec.data.augment:
        findings.add(("data", "augment"), "only images can be augmented, the input is a vector", "remove `augment`")


def _check_computing(spec: Spec, findings: Findings) -> None:
    """What computes, and settings of the whole run that exclude each other."""
    if spec.backend not in backends.names():  # only a run imports it
        findings.unknown(backends, ("backend",), spec.backend)
    if spec.precision == "tf32" and spec.device == "cpu":
        findings.add(("precision",), "tf32 needs a CUDA device, but `device` is cpu", "use fp32 or auto")
    if spec.compile == "auto" and spec.deterministic:
        text = "auto goes by measured time, which differs from run to run, and `deterministic` is true"
        findings.add(("compile",), text, "use false or blocks")


def _check_phase(spec: Spec, phase: Phase, path: Path, findings: Findings) -> None:
    policy = find(policies, phase.policy_name)
    endless = phase.epochs is None and phase.until is None and phase.budget is None
    if endless and policy is not None and not hasattr(policy, "faults"):
        remedy = "add `epochs`, `until` or `budget`"
        findings.add(path, f"the phase {phase.name!r} never ends", remedy)
    if phase.epochs is None and phase.schedule.needs_length:
        findings.add(
            (*path, "schedule"),
            f"{phase.schedule.kind} needs to know how long the phase is",
            f"add `epochs` to the phase or `restart` to {phase.schedule.kind}",
        )
    if phase.policy_name == RULES and phase.until == "all_frozen" and not any(rule.can_freeze for rule in phase.rules):
        remedy = "add `freeze`, `at_most` or `budget` to a rule"
        findings.add((*path, "until"), "no rule of the phase ever freezes a stage", remedy)
    _check_turns(phase, path, findings)
    if isinstance(phase.until, Condition):
        _check_condition(spec, phase, phase.until, (*path, "until"), findings)
    for index, rule in enumerate(phase.rules):
        _check_rule(spec, phase, rule, (*path, "rules", index), findings)


def _check_turns(phase: Phase, path: Path, findings: Findings) -> None:
    """A phase that waits for rules to be stopped by what others, which nothing stops, undo again and again."""
    budget = phase.budget
    bounded = phase.epochs is not None or (budget is not None and (budget.epochs, budget.seconds) != (None, None))
    if phase.policy_name != RULES or phase.until != "all_frozen" or bounded:
        return
    lasting = [(index, rule) for index, rule in enumerate(phase.rules) if rule.goes_on_for_ever]
    undoing = [(index, rule) for index, rule in lasting if (change := pass_of(rule)) is not None and change.shrinks]
    for index, rule in lasting:
        number, other = next(((number, other) for number, other in undoing if number != index), (0, None))
        if other is None or not rule.can_freeze:
            continue
        bound = next(key for key in ("at_most", "budget", "trial") if getattr(rule, key) is not None)
        stopped = locate(findings.tree, (*path, "rules", index, bound)).line
        undone = locate(findings.tree, (*path, "rules", number, "do")).line
        text = (
            f"may never hold: what stops {rule.pass_name} (`{bound}`, line {stopped}) is undone by {other.pass_name} "
            f"(line {undone}) again and again"
        )
        remedy = f"give the phase `epochs`, or `freeze` or `decline: stop` to the rule of {rule.pass_name}"
        findings.add((*path, "until"), text, remedy)
        return


def _check_rule(spec: Spec, phase: Phase, rule: Rule, path: Path, findings: Findings) -> None:
    stages = _stages(spec)
    if phase.policy_name == RULES and rule.every is None and rule.when is None:
        findings.add(path, "the rule never acts", "add `every: 3 epochs` or `when: {at: [10]}`")
    if phase.policy_name == RULES and rule.weight is not None:
        remedy = "remove it, or give the phase a policy that does, such as `policy: evolve`"
        findings.add_key((*path, "weight"), "the policy `rules` does not draw among its rules", remedy)
    if spec.steps:
        for index, name in enumerate(rule.where.stages):
            if name not in stages and not _comes_to_be(name, stages, spec, phase):
                remedy = suggestion(name, stages) if stages else "the network has no stages; add a `stage` step"
                findings.add((*path, "where", "stages", index), f"unknown stage {name!r}", remedy)
    _check_frozen(phase, rule, stages, path, findings)
    for key, condition in (("when", rule.when), ("freeze", rule.freeze)):
        if condition is not None:
            _check_condition(spec, phase, condition, (*path, key), findings)
    if rule.trial is not None:
        _check_metric(spec, rule.trial.metric, (*path, "trial", "metric"), findings)
    if phase.epochs is not None and rule.every is not None and rule.every > phase.epochs:
        place = locate(findings.tree, (*path, "every"))
        findings.notes.append(f"{place}: the rule acts every {rule.every} epochs, the phase has only {phase.epochs}")


def _comes_to_be(name: str, stages: Iterable[str], spec: Spec, phase: Phase) -> bool:
    """Whether a stage may have this name in a phase, because a pass in it or before puts stages below others.

    Which names that gives is known once there is a network; a run looks for them before it begins.
    """
    if not any(name.endswith(f".{stage}") for stage in stages):
        return False
    until_then = spec.phases[: spec.phases.index(phase) + 1]
    makers = [find(passes, rule.pass_name) for earlier in until_then for rule in earlier.rules]
    return any(getattr(made, "moves", False) for made in makers)


def _check_frozen(phase: Phase, rule: Rule, stages: Iterable[str], path: Path, findings: Findings) -> None:
    """A pass that has its new weights trained at once finds none to train in places that the phase freezes."""
    where = rule.where
    named = tuple(where.sites or where.stages or stages)
    # what is made at a block is placed beside it
    homes = [name if name in stages else name.rpartition(".")[0] for name in named]
    frozen = [any(covers(prefix, home) for prefix in phase.freeze or ()) for home in homes]
    if not frozen or not all(frozen):
        return
    change = pass_of(rule)
    if change is not None and change.settles:
        text = f"{rule.pass_name} trains what it makes, and the phase freezes {', '.join(named)}: it could never act"
        findings.add((*path, "do"), text, "use another `init`, or take it out of `freeze`")


def pass_of(rule: Rule) -> Pass | None:
    """The pass of a rule, None where only a plugin knows it, or where it is reported elsewhere."""
    try:
        return make_pass(rule.pass_name, rule.options)
    except NasirError:
        return None


def _check_condition(spec: Spec, phase: Phase, condition: Condition, path: Path, findings: Findings) -> None:
    metric = condition.metric
    if metric is None:
        late = [epoch for epoch in condition.at or () if phase.epochs is not None and epoch > phase.epochs]
        if late:
            place = locate(findings.tree, (*path, "at"))
            length = counted(phase.epochs or 0, "epoch")
            findings.notes.append(f"{place}: epoch {late[0]} is after the end of the phase ({length})")
        return
    _check_metric(spec, metric, (*path, condition.kind, "metric"), findings)


def _check_metric(spec: Spec, metric: str, at: Path, findings: Findings) -> None:
    extra = {f"val.{name}" for name in spec.data.metrics or ()}
    if metric in {f"val.{name}" for name in get_args(ExtraMetric)} - extra:
        name = metric.partition(".")[2]
        findings.add(at, f"{metric} is not measured", f"add it to the data: `metrics: [{name}]`")
    elif metric not in METRICS and metric not in extra:
        findings.add(at, f"unknown metric {metric!r}", suggestion(metric, [*METRICS, *sorted(extra)]))
    elif metric.startswith("val.") and spec.data.validation == 0:
        remedy = "set `data.validation`, such as 0.1, or use a train metric"
        findings.add(at, f"{metric} needs validation data, and `data.validation` is 0", remedy)


def _check_plans(spec: Spec, phase: Phase, path: Path, findings: Findings) -> None:
    """The plans check themselves too; whatever they refuse is a problem of the phase."""
    try:
        phase.plan()
    except OptionError as error:
        for below, text, remedy in error.faults:
            findings.add((*path, *below), text, remedy)
    else:
        _check_policy(spec, phase, path, findings)
    named: list[tuple[Path, Optimizer | Penalty]] = []
    named += [((*path, "regularize", number), term) for number, term in enumerate(phase.regularize)]
    named += [] if phase.optimizer is None else [((*path, "optimizer"), phase.optimizer)]
    # a name that is not found here is one that only a plugin knows
    for at, make in ((at, chosen.plan) for at, chosen in named if find(chosen.registry, chosen.kind) is not None):
        try:
            make()
        except (ValueError, NasirError) as error:
            findings.add(at, str(error), "")


def _check_policy(spec: Spec, phase: Phase, path: Path, findings: Findings) -> None:
    """Check the phase by the policy itself, what it reads, and that the learning rate fits networks it recalls."""
    plan = phase.plan()
    policy = find(policies, plan.policy)
    if policy is None:
        return
    try:
        _ask_policy(spec, phase, plan, policy, path, findings)
    except NasirError as error:
        findings.add((*path, "policy"), str(error), "")


def _ask_policy(spec: Spec, phase: Phase, plan: PhasePlan, policy: Any, path: Path, findings: Findings) -> None:
    options = options_for(policy, plan)
    given = () if isinstance(options, NoOptions) else (options,)
    if hasattr(policy, "faults"):
        with code_of(policy, f"policy {plan.policy}", "mend its `faults`"):
            for below, text, remedy in policy.faults(plan, *given):
                if locate(findings.tree, (*path, *below)) != NOWHERE:
                    findings.add((*path, *below), text, remedy)
    if not findings.problems:
        make_policy(plan, spec.seed)
    for metric in getattr(options, "metrics", ()):
        if metric in METRICS:
            _check_metric(spec, metric, (*path, "policy", plan.policy), findings)
    schedule = phase.schedule_plan()
    if not hasattr(policy, "cycle") or schedule.kind == "constant":
        return
    with code_of(policy, f"policy {plan.policy}", "mend its `cycle`"):
        cycle = policy.cycle(*given)
    if schedule.restart is None or cycle % schedule.restart:
        text = (
            f"{plan.policy} may go on with another network after {counted(cycle, 'epoch')}, the learning rate does not "
            "start over"
        )
        remedy = f"write `constant`, or `{schedule.kind}` with `restart: {counted(cycle, 'epoch')}`"
        findings.add((*path, "schedule"), text, remedy)
