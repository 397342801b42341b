"""Copies for recordings borrow the memory of parameters: nobody sees that, whoever writes, and whatever fails."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasir.backends.torch.importing.copies import fresh_copy
from nasir.backends.torch.importing.lending import lent, part
from nasir.backends.torch.importing.recording import record
from nasir.errors import NasirError


class Writing(nn.Module):
    """Writes into its parameter on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.layer.weight.mul_(2.0)
        y: Tensor = self.layer(x)
        return y


class Failing(nn.Module):
    """Fails once its parameters have been used."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x) @ self.layer.weight.t()
        raise ValueError(f"of {y.shape}")


class Uncopyable(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.lock = threading.Lock()


def test_copies_take_no_memory_before_they_are_written() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(2, 2, 3))
    arrays = [parameter.detach().numpy() for parameter in module.parameters()]
    twin = fresh_copy(module, training=False, borrowing=True)
    for own, other, array in zip(module.parameters(), twin.parameters(), arrays, strict=True):
        assert own is not other
        array[:] = 5.0  # which torch does not see
        assert bool((other == 5.0).all())
        with torch.no_grad():
            other.zero_()
        assert bool((own == 5.0).all()) and bool((other == 0.0).all())


def test_who_writes_into_the_module_parts_it_from_its_copy() -> None:
    module = nn.Linear(4, 4)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    twin = fresh_copy(module, training=False, borrowing=True)
    with torch.no_grad():
        module.weight.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in twin.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_stay_where_they_are_once_their_copies_are_gone(dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.randn(3, 5).to(dtype).t())
    at, before, version = parameter.data_ptr(), parameter.detach().clone(), parameter._version
    twins = lent([parameter])
    assert len(twins) == 1
    twins.clear()
    part([parameter])
    assert parameter.data_ptr() == at and parameter._version == version and torch.equal(parameter, before)


def test_parameters_in_the_memory_of_others_are_copied() -> None:
    array = np.ones((2, 2), dtype=np.float32)
    parameter = nn.Parameter(torch.from_numpy(array))
    assert not lent([parameter])
    module = nn.Linear(2, 2)
    module.weight = parameter
    assert record(module, (torch.zeros(2, 2),)).calls
    array[0, 0] = 3.0
    assert float(parameter.detach()[0, 0]) == 3.0


@pytest.mark.parametrize("kind", [Writing, Failing, Uncopyable])
def test_a_run_that_is_refused_leaves_the_module_as_it_was(kind: type[nn.Module]) -> None:
    module = kind()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in module.state_dict().items()}
    with pytest.raises(NasirError) as caught:
        record(module, (torch.randn(2, 4),))
    for name, tensor in module.state_dict().items():
        assert tensor.data_ptr() == before[name][0] and torch.equal(tensor, before[name][1])
        tensor.zero_()  # while the error is still there, and with it the copy
        assert tensor.data_ptr() == before[name][0]
    assert caught.value is not None


def test_a_recording_leaves_parameters_where_they_are() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in module.state_dict().items()}
    record(module, (torch.randn(2, 3, 8, 8),))
    for name, tensor in module.state_dict().items():
        assert tensor.data_ptr() == before[name][0] and torch.equal(tensor, before[name][1])
