"""Passes and policies by name, with the options that a spec gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nasir.errors import NasirError, OptionError, UnknownName
from nasir.options import Fault, construct
from nasir.policy.base import Policy
from nasir.policy.plans import PhasePlan
from nasir.registry import Registry, code_of, policies, source_of


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a policy that has none."""


def make_policy(plan: PhasePlan, seed: int) -> Policy:
    """The policy of a phase; raises UnknownName, OptionError naming each wrong option, or NasirError where what is
    registered cannot be made, or does not decide."""
    made = policies.get(plan.policy)
    options = options_for(made, plan)
    arguments = (plan, seed) if isinstance(options, NoOptions) else (plan, seed, options)
    signature = ", ".join(("plan", "seed", "options")[: len(arguments)])
    with code_of(made, f"policy {plan.policy}", f"it is made as {getattr(made, '__name__', 'Policy')}({signature})"):
        policy: Policy = made(*arguments)
    if not callable(getattr(policy, "decide", None)):
        raise NasirError(
            f"policy {plan.policy} ({source_of(made)}) has no method `decide`; define `decide(self, history, view)`, "
            "which gives a tuple of decisions"
        )
    return policy


def options_for(policy: Any, plan: PhasePlan) -> Any:
    """The options of a registered policy for a phase; raises OptionError naming each wrong one."""
    return construct(policy_options(policy), plan.policy_options, f"policy {plan.policy}")


def policy_options(made: Any) -> type:
    """The dataclass of the options of a registered policy."""
    kind: type = getattr(made, "Options", NoOptions)
    return kind


def option_faults(made: type, options: Mapping[str, Any], kind: str = "pass") -> list[Fault]:
    """All faults of the options of a pass (or another kind of thing); what its own checks refuse only if the
    types are right."""
    if not dataclasses.is_dataclass(made):
        whose = "the pass" if kind == "pass" else f"the options of the {kind}"
        return [((), f"{made.__qualname__} is not a dataclass", f"write @dataclass(frozen=True) above {whose}")]
    try:
        construct(made, options, kind)
    except OptionError as error:
        return list(error.faults)
    return []


def find(registry: Registry, name: str) -> Any | None:
    """What is registered as `name`, None if nothing is; raises NasirError where it is broken."""
    try:
        return registry.get(name)
    except UnknownName:
        return None
