"""A small valid spec, line by line, for tests that change one thing."""

VALID = """\
nasir: 1
name: small
input: {image: [3, 32, 32]}
network:
  - conv_bn_relu: {out: 16}
  - stage: {name: s1, block: basic, out: 16}
  - stage: {name: s2, block: basic, out: 32, stride: 2}
  - classifier: {classes: 10}
data: {dataset: digits, validation: 0.2}
phases:
  - name: grow
    optimizer: {sgd: {lr: 0.1}}
    rules:
      - every: 3 epochs
        do: {try-this: {init: gaussian}}
        freeze: {plateau: {window: 10, less_than: 0.01}}
    until: all_frozen
  - name: finetune
    epochs: 20
    schedule: {staircase: {at: [0.5, 0.75]}}
"""


def changed(old: str, new: str) -> str:
    """VALID with its one occurrence of `old` replaced."""
    assert VALID.count(old) == 1, f"{old!r} occurs {VALID.count(old)} times"
    return VALID.replace(old, new)
