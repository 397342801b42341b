"""What specs and trainings are known by: these digests are of the time before optimizers and penalties were registered.

Shared prefixes and runs go by them, so they must not change.
"""

from __future__ import annotations

from nasir.running.prefixes.identity import digest
from nasir.spec import loads_spec

HEAD = """\
nasir: 1
input: {image: [1, 8, 8]}
network:
  - conv_bn_relu: {out: 8}
  - stage: {name: s1, block: basic, out: 8}
  - classifier: {classes: 10}
data: {dataset: digits, validation: 0.2}
"""
PLANS = """\
phases:
  - name: a
    epochs: 3
    optimizer: {sgd: {lr: 1, momentum: 0.8, nesterov: true, decay_norms: false}}
    regularize:
      - l2: {strength: 1.0e-5, on: [s1, fc]}
      - l1: {strength: 1, on: all}
      - layer-lasso: {strength: 1.0e-8}
      - group-lasso: {strength: 1.0e-9, l1: 0.25, threshold: 0.02, grouping: l2, exclude: [s1.0]}
      - group-lasso: {strength: 1.0e-3, resource: latency, profile: V100, batch: 8}
      - gamma: {strength: 1.0e-7, resource: params}
  - name: b
    epochs: 3
    optimizer: {adam: {lr: 0.001}}
  - name: c
    epochs: 3
    optimizer: {adamw: {lr: 0.001, betas: [0.8, 0.99], eps: 1.0e-6, weight_decay: 0.1}}
"""
SPEC = HEAD + PLANS


def test_digests_are_as_they_were() -> None:
    spec = loads_spec(SPEC, "s.yaml")
    assert spec.digest == "91c7ab30bcd7d1f63f7d3f37b6b25af440002b8bba8877366e0f94fcbe18c0fa"
    plans = [phase.training(spec) for phase in spec.phases]
    assert [digest({"optimizer": plan.optimizer, "penalties": plan.penalties}) for plan in plans] == [
        "2fe1a6bd2c2923471b6c43ad08f73a04922ddbec96971fc1d66f0f01a69753b2",
        "14f33c3092dbba350427908a2b05607e9d179dcf8fd527d7ba4741521e4e2f6d",
        "beeae8bf0ad91c67b5b054164c248b12282f66be4e629c6c1e606432974f2889",
    ]
    assert loads_spec(spec.to_yaml(), "s.yaml").digest == spec.digest


RULES = """\
phases:
  - name: a
    epochs: 30
    optimizer: {sgd: {lr: 1}}
    ema: {decay: 0.9, warmup: false}
    rules:
      - every: 1 epochs
        do: {insert-block: {init: gaussian}}
        where: {stages: [s1]}
        freeze: {plateau: {metric: val.accuracy, window: 6 epochs, less_than: 0.002, early: code}}
        at_most: 4
        decline: stop
"""
RULED = HEAD + RULES


BEFORE = "00598ecc33a21a7f0734904f8edca217100fe8b1b32d43adab7bd0cd0b30ca9b"
"""Of the same spec, without `warmup`, `early` and `decline`, when nothing else could be said."""


def test_what_rules_left_out_before_there_was_a_choice_is_not_counted() -> None:
    assert loads_spec(RULED, "s.yaml").digest == BEFORE
    assert loads_spec(RULED.replace("decline: stop", "decline: again"), "s.yaml").digest != BEFORE
