"""The kinds of records. `docs/runs.md` has them as a table, written from here by `make docs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, doc

from nasir.records.base import Has, IfMissing, Key, Record

Count = Annotated[int, Ge(0)]
Seconds = Annotated[float, Ge(0)]
Metrics = Mapping[str, float]
Depths = Annotated[Mapping[str, Count], doc("blocks of each stage, by its path"), IfMissing(dict)]
Params = Annotated[Count | None, doc("weights of the network"), IfMissing(None)]
Macs = Annotated[Count | None, doc("multiply-accumulates of one sample"), IfMissing(None)]
Cost = Annotated[
    Mapping[str, Count], doc("`params` and `macs` of the network"), IfMissing(dict), Has(("params", "macs"))
]
Blob = Annotated[str, doc("the network: name of its blob"), IfMissing("")]
Number = Annotated[Count, doc("number of the individual, from 1 over the run")]
Noted = Annotated[Mapping[str, Any], doc("what the pass itself wants known, for its next firing or for readers")]
Took = Annotated[Seconds, doc("wall-clock seconds that it took"), IfMissing(0.0)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Placed(Record):
    """What happened at a moment of a phase."""

    epoch: Annotated[Count, doc("epochs done in the run"), IfMissing(0)]
    phase: Annotated[str, doc("name of the phase"), IfMissing("")]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _OfPass(_Placed):
    """What came of a pass at a site."""

    pass_name: Annotated[str, Key("pass"), doc("name of the pass"), IfMissing("")]
    options: Annotated[Mapping[str, Any], doc("its options"), IfMissing(dict)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StartRecord(Record):
    """The run begins."""

    kind: ClassVar[str] = "start"
    name: Annotated[str, doc("of the spec")]
    seed: Annotated[int, doc("of the spec; all that is random is keyed by it")]
    graph: Annotated[str, doc("the first network: name of its blob")]
    spec_digest: Annotated[str, doc("SHA-256 of the resolved spec"), IfMissing("")]
    cost: Annotated[
        Mapping[str, Count], doc("`params`, `macs` and `activation_bytes` of the first network"), IfMissing(dict)
    ]
    depths: Depths
    nasir: Annotated[str, doc("version of nasir"), IfMissing("")]
    inherited: Annotated[
        Mapping[str, str | None] | None,
        doc("the run that the network was taken from: `run`, `weights`, `checkpoint`, `manifest` (its SHA-256)"),
    ] = None
    imported: Annotated[
        Mapping[str, Any] | None,
        doc(
            "the code that made the network: `module`, `versions` of packages, `code` (SHA-256 by file), `weights` "
            "(published ones, or the SHA-256 of a file), `untyped` (by label, what runs as it is, and where)"
        ),
    ] = None
    data: Annotated[
        Mapping[str, Any],
        doc("what the data are ([data.md](data.md#the-data-summary)); `nasir.records.DataSummary` reads it"),
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhaseRecord(Record):
    """A phase begins; what follows up to the next one belongs to it."""

    kind: ClassVar[str] = "phase"
    phase: Annotated[str, doc("its name")]
    epoch: Annotated[Count, doc("epochs done before it"), IfMissing(0)]
    epochs: Annotated[Count | None, doc("its length; null: it has no fixed one"), IfMissing(None)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompilationRecord(_Placed):
    """Under `compile: auto`, whether blocks run compiled in this phase."""

    kind: ClassVar[str] = "compilation"
    compiled: Annotated[bool, doc("whether they do")]
    eager_ms: Annotated[Seconds, doc("milliseconds of a step as they are")]
    compiled_ms: Annotated[Seconds | None, doc("milliseconds of a step compiled; null: that does not work")]
    why: Annotated[str, doc("why it does not work")] = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpochRecord(_Placed):
    """An epoch was trained."""

    kind: ClassVar[str] = "epoch"
    epoch: Annotated[Count, doc("number of the epoch in the run, from 1")]
    phase_epoch: Annotated[Count, doc("number of the epoch in its phase, from 1"), IfMissing(0)]
    metrics: Annotated[
        Metrics,
        doc("`train.` and `val.` loss, accuracy (0 to 1) and others; NaN where the training diverged"),
    ]
    lr: Annotated[float | None, doc("learning rate"), IfMissing(None)]
    seconds: Took
    cpu_seconds: Annotated[Seconds, doc("CPU-seconds of this process"), IfMissing(0.0)]
    params: Params
    macs: Macs
    depths: Depths
    samples: Annotated[Count | None, doc("samples trained on")] = None
    compiled_graphs: Annotated[Count | None, doc("graphs compiled so far, where blocks are compiled")] = None
    alive: Annotated[
        Mapping[str, Count],
        doc("with a penalty on channels: `channels` it has left alive, `params` and `macs` of a network of those"),
    ] = field(default_factory=dict)
    executed_macs: Annotated[
        float | None, doc("with routers: multiply-accumulates that a validation sample cost in the mean")
    ] = None
    routes: Annotated[
        Mapping[str, Any],
        doc("with routers: by label of each route, the share of the validation samples that each way was computed for"),
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecisionRecord(_OfPass):
    """The policy decided; the records after it say what came of it."""

    kind: ClassVar[str] = "decision"
    action: Annotated[str, doc("`rewrite`, `trial`, `freeze`, `keep`, `recall`, `drop` or `end_phase`")]
    rule: Annotated[str, doc("name of the rule; empty where the phase itself decides"), IfMissing("")]
    site: Annotated[
        str | None,
        doc("where the pass is to act, or what is frozen; null where the action has no place"),
        IfMissing(None),
    ]
    reason: Annotated[str, doc("a sentence with the numbers"), IfMissing("")]
    sites: Annotated[Sequence[str], doc("candidates of a trial")] = ()
    individual: Annotated[
        Count | None, doc("number of the individual to keep, recall or drop; of a rewrite: that which is being made")
    ] = None
    bound: Annotated[
        str, doc("of a freeze: `at_most`, `params` or `macs`, where it lasts as long as that bound is reached")
    ] = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RewriteRecord(_OfPass):
    """The network was rewritten."""

    kind: ClassVar[str] = "rewrite"
    site: Annotated[str, doc("where the pass acted"), IfMissing("")]
    ordinal: Annotated[Count, doc("rewrites and recalls so far, this one included"), IfMissing(0)]
    before: Annotated[str, doc("digest of the network before"), IfMissing("")]
    after: Annotated[str, doc("digest of the network after"), IfMissing("")]
    graph: Annotated[str, doc("the network after: name of its blob"), IfMissing("")]
    plan: Annotated[str, doc("where its weights come from: name of the blob of the plan"), IfMissing("")]
    preserves: Annotated[str, doc("what the pass claims: `exact`, `approximate` or `no`"), IfMissing("")]
    delta_logits: Annotated[
        float | None, doc("largest change of a logit of the probe batch, measured"), IfMissing(None)
    ]
    depths: Depths
    added: Annotated[Sequence[str], doc("paths of regions it added"), IfMissing(())]
    removed: Annotated[Sequence[str], doc("paths of regions it removed"), IfMissing(())]
    cost: Cost
    seconds: Annotated[Seconds | None, doc("wall-clock seconds that it took"), IfMissing(None)]
    settle: Annotated[
        Mapping[str, Any] | None,
        doc("of `init: adam`: the epochs trained, their accuracies and the target"),
        IfMissing(None),
    ]
    delta_logits_averaged: Annotated[float | None, doc("the same of the averaged weights, where averages are kept")] = (
        None
    )
    refresh: Annotated[
        Mapping[str, float] | None, doc("of statistics that were refreshed: what that did, `delta_logits` among it")
    ] = None
    noted: Noted = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialRecord(_OfPass):
    """A candidate was trained for a trial and put back."""

    kind: ClassVar[str] = "trial"
    site: Annotated[str | None, doc("of the candidate; null: the network as it was"), IfMissing(None)]
    epochs: Annotated[Count, doc("epochs it was trained for"), IfMissing(0)]
    metrics: Annotated[Metrics, doc("of its last epoch, as those of an epoch"), IfMissing(dict)]
    params: Params
    macs: Macs
    seconds: Took


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeclinedRecord(_OfPass):
    """A rewrite did not happen."""

    kind: ClassVar[str] = "declined"
    site: Annotated[str, doc("where the pass was to act"), IfMissing("")]
    reason: Annotated[str, doc("why it refused, in a sentence"), IfMissing("")]
    noted: Noted = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeptRecord(_Placed):
    """The network as it was then is stored."""

    kind: ClassVar[str] = "kept"
    individual: Number
    parent: Annotated[Count | None, doc("the individual it was made from; null: none"), IfMissing(None)]
    graph: Blob
    metrics: Annotated[Metrics, doc("of its last epoch; empty before its first")]
    params: Params
    macs: Macs
    depths: Depths
    manifest: Annotated[str, doc("SHA-256 of the manifest of its files")] = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecalledRecord(_Placed):
    """The run goes on with a stored individual; what lies between its `kept` record and this one happened to other
    networks."""

    kind: ClassVar[str] = "recalled"
    individual: Number
    graph: Blob
    ordinal: Annotated[Count, doc("rewrites and recalls so far, this one included"), IfMissing(0)]
    depths: Depths


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DroppedRecord(_Placed):
    """An individual will not be recalled any more."""

    kind: ClassVar[str] = "dropped"
    individual: Number


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckpointRecord(Record):
    """A checkpoint was asked for; it is whole once its manifest lies there."""

    kind: ClassVar[str] = "checkpoint"
    step: Annotated[Count, doc("number of this record, which names the checkpoint"), IfMissing(0)]
    epoch: Annotated[Count, doc("epochs done in the run"), IfMissing(0)]
    path: Annotated[str, doc("its folder in the run directory")]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefixRecord(Record):
    """The epochs before it were trained by another run of the same study
    ([search.md](search.md#shared-prefixes-and-the-architecture-cache))."""

    kind: ClassVar[str] = "prefix"
    epochs: Annotated[Count, doc("how many")]
    run: Annotated[str, doc("that run, as seen from the folder of the study")]
    digest: Annotated[str, doc("names the state that was taken over")]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResumeRecord(Record):
    """The run went back to a checkpoint, and some records before this one are void."""

    kind: ClassVar[str] = "resume"
    supersedes_from: Annotated[Count, doc("number of the first void record; all up to this one are")]
    checkpoint_step: Annotated[Count | None, doc("the checkpoint; null: it began anew"), IfMissing(None)]
    environment: Annotated[str | None, doc("with shared prefixes: digest of the environment it went on in")] = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrunedRecord(Record):
    """The search gave the run up before its end."""

    kind: ClassVar[str] = "pruned"
    epoch: Annotated[Count, doc("epochs done in the run")]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EndRecord(Record):
    """The run came to its end."""

    kind: ClassVar[str] = "end"
    status: Annotated[str, doc("`done`")]
    metrics: Annotated[Metrics, doc("`test.` and `val.` metrics of the last network"), IfMissing(dict)]
    cost: Cost
    depths: Depths
    seconds: Annotated[Seconds, doc("wall-clock seconds of its epochs"), IfMissing(0.0)]
    graph: Annotated[str, doc("the last network: name of its blob"), IfMissing("")]
    confusion: Annotated[
        str, doc("name of the blob (an array) that says how often each class (row) was taken for each in the test")
    ] = ""


NetworkRecord = StartRecord | RewriteRecord | RecalledRecord
"""Those whose `graph` is the network from then on."""

KINDS: Mapping[str, type[Record]] = MappingProxyType(
    {
        made.kind: made
        for made in list(globals().values())
        if isinstance(made, type) and issubclass(made, Record) and "kind" in vars(made) and made is not Record
    }
)
"""The class of each kind."""
