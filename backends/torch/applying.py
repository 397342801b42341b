"""What `Model.apply` is given: a pass with a site, a rewrite, or a plain function; anything else is refused here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from nasir.errors import Decline, UsageError
from nasir.ir import Graph
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import Pass, Rewrite, Site, site_name


def rewrite_of(
    graph: Graph,
    observe: Callable[[Iterable[Need], Tensor | None, Tensor | None], Evidence],
    given: Any,
    site: Site | None,
    optimizers: Iterable[Optimizer],
    averages: Iterable[Any],
    images: Tensor | None,
    labels: Tensor | None,
    on_decline: Callable[[Decline], Any] | None,
) -> Rewrite | Callable[..., Any] | None:
    """The rewrite to carry out, None where the pass declines, or the function to call on every submodule.

    `graph` is the model's, `observe` its method of that name. Raises UsageError for what is none of these, and for
    arguments that do not go with it.
    """
    if isinstance(optimizers, Optimizer):
        raise UsageError("apply: `optimizers` is a list of optimizers; write optimizers=[optimizer]")
    if isinstance(given, Pass):
        if site is None:
            known = ", ".join(map(site_name, given.sites(graph))) or "none in this network"
            raise UsageError(f"apply({type(given).__name__}): give the site to act on, too; it has {known:.300}")
        return given.apply(graph, site, observe(given.needs, images, labels), on_decline=on_decline)
    if isinstance(given, Rewrite):
        if site is not None:
            raise UsageError(f"apply(rewrite): it was made for the site {given.site}; leave out {site_name(site)!r}")
        return given
    if given is None:
        raise UsageError(
            "apply(None): this is no rewrite; a pass that declines gives None: test for that first, or give the pass "
            "itself, as in model.apply(change, site, on_decline=print)"
        )
    if isinstance(given, type) and issubclass(given, Pass):
        raise UsageError(f"apply({given.__name__}): this is the class of a pass; make one: {given.__name__}(...)")
    if not callable(given):
        raise UsageError(f"apply: expected a pass, a rewrite or a function, not {given!r:.80}")
    others = {"site": site, "images": images, "labels": labels, "on_decline": on_decline}
    extra = [name for name, value in others.items() if value is not None]
    extra += [name for name, values in (("optimizers", optimizers), ("averages", averages)) if [*values]]
    if extra:
        raise UsageError(f"apply: a function takes no {', '.join(extra)}; only a pass does (got {given!r:.80})")
    function: Callable[..., Any] = given
    return function
