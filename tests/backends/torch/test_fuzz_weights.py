"""Files of weights made of good ones by mutation: each is loaded, or refused; nothing else happens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import safetensors.torch
import torch
from fuzzing import fuzz, mutate_bytes, mutate_tree, mutated, mutations
from networks import small_resnet

import nasir
from nasir.backends.torch.weights import checkpoint
from nasir.backends.torch.weights.stored import METADATA, _digest
from nasir.training.manifest import manifest_bytes

pytestmark = pytest.mark.slow


def good(folder: Path) -> bytes:
    """A model with its optimizer as `nasir.save` stores it."""
    model = nasir.Model.from_graph(small_resnet(depths=(1,), width=2), seed=0, channels_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    extra = {"step": 3, "seen": (1, {2}), "loss": float("nan"), "weights": torch.arange(3)}
    nasir.save(folder / "good", model, optimizers=[optimizer], extra=extra)
    return (folder / "good").read_bytes()


def header_mutated(data: bytes, rng: Random) -> bytes:
    """A safetensors file with another header: types, shapes, places and names of its tensors."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = mutate_tree(json.loads(data[8 : 8 + size]), rng)
        text = json.dumps(header).encode()
    except (ValueError, RecursionError):
        return mutate_bytes(data, rng)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def loading(file: Path) -> Callable[[bytes], object]:
    def load(data: bytes) -> None:
        file.write_bytes(data)
        nasir.load(file)

    return load


@pytest.mark.parametrize("mutate", [mutate_bytes, header_mutated])
def test_fuzz_stored_models(tmp_path: Path, mutate: Callable[[bytes, Random], bytes]) -> None:
    data = good(tmp_path)
    loading(tmp_path / "file")(data)
    fuzz(loading(tmp_path / "file"), mutated([data], mutate, mutations(200), seed=1))


def test_fuzz_stored_models_whose_digest_is_right(tmp_path: Path) -> None:
    """What was stored by another version, or made to do harm."""
    good(tmp_path)
    with safetensors.safe_open(tmp_path / "good", framework="pt") as stored:
        body = json.loads(stored.metadata()[METADATA])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}
    load = loading(tmp_path / "file")

    def reseal(case: tuple[Any, dict[str, torch.Tensor]]) -> None:
        body, tensors = case
        sealed = {**body, "sha256": _digest(body, tensors)} if isinstance(body, dict) else body
        load(safetensors.torch.save(tensors, {METADATA: json.dumps(sealed)}))

    def change(case: tuple[Any, dict[str, torch.Tensor]], rng: Random) -> tuple[Any, dict[str, torch.Tensor]]:
        body, tensors = case
        if rng.random() < 0.7:
            body = mutate_tree(body, rng)
            return _writable(body), tensors
        name = rng.choice(sorted(tensors))
        kept = {other: tensor for other, tensor in tensors.items() if other != name}
        made = [torch.zeros(0), torch.zeros(3, 5), tensors[name].to(torch.int64), tensors[name].reshape(-1), None]
        one = rng.choice(made)
        return body, kept if one is None else {**kept, name: one}

    taken, refused = fuzz(reseal, mutated([(body, tensors)], change, mutations(100), seed=2))
    assert taken and refused


def _writable(body: Any) -> Any:
    """JSON as a digest can be made of it."""
    text = json.dumps(body).replace("\\ud800", "")
    return json.loads(text, parse_constant=str)


def test_fuzz_checkpoints_whose_digests_are_right(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, {"model": {"a": torch.arange(4.0), "b": torch.ones(2, 2)}}, {"epoch": 3})
    folder = tmp_path / "step_3"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    data = (folder / "model.safetensors").read_bytes()

    def load(mutate: Callable[[bytes, Random], bytes], seed: int) -> None:
        rng = Random(f"{seed}")
        changed, groups = mutate(data, rng), manifest["groups"]
        digest = hashlib.sha256(changed).hexdigest()
        groups = {"model": {**groups["model"], "sha256": digest, "bytes": len(changed)}}
        if rng.random() < 0.3:
            groups = mutate_tree(groups, rng)
        (folder / "model.safetensors").write_bytes(changed)
        (folder / "manifest.json").write_bytes(manifest_bytes(folder, 3, groups, manifest["meta"]))
        checkpoint.load(folder)

    for mutate in (mutate_bytes, header_mutated):
        fuzz(partial(load, mutate), range(mutations(200)))
