"""A model in one file, with its optimizers, schedulers and averages: a loop of your own goes on in another process.

    nasir.save("last.nasir", model, optimizers=[optimizer], schedulers=[scheduler], averages=[ema], extra={"step": 7})

    stored = nasir.load("last.nasir")
    model = stored.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    stored.restore(optimizers=[optimizer], schedulers=[...], averages=[...])
    step = stored.extra["step"]

The file is safetensors, with JSON as its metadata; there is no pickle in it. State goes by the names of parameters.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from nasir.backends.torch.device.names import device_named
from nasir.backends.torch.lower import attached
from nasir.backends.torch.lower.interface import Calling
from nasir.backends.torch.lower.module import zeros_of
from nasir.backends.torch.model import Model
from nasir.backends.torch.optimizers import momentum
from nasir.backends.torch.optimizers.named import place_state
from nasir.backends.torch.optimizers.starting import JOINED
from nasir.backends.torch.optimizers.wrappers import add_group, attributes, holders
from nasir.backends.torch.weights.checkpoint import host
from nasir.backends.torch.weights.plain import packed, unpacked
from nasir.errors import CheckpointError, NasirError, UsageError
from nasir.files import canonical_json, json_value, replacing
from nasir.importing.interface import Interface
from nasir.ir import JSON, Graph
from nasir.version import VERSION

FORMAT = 1
KINDS = {"collections.OrderedDict": OrderedDict}  # classes in the outputs of imported networks that a file may name
METADATA = "nasir"  # the key of our JSON in the metadata of a file
BESIDE = ("others", "random")  # what an optimizer may keep beside the state of parameters
NOT_OPTIONS = ("params", "param_names")  # of a group: they follow the model


class Stateful(Protocol):
    """A scheduler, an average, or whatever else has its state in a `state_dict`."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def save(
    path: Path | str,
    model: Model,
    *,
    optimizers: Iterable[Optimizer] = (),
    schedulers: Iterable[Stateful] = (),
    averages: Iterable[Stateful] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `model`, and all that training needs to go on bit for bit, to the file `path`, whole or not at all.

    Stored are graph, weights, buffers, seed, number of rewrites, what is frozen and in eval mode, attributes of layers
    that were set by hand (`momentum`, say) and layers of another class of torch.nn (SyncBatchNorm); state and group
    options of `optimizers`; the state of `schedulers` and `averages` (`AveragedModel`s, say); torch's random state; and
    `extra`: numbers, texts, None, tensors, and lists, tuples, sets and dicts of these. Gradients and hooks are not.

    Raises UsageError for what cannot be stored, CheckpointError where the disk refuses; the file is then as it was.
    """
    path = Path(path)
    model._adopt()
    _refuse_live(model.graph)
    calling = _calling(model)
    tensors = _weights(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    body: dict[str, Any] = {
        "format": FORMAT,
        "nasir": VERSION,
        "graph": model.graph.to_json(),
        **calling,
        "seed": model.seed,
        "ordinal": model.ordinal,
        "channels_last": model.channels_last,
        "strides": {name: list(t.stride()) for name, t in model.tensors().items() if _is_channels_last(t)},
        "settings": {
            path: {"class": kind, "attributes": packed(attributes, tensors, f"settings/{path}")}
            for path, (kind, attributes) in attached.settings(model).items()
        },
        "held": list(model.held_prefixes),
        "fixed": [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
        "evaluating": [name for name, module in model.named_modules() if not module.training],
        "optimizers": [
            _optimizer(optimizer, names, tensors, f"optimizers/{index}") for index, optimizer in enumerate(optimizers)
        ],
        "schedulers": _states(schedulers, tensors, "schedulers"),
        "averages": _states(averages, tensors, "averages"),
        "random": packed(_random(), tensors, "random"),
        "extra": packed(dict(extra or {}), tensors, "extra"),
    }
    seen: set[int] = set()
    written = {name: host(tensor.detach().cpu(), seen) for name, tensor in tensors.items()}
    body["sha256"] = _digest(body, written)
    try:
        with replacing(path) as beside:
            text = canonical_json(body).decode("utf-8")
            safetensors.torch.save_file(written, beside, metadata={"format": "pt", METADATA: text})
    except (OSError, SafetensorError, MemoryError) as error:
        raise CheckpointError(f"{path}: not written: {error}; what was there before is unchanged") from error


def _refuse_live(graph: Graph) -> None:
    """UsageError for a network with modules of the user's own, which a graph only names."""
    for node in graph.nodes.values():
        if node.facts.family == "opaque" and node.attrs.get("live"):
            raise UsageError(
                f"'{node.label}' is a {node.attrs['runs'].rpartition('.')[2]} of an imported module, which a file of "
                "data cannot hold; store the model by torch.save(model), or its state_dict"
            )


