"""`Model`: a graph as an ordinary `nn.Module`, observed and rewritten in place by passes, with its optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self, overload

import torch
from torch import Tensor, nn

from nasir.analysis.contributions import ResidualAnalysis, Statistics
from nasir.backends.torch.applying import rewrite_of
from nasir.backends.torch.lower import attached
from nasir.backends.torch.lower.build import build
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.lower.parts import LOWERED, is_generated
from nasir.backends.torch.observe.evidence import observe
from nasir.backends.torch.observe.residuals import analyze, inputs_of
from nasir.backends.torch.observe.shifts import variance_shifts
from nasir.backends.torch.optimizers import forgotten
from nasir.backends.torch.optimizers.gradients import moved_gradients
from nasir.backends.torch.optimizers.transfer import transfer_optimizers
from nasir.backends.torch.train.averages import checked_averages, moved_averages
from nasir.backends.torch.wrapped import refuse_wrapped
from nasir.errors import Decline, UsageError
from nasir.ir import Graph
from nasir.ir.infer import collector_paused
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import Pass, Rewrite, Site


class Origin(Protocol):
    """Where an imported model comes from."""

    def module_of(self, model: LoweredModule) -> nn.Module:
        """The module with the tensors of `model`."""


class Model(LoweredModule):
    """A network lowered from `graph`. Make one with `Model.from_graph` or `from_module`; change it with `apply`.

    Inputs are [N, *input shape], the result is the graph's output (a tuple when it has several).
    """

    origin: Origin | None

    def __init__(self) -> None:
        super().__init__()
        self.origin = None

    def observe(self, needs: Iterable[Need], images: Tensor | None = None, labels: Tensor | None = None) -> Evidence:
        """What a pass needs to see before its next rewrite of this model: `change.attempt(graph, site, seen)`.

        Activations are measured on `images` [N, ...], gradients on them and `labels` [N]; raises NasirError where
        they are missing.
        """
        self._adopt()
        return observe(self, needs, images, labels, seed=self.seed, ordinal=self.ordinal + 1)

    def analyze_residual(
        self,
        inputs: Tensor | tuple[Any, ...],
        labels: Tensor | None = None,
        *,
        statistics: Statistics = "running",
        orders: int | None = None,
    ) -> ResidualAnalysis:
        """What each residual branch contributes to the stream that it is added to: norms, variances, gradients.

        `inputs`: a batch, as this model is called with it (several arguments as a tuple). One forward pass in
        evaluation; with `labels` [N], classes, also a backward pass of their cross entropy. `statistics`: "running", or
        "batch" to let batch norms normalize by the batch as in training, which tells more of fresh weights. `orders`:
        also the residual expansion of the logits up to this order, for small networks. The model is left as it was.
        Raises UsageError where a block was replaced by hand, or where the expansion would run too many networks.
        """
        self._adopt()
        return analyze(self, inputs, labels, statistics, orders)

    def variance_shifts(self, inputs: Tensor | tuple[Any, ...]) -> dict[str, float]:
        """How much more the input of each norm with running statistics varies with what drops in training than without.

        `inputs`: a batch, as this model is called with it (several arguments as a tuple). By label of the norm,
        variance with dropping / variance without it: 1 where nothing before it drops. The model is left as it was.
        Raises UsageError where a block was replaced by hand.
        """
        self._adopt()
        return variance_shifts(self, inputs_of(self, inputs))

    @overload
    def apply(
        self,
        change: Pass,
        /,
        site: Site,
        *,
        optimizers: Iterable[torch.optim.Optimizer] = (),
        averages: Iterable[Any] = (),
        images: Tensor | None = None,
        labels: Tensor | None = None,
        on_decline: Callable[[Decline], Any] | None = None,
    ) -> Rewrite | None: ...

    @overload
    def apply(
        self, rewrite: Rewrite, /, *, optimizers: Iterable[torch.optim.Optimizer] = (), averages: Iterable[Any] = ()
    ) -> Rewrite: ...

    @overload
    def apply(self, fn: Callable[[nn.Module], Any]) -> Self: ...

    def apply(
        self,
        fn: Any,
        site: Site | None = None,
        *,
        optimizers: Iterable[torch.optim.Optimizer] = (),
        averages: Iterable[Any] = (),
        images: Tensor | None = None,
        labels: Tensor | None = None,
        on_decline: Callable[[Decline], Any] | None = None,
    ) -> Rewrite | Self | None:
        """Rewrite this model in place, with the state of its optimizers; or call a function on every submodule.

        - `apply(change, site, optimizers=...)`: what the Pass needs is measured first, activations on `images`
          [N, ...], gradients on them and `labels` [N]. Returns the Rewrite, or None when the pass declines:
          `on_decline` then gets the Decline, whose text is the reason (`on_decline=print` prints it).
        - `apply(rewrite, optimizers=...)`: carries out a Rewrite that was made for this model's graph.
        - `apply(fn)`: as in nn.Module, `fn` is called on every submodule and then on this model, which is returned.

        `averages` of the weights (`AveragedModel(model)`, say) go through the same plan. The model and the optimizers
        stay the same objects; gradients that have been accumulated are carried, too. An
        optimizer that holds this model's parameters and is not given is told of at its next step (NasirWarning). Raises
        UsageError for what is none of the three, and for arguments that do not go with it, before anything changes.
        """
        change = rewrite_of(self.graph, self.observe, fn, site, optimizers, averages, images, labels, on_decline)
        if change is None:
            return None
        if not isinstance(change, Rewrite):
            return super().apply(change)
        refuse_wrapped(self)
        given, following = tuple(optimizers), checked_averages(averages, self)
        before, held = forgotten.learning(self), forgotten.held_by(given)
        with collector_paused():
            new = self.rewritten(change)
            gradients = moved_gradients(self, new, change.plan)
            moves = moved_averages(following, self, new, change)
            transfer_optimizers(given, self, new, change.plan, change.blobs)
            self.become(new)
            for move in moves:
                move()
        for parameter, gradient in gradients:
            parameter.grad = gradient if parameter.requires_grad else None
        forgotten.note(self, before, held, given, f"{change.made_by.get('pass')} at {change.site}")
        return change

    def to_module(self) -> nn.Module:
        """The module that this model was imported from, with the tensors that the model has now: the user's own object
        where it is still there and no size has changed, else one like it.

        Its code stays as it was written, so raises UsageError where a rewrite changed more than sizes, naming what,
        and where with the new sizes the module does not compute what the model does (both run on the example).
        """
        if self.origin is None:
            raise UsageError(
                "to_module: this model was not imported from a module in this process; import one by from_module, and "
                "load the weights into it"
            )
        self._adopt()
        return self.origin.module_of(self)

    def _was_replaced(self, was: nn.Module, now: nn.Module, path: str) -> None:
        forgotten.note_replaced(self, was, now, path)

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, and so for torch.save: the graph as data, and the modules of its nodes."""
        added = self._adopt().added
        own = {name: value for name, value in self._own().items() if name not in (*LOWERED, "_modules")}
        leaves = {node_id: module for node_id, module in self._lowered.items() if isinstance(module, nn.Module)}
        blocks = {path: block for path, (_, sign, block) in self._units.items() if not is_generated(sign, block)}
        return _revived, (type(self), self.graph.to_json(), own, leaves, blocks, attached.state_of(self._places), added)


def _revived(
    kind: type[Model],
    graph: Mapping[str, Any],
    own: Mapping[str, Any],
    leaves: Mapping[int, nn.Module],
    blocks: Mapping[str, nn.Module],
    state: Mapping[str, Mapping[str, Any]],
    added: Sequence[tuple[str, str, nn.Module | None]],
) -> Model:
    """A model from what `Model.__reduce__` gives; raises UnknownName for ops that no plugin has registered yet."""
    model = kind()
    model.training, model.calling, model.over = own["training"], own.get("calling"), own.get("over", frozenset())
    build(model, Graph.from_json(graph), {}, None, leaves)
    model.__dict__.update(own)
    attached.give_state(model._places, state)
    for path, block in blocks.items():
        place, _, name = path.rpartition(".")
        model.get_submodule(place).add_module(name, block)
    for path, name, module in added:
        model.get_submodule(path).add_module(name, module)
    model._adopt()
    return model
