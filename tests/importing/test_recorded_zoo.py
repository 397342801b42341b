"""Recordings of other people's networks compute what those compute, at a batch size that was not recorded."""

from __future__ import annotations

import warnings

import pytest
import torch
from zoo import FAST, SLOW, Entry, named

from nasir.backends.torch.importing import parity, record
from nasir.backends.torch.importing.operands import tensors_in
from nasir.importing import Recording

BATCH = 5
"""Neither 2, 3 nor 4, which are recorded."""


def recorded(entry: Entry) -> tuple[torch.nn.Module, Recording]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other libraries
        module = entry.made()
        args, kwargs = entry.arguments(2)
        return module, record(module, args, kwargs)


def check(entry: Entry) -> None:
    module, recording = recorded(entry)
    args, kwargs = entry.arguments(BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = parity(recording, module, args, kwargs)
    assert found.largest == 0.0, found


@pytest.mark.parametrize("name", named(FAST))
def test_recordings_compute_the_same(name: str) -> None:
    check(FAST[name])


@pytest.mark.slow
@pytest.mark.zoo
@pytest.mark.parametrize("name", SLOW)
def test_recordings_of_many_networks_compute_the_same(name: str) -> None:
    check(SLOW[name])


@pytest.mark.parametrize("name", ["functional", "shared", "in place", "u-net", "gated"])
def test_an_exported_program_has_the_same_outputs_and_uses_the_same_state(name: str) -> None:
    witness(FAST[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "tiny convnext", "tiny swin", "tiny vit", "weight norm"])
def test_exported_programs_of_larger_networks_agree(name: str) -> None:
    witness(FAST[name])


def witness(entry: Entry) -> None:
    """torch.export is another way to the same facts: outputs in eval mode, and which state takes part in them."""
    module, recording = recorded(entry)
    module.eval()
    args, _ = entry.arguments(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, args)
    outputs = program.module()(*args)
    expected = module(*args)
    for one, other in zip(tensors_in(outputs), tensors_in(expected), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    used = {names[node.name] for node in program.graph.nodes if node.name in names and node.users}
    first = {key: state.key for state in recording.state for key in (state.key, *state.aliases)}
    in_train_only = {key for key in recording.used_state if key.endswith(("num_batches_tracked", "steps"))}
    assert {first[key] for key in used} - in_train_only == recording.used_state - in_train_only