def _calling(model: Model) -> dict[str, JSON]:
    """How an imported network is called, as JSON data; UsageError where that takes classes of somebody's own."""
    if model.calling is None:
        return {}
    interface = model.calling.interface
    own = sorted(interface.kinds - KINDS.keys())
    if own:
        raise UsageError(
            f"the network takes or returns a {own[0]}, which a file of data cannot hold; import it with "
            "call=lambda module, *args: ..., which returns tensors or a dict, or store it by torch.save(model)"
        )
    try:
        return {"interface": interface.to_json()}
    except TypeError as error:
        raise UsageError(
            f"the network takes what a file of data cannot hold ({error}); store it by torch.save(model)"
        ) from None


def load(path: Path | str, device: torch.device | str = "cpu") -> Stored:
    """Read a file of `save`: the model on `device`, the caller's `extra`, and what `restore` gives back.

    CheckpointError for a file that is missing, damaged, or not of `save`.
    """
    path, place = Path(path), device_named(device)
    body, tensors = _read(path)
    try:
        model = _model(body, tensors, place)
        extra = unpacked(body["extra"], tensors)
        _check_states(body, tensors)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except NasirError as error:
        error.add_note(f"while reading {path}")
        raise
    except Exception as error:  # the digest was right: a file of another version, or one made to do harm
        raise CheckpointError(f"{path}: not what this version of nasir stores ({error!r:.200})") from error
    return Stored(path, model, extra, body, tensors)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Stored:
    """What a file held: `model`, and the caller's `extra`; `restore` gives back the rest."""

    path: Path
    model: Model
    extra: dict[str, Any]
    _body: Mapping[str, Any]
    _tensors: Mapping[str, Tensor]

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self._body[kind])} {kind}" for kind in ("optimizers", "schedulers", "averages"))
        return f"<Stored: {self.model.graph!r}, {counts}>"

    def restore(
        self,
        *,
        optimizers: Iterable[Optimizer] = (),
        schedulers: Iterable[Stateful] = (),
        averages: Iterable[Stateful] = (),
        random: bool = True,
    ) -> None:
        """Put back the state of everything that was stored, into objects made anew for `model` in the same way.

        Give as many of each kind as were stored, in the same order. Which parameters stand in which group of an
        optimizer, and the options of the groups, are those stored. `random`: torch's generators go on, too, where they
        were; those of the CPU, and of CUDA devices where there are some.

        CheckpointError, before anything changes, where a kind, a name or a shape is not that stored.
        """
        chosen = tuple(optimizers)
        given = {"schedulers": tuple(schedulers), "averages": tuple(averages)}
        for kind, objects in {"optimizers": chosen, **given}.items():
            if len(objects) != len(self._body[kind]):
                raise CheckpointError(
                    f"{self.path}: {len(self._body[kind])} {kind} were stored, {len(objects)} are given; "
                    f"give all to restore({kind}=[...])"
                )
        named = dict(self.model.named_parameters())
        for index, optimizer in enumerate(chosen):
            self._check_optimizer(optimizer, self._body["optimizers"][index], named, f"optimizers[{index}]")
        states: list[tuple[Stateful, Any]] = []
        for kind, things in given.items():
            for index, thing in enumerate(things):
                states.append((thing, self._checked(thing, self._body[kind][index], f"{kind}[{index}]")))
        for index, optimizer in enumerate(chosen):
            self._restore_optimizer(optimizer, self._body["optimizers"][index], named)
        for thing, state in states:
            thing.load_state_dict(state)
        if random:
            _go_on(unpacked(self._body["random"], self._tensors))

    def _check_kind(self, thing: object, stored: Mapping[str, Any], place: str) -> None:
        if type(thing).__qualname__ != stored["kind"]:
            raise CheckpointError(
                f"{self.path}: {place} was a {stored['kind']}, given is a {type(thing).__qualname__}; make it as before"
            )

    def _check_optimizer(
        self, optimizer: Optimizer, stored: Mapping[str, Any], named: Mapping[str, Tensor], place: str
    ) -> None:
        self._check_kind(optimizer, stored, place)
        groups = stored["groups"]
        first = [group for group in groups if not _was_added(group)]
        if len(optimizer.param_groups) != len(first):
            raise CheckpointError(
                f"{self.path}: {place} had {len(first)} groups, given are {len(optimizer.param_groups)}; "
                "make it as before"
            )
        parts, kept = holders(optimizer), (stored, *stored.get("inner", ()))
        drawing = [set(unpacked(part["random"], self._tensors)) if "random" in part else set() for part in kept]
        if drawing != [set(_generators(part)) for part in parts]:
            raise CheckpointError(
                f"{self.path}: {place} does not wrap what it wrapped, or draws no random numbers of its own as it did; "
                "make it as before"
            )
        names = {id(parameter): name for name, parameter in named.items()}
        held = {names.get(id(p), "a parameter of another model") for g in optimizer.param_groups for p in g["params"]}
        wanted = {name for group in groups for name in group["params"]}
        if odd := sorted(held ^ wanted):
            raise CheckpointError(
                f"{self.path}: {place} does not hold the parameters that it held, but differs in {', '.join(odd[:3])} "
                f"({len(odd)} in all); make it of stored.model.parameters(), as before"
            )

    def _checked(self, thing: Stateful, stored: Mapping[str, Any], place: str) -> Any:
        """The stored state of a scheduler or an average, once it is seen to fit."""
        self._check_kind(thing, stored, place)
        state = unpacked(stored["state"], self._tensors)
        if isinstance(thing, nn.Module):
            own = thing.state_dict()
            odd = sorted(own.keys() ^ state.keys()) or [n for n, t in own.items() if t.shape != state[n].shape]
            if odd:
                raise CheckpointError(
                    f"{self.path}: {place} differs from that stored in {', '.join(odd[:3])} ({len(odd)} in all); "
                    "make it of stored.model, as before"
                )
        return state

    def _restore_optimizer(self, optimizer: Optimizer, stored: Mapping[str, Any], named: Mapping[str, Tensor]) -> None:
        for stored_group in stored["groups"]:
            if _was_added(stored_group):
                add_group(optimizer, optimizer.param_groups[0], dict(optimizer.param_groups[0]))
        for group, stored_group in zip(optimizer.param_groups, stored["groups"], strict=True):
            group["params"] = [named[name] for name in stored_group["params"]]
            if "param_names" in group:
                group["param_names"] = list(stored_group["params"])
            options = unpacked(stored_group["options"], self._tensors)
            for key, value in options.items():
                device = group[key].device if isinstance(group.get(key), Tensor) else self.model_device
                group[key] = value.to(device, copy=True) if isinstance(value, Tensor) else value
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for part, kept in zip(holders(optimizer), (stored, *stored.get("inner", ())), strict=True):
            state: dict[Any, Any] = unpacked(kept["others"], self._tensors) if "others" in kept else {}
            for name, packed_values in kept["state"].items():
                parameter, values = named[name], unpacked(packed_values, self._tensors)
                group = groups[id(parameter)]
                state[parameter] = {key: _placed(name, key, v, parameter, group) for key, v in values.items()}
            part.state.clear()
            part.state.update(state)
            random = unpacked(kept["random"], self._tensors) if "random" in kept else {}
            for name, drawn in random.items():
                own = getattr(part, name)
                own.set_state(drawn) if isinstance(own, torch.Generator) else own.setstate(drawn)
        momentum.prepare(optimizer)

    @property
    def model_device(self) -> torch.device:
        """Where the model lies."""
        return next((tensor.device for tensor in self.model.state_dict().values()), torch.device("cpu"))


