"""Models of `sampler:` and `pruner:`: those of Optuna by name, with their useful options under plain names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from nasir.options import shown
from nasir.options.ranges import Count, NotNegative, Positive
from nasir.spec.fields import OneOf, Strict, fault

Probability = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=0)]


def _steps(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise fault(f"expected a number of steps, found {shown(value)}", "write a whole number, 1 or more, or auto")


Steps = Annotated[int | Literal["auto"], BeforeValidator(_steps)]
"""A number of steps of the axis, or what the first trials show."""


class Tpe(Strict):
    """Tree-structured Parzen estimator (Bergstra et al. 2011): good where little is known, also on conditions."""

    startup: Whole = Field(default=10, description="trials sampled at random first")
    candidates: Count = Field(default=24, description="samples of which the most promising one is taken")
    multivariate: bool | None = Field(
        default=None, description="model choices together; default: with one objective only"
    )
    group: bool = Field(default=False, description="model the choices of each condition together; needs multivariate")
    constant_liar: bool = Field(default=True, description="keep away from what other workers are trying just now")

    @model_validator(mode="after")
    def _grouped(self) -> Tpe:
        if self.group and self.multivariate is not True:
            raise fault("group needs `multivariate: true`", "add `multivariate: true`", "group")
        return self


class Gp(Strict):
    """Gaussian process with expected improvement: for few, costly trials of up to some twenty choices."""

    startup: Whole = Field(default=10, description="trials sampled at random first")
    deterministic: bool = Field(default=False, description="equal choices give exactly equal results")


class Cmaes(Strict):
    """CMA-ES (Hansen 2016): for many trials of numeric choices; one objective, no constraints."""

    startup: Whole = Field(default=1, description="trials sampled at random first")
    sigma: Positive | None = Field(default=None, description="first width; default: 1/6 of the narrowest range")
    population: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="trials of a generation; default: 4 + 3 ln(choices)"
    )
    separable: bool = Field(default=False, description="no covariances: faster where choices do not interact")
    margin: bool = Field(default=False, description="keeps steps and whole numbers from getting stuck at one value")
    pruned: bool = Field(default=False, description="learn from pruned trials too")

    @model_validator(mode="after")
    def _one_variant(self) -> Cmaes:
        if self.separable and self.margin:
            raise fault("separable and margin exclude each other", "keep one of the two", "separable", "margin")
        return self


class Nsga2(Strict):
    """NSGA-II (Deb et al. 2002): a population of trials, bred and selected by dominance."""

    population: Annotated[int, Field(ge=2)] = Field(default=50, description="trials of a generation")
    crossover: Literal["uniform", "blxalpha", "sbx", "vsbx", "spx", "undx"] = Field(
        default="uniform", description="how numbers of two or three parents are mixed"
    )
    crossover_probability: Probability = Field(default=0.9, description="of a child to have several parents")
    swapping_probability: Probability = Field(default=0.5, description="of each choice to come from the other parent")
    mutation_probability: Probability | None = Field(
        default=None, description="of each choice to change; default: 1 / number of choices"
    )

    @model_validator(mode="after")
    def _enough_parents(self) -> Nsga2:
        if self.population < 3 and self.crossover in ("spx", "undx"):
            raise fault(f"{self.crossover} mixes three parents", "use a population of 3 or more", "population")
        return self


class Nsga3(Nsga2):
    """NSGA-III (Deb and Jain 2014): NSGA-II for three objectives and more."""

    divisions: Count = Field(default=3, description="of each axis between the reference points")


class Random(Strict):
    """Independent, evenly over each choice."""


class Grid(Strict):
    """Every point of a finite space once."""


class Qmc(Strict):
    """Quasi-random points that cover the space more evenly than random ones."""

    sequence: Literal["sobol", "halton"] = "sobol"
    scramble: bool = Field(default=True, description="randomize the sequence by the seed")


class Sampler(OneOf):
    bare = frozenset({"tpe", "gp", "cmaes", "nsga2", "nsga3", "random", "grid", "qmc"})

    tpe: Tpe | None = None
    gp: Gp | None = None
    cmaes: Cmaes | None = None
    nsga2: Nsga2 | None = None
    nsga3: Nsga3 | None = None
    random: Random | None = None
    grid: Grid | None = None
    qmc: Qmc | None = None


class NoPruner(Strict):
    """Every trial runs to its end."""


class Median(Strict):
    """Prunes what is worse than the median of the other trials at the same step."""

    startup: Whole = Field(default=5, description="trials that must have ended before any is pruned")
    warmup: Whole = Field(default=0, description="steps of each trial before it can be pruned")
    interval: Count = Field(default=1, description="steps between two looks")
    least: Count = Field(default=1, description="trials that must have reached the step")


class Percentile(Median):
    """Prunes what is not among the best so many percent at the same step."""

    percentile: Annotated[float, Field(ge=0, le=100)] = Field(default=25.0, description="percent that are kept")


class SuccessiveHalving(Strict):
    """Asynchronous successive halving (Li et al. 2018): of each rung the best 1 / reduction go on."""

    min_resource: Steps = Field(
        default="auto", description="steps of the first rung; auto: from the first trial that ends"
    )
    reduction: Annotated[int, Field(ge=2)] = 4
    early: Whole = Field(default=0, description="rungs to leave out at the beginning")
    bootstrap: Whole = Field(default=0, description="trials that must have reached a rung before any is promoted")

    @model_validator(mode="after")
    def _known_resource(self) -> SuccessiveHalving:
        if self.bootstrap and self.min_resource == "auto":
            raise fault("bootstrap needs to know the rungs", "give `min_resource` as a number", "bootstrap")
        return self


class Hyperband(Strict):
    """Several successive halvings with differing first rungs (Li et al. 2018)."""

    min_resource: Count = Field(default=1, description="steps of the first rung of the first bracket")
    max_resource: Steps = Field(
        default="auto", description="steps of a whole trial; auto: those of the first one that ends"
    )
    reduction: Annotated[int, Field(ge=2)] = 3
    bootstrap: Whole = Field(default=0, description="trials that must have reached a rung before any is promoted")

    @model_validator(mode="after")
    def _known_resource(self) -> Hyperband:
        if self.bootstrap and self.max_resource == "auto":
            raise fault("bootstrap needs to know the rungs", "give `max_resource` as a number", "bootstrap")
        if isinstance(self.max_resource, int) and self.max_resource < self.min_resource:
            text = f"a trial of {self.max_resource} steps never reaches the first rung, {self.min_resource}"
            raise fault(text, "make `max_resource` larger", "max_resource")
        return self


class Wilcoxon(Strict):
    """Signed-rank test of the values at the same epochs against those of the best trial so far."""

    p: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.1, description="larger: prunes sooner")
    startup: Annotated[int, Field(ge=2)] = Field(default=2, description="epochs of each trial before it can be pruned")


class Patient(Strict):
    """Lets another pruner act only where a trial has not improved for some steps."""

    of: Pruner = Field(description="the pruner to hold back")
    patience: Whole = Field(description="steps without improvement")
    min_delta: NotNegative = Field(default=0.0, description="what counts as an improvement")

    @model_validator(mode="after")
    def _wraps(self) -> Patient:
        if self.of.kind in ("none", "patient"):
            raise fault(f"patient cannot hold {self.of.kind} back", "name a pruner that prunes, such as median", "of")
        return self


class Pruner(OneOf):
    bare = frozenset({"none", "median", "percentile", "hyperband", "successive_halving", "wilcoxon"})

    none: NoPruner | None = None
    median: Median | None = None
    percentile: Percentile | None = None
    hyperband: Hyperband | None = None
    successive_halving: SuccessiveHalving | None = None
    patient: Patient | None = None
    wilcoxon: Wilcoxon | None = None

    @property
    def innermost(self) -> Pruner:
        """The one that decides: what `patient` holds back, else itself."""
        return self.patient.of.innermost if self.patient is not None else self
