"""Numbers of parameters and multiply-accumulates may be written with their thousands wherever a spec asks for one."""

from __future__ import annotations

import pytest

from nasir.errors import OptionError
from nasir.options.words import scaled
from nasir.passes import ExpandToBudget, PruneChannels
from nasir.policy import Budget
from nasir.pruning.target import amount
from nasir.spec import loads_spec
from nasir.spec.search import loads_search

SPEC = """\
nasir: 1
name: costs
input: {image: [1, 8, 8]}
network:
  - conv_bn_relu: {out: 8, kernel: 3}
  - stage: {name: s1, block: basic, out: 8, depth: 1}
  - classifier: {classes: 10}
data: {dataset: digits, validation: 0.1}
phases:
  - name: shrink
    optimizer: {sgd: {lr: 0.1}}
    budget: {params: 2.5K, epochs: 4}
    rules:
      - every: 1
        do: {prune-channels: {target: {macs: 8M}}}
        budget: {macs: 8 M}
      - every: 1
        do: {expand-to-budget: {budget: 1G}}
"""


@pytest.mark.parametrize(
    ("text", "number"),
    [("8M", 8e6), ("1.2G", 1.2e9), ("3k", 3e3), (" 7 ", 7), ("8m", None), ("8 MB", None), ("", None)],
)
def test_a_number_with_its_thousands(text: str, number: float | None) -> None:
    assert scaled(text) == number


def test_every_cost_of_a_spec_takes_thousands() -> None:
    phase = loads_spec(SPEC).phases[0].plan()
    shrink, expand = phase.rules
    assert phase.budget == Budget(params=2500, epochs=4) and shrink.budget == Budget(macs=8_000_000)
    assert ExpandToBudget(**expand.options).budget == 1e9
    assert amount(PruneChannels(**shrink.options).target["macs"], 1e9) == 8e6
    search = loads_search(SPEC.replace("epochs: 4", "epochs: {choose: [1, 4]}") + "search: {constraints: [macs <= 8M]}")
    assert search.search.constraints[0].bound == 8e6
    assert amount("50%", 10) == 5


@pytest.mark.parametrize("made", [lambda: Budget(macs="8 MB"), lambda: ExpandToBudget(budget="much")])
def test_other_text_is_refused_with_an_example(made: object) -> None:
    with pytest.raises(OptionError, match=r"expected a number, found .*; (write 40M|give what)"):
        made()  # type: ignore[operator]


def test_a_target_that_is_none_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match="such as 8M, or a percentage, not '8 MB'"):
        PruneChannels(target={"macs": "8 MB"})