def _placed(name: str, key: str, value: Any, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    """A value of an optimizer's state on the device of its parameter; `place_state` for those of its shape."""
    if isinstance(value, Tensor):
        if value.ndim == 0 or value.shape == parameter.shape:
            return place_state(name, key, value, parameter, group)
        return value.to(parameter.device, copy=True)
    if isinstance(value, dict):
        return {label: _placed(name, key, item, parameter, group) for label, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_placed(name, key, item, parameter, group) for item in value)
    return value


def _weights(model: Model) -> dict[str, Tensor]:
    """{"model/name": tensor}; UsageError where the model is no longer what its graph describes."""
    tensors = model.tensors()
    wanted = {name: model.graph.infer.slots[key.node][key.slot].shape for name, key in model.keys().items()}
    odd = sorted(tensors.keys() ^ wanted.keys()) or [n for n, t in tensors.items() if tuple(t.shape) != wanted[n]]
    if odd:
        raise UsageError(
            f"save: {', '.join(odd[:3])} ({len(odd)} in all) of the model are not as its graph says: layers were "
            "replaced by hand; put back layers of the graph's kind, and store others by torch.save(model)"
        )
    return {f"model/{name}": tensor for name, tensor in tensors.items()}


def _optimizer(optimizer: Optimizer, names: Mapping[int, str], tensors: dict[str, Tensor], place: str) -> JSON:
    groups: list[JSON] = []
    for index, group in enumerate(optimizer.param_groups):
        foreign = [tuple(p.shape) for p in group["params"] if id(p) not in names]
        if foreign:
            raise UsageError(
                f"save: {place}, group {index}, holds {len(foreign)} parameters that are not of the model, the first "
                f"of shape {foreign[0]}; give these an optimizer of their own, and store it beside"
            )
        options = {key: value for key, value in group.items() if key not in NOT_OPTIONS}
        groups.append(
            {
                "params": [names[id(p)] for p in group["params"]],
                "options": packed(options, tensors, f"{place}/groups/{index}"),
            }
        )
    outer, *inner = (_kept(part, names, tensors, place) for part in holders(optimizer))
    whole: dict[str, JSON] = {"kind": type(optimizer).__qualname__, "groups": groups, **outer}
    return {**whole, "inner": inner} if inner else whole


def _kept(part: Optimizer, names: Mapping[int, str], tensors: dict[str, Tensor], place: str) -> dict[str, JSON]:
    """The state of an optimizer, or of one that it wraps: by the names of parameters, and what it has beside them."""
    place = f"{place}/{type(part).__name__}/state"
    state: dict[str, JSON] = {}
    others: dict[str, Any] = {}
    for key, entries in part.state.items():
        if not isinstance(key, Tensor):
            others[key] = entries
        elif entries and id(key) in names:
            name = names[id(key)]
            state[name] = packed(dict(entries), tensors, f"{place}/{name}")
    kept: dict[str, Any] = {"others": others, "random": {name: _drawn(own) for name, own in _generators(part).items()}}
    return {"state": state, **{key: packed(value, tensors, f"{place}/{key}") for key, value in kept.items() if value}}


def _generators(part: Any) -> dict[str, torch.Generator | Random]:
    """The sources of random numbers that an optimizer has for itself, by the names of its attributes."""
    return {name: own for name, own in attributes(part).items() if isinstance(own, torch.Generator | Random)}


def _drawn(own: torch.Generator | Random) -> Any:
    return own.get_state() if isinstance(own, torch.Generator) else own.getstate()


def _was_added(group: Mapping[str, Any]) -> bool:
    """Whether a rewrite made a stored group, for parameters that joined later."""
    return any(key == JOINED for key, _ in group["options"]["value"])


def _states(things: Iterable[Stateful], tensors: dict[str, Tensor], kind: str) -> list[JSON]:
    return [
        {"kind": type(thing).__qualname__, "state": packed(_plain(thing.state_dict()), tensors, f"{kind}/{index}")}
        for index, thing in enumerate(things)
    ]


def _plain(state: Any) -> Any:
    """A state dict without the versions that nn.Module hangs on it."""
    return dict(state) if isinstance(state, dict) else state


def _random() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.update((f"cuda:{index}", state) for index, state in enumerate(torch.cuda.get_rng_state_all()))
    return states


def _go_on(random: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(random["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda:{index}" in random:
            torch.cuda.set_rng_state(random[f"cuda:{index}"], index)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _digest(body: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(canonical_json({key: value for key, value in body.items() if key != "sha256"}))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_states(body: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise an error for states that `Stored.restore` could not read."""
    for optimizer in body["optimizers"]:
        _named(optimizer, "kind", "groups", "state", maybe=(*BESIDE, "inner"))
        for part in optimizer.get("inner", ()):
            _named(part, "state", maybe=BESIDE)
        for part in (optimizer, *optimizer.get("inner", ())):
            for state in (*part["state"].values(), *(part[name] for name in BESIDE if name in part)):
                dict(unpacked(state, tensors))
        for group in optimizer["groups"]:
            _named(group, "params", "options")
            dict(unpacked(group["options"], tensors))
            if not all(isinstance(name, str) for name in group["params"]):
                raise TypeError("the parameters of a group are no names")
    for thing in (*body["schedulers"], *body["averages"]):
        _named(thing, "kind", "state")
        unpacked(thing["state"], tensors)
    if "cpu" not in unpacked(body["random"], tensors):
        raise KeyError("cpu")


def _named(data: Mapping[str, Any], *names: str, maybe: Sequence[str] = ()) -> None:
    if data.keys() - {*maybe} != {*names}:
        raise KeyError(f"{', '.join(names)} expected, {', '.join(map(str, data))} found")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA)
            if text is None:
                raise CheckpointError(f"{path}: safetensors, but not a file of nasir.save")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged, or not a file of nasir.save ({error})") from None
    try:
        body = json_value(text)
        whole = _digest(body, tensors) == body["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole, body = False, {}
    if not whole:
        raise CheckpointError(f"{path}: damaged: its contents do not match its own sha256")
    if body.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {body.get('format')!r:.40}, this version of nasir reads {FORMAT}")
    return body, tensors


def _model(body: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> Model:
    if type(body["seed"]) is not int or type(body["ordinal"]) is not int:
        raise TypeError("seed and ordinal are whole numbers")
    graph = Graph.from_json(body["graph"])
    entries = sum(slot.size for slots in graph.infer.slots.values() for slot in slots.values())
    stored_entries = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("model/"))
    if entries > stored_entries:  # before memory is taken for what the graph says
        raise CheckpointError(f"its network has {entries} weights and statistics, {stored_entries} are stored")
    plan, layout = zeros_of(graph), body["channels_last"]
    calling = Calling(Interface.from_json(body["interface"]), KINDS) if "interface" in body else None
    model = Model.from_graph(graph, body["seed"], plan=plan, device=device, channels_last=layout, calling=calling)
    model.ordinal = body["ordinal"]
    own = dict((*model.named_parameters(), *model.named_buffers()))
    strides, fixed = body["strides"], set(body["fixed"])
    with torch.no_grad():
        for name, tensor in own.items():
            stored = tensors[f"model/{name}"]
            if stored.shape != tensor.shape or stored.is_floating_point() != tensor.is_floating_point():
                what = f"{tuple(stored.shape)} of {stored.dtype}"
                raise CheckpointError(f"{name} is stored as {what}, its network has {tuple(tensor.shape)}")
            stride = strides.get(name, stored.stride())
            span = 1 + sum((size - 1) * step for size, step in zip(stored.shape, stride, strict=True))
            if span != stored.numel() or min(stride, default=0) < 0:
                raise CheckpointError(f"{name} is stored with strides {stride}, which its shape has not")
            tensor.data = torch.empty_strided(stored.shape, stride, dtype=stored.dtype, device=device).copy_(stored)
    model.hold(body["held"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in fixed)
    settings = {
        path: (setting["class"], unpacked(setting["attributes"], tensors)) for path, setting in body["settings"].items()
    }
    attached.give_settings(model, settings)
    model._adopt()
    evaluating = set(body["evaluating"])
    for name, module in model.named_modules():
        module.training = name not in evaluating
    return model
