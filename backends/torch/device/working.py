"""Methods of a session that compute: under its switches, and telling what to lower where memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

import torch

from nasir.backends.torch.device.memory import memory_told
from nasir.backends.torch.device.switches import Switches
from nasir.training.backend import Setup

# what to lower where memory does not suffice
TRAINING = "lower `data.batch_size`, take `precision: bf16`, or bound growth by a `budget`"
NETWORK = "use a smaller network, or bound growth by a `budget`"
HOST = "free memory of the host, or use a smaller network"
DATA = "use `stream: true` where the data set has it, a part of the data, or another device"


class HasDevice(Protocol):
    """What a method that computes belongs to: a session."""

    setup: Setup
    device: torch.device
    switches: Switches


Work = TypeVar("Work", bound=Callable[..., Any])


def working(what: str, remedy: str) -> Callable[[Work], Work]:
    """A method of a session that computes: it runs under the session's switches, and where memory does not suffice it
    says that `what` did not fit and how to mend that; both may name fields of the session in braces."""

    def wrap(method: Work) -> Work:
        @wraps(method)
        def within(session: HasDevice, *arguments: Any, **options: Any) -> Any:
            told = [text.format(setup=session.setup, device=session.device) for text in (what, remedy)]
            with session.switches.held(), memory_told(told[0], told[1]):
                return method(session, *arguments, **options)

        return within  # type: ignore[return-value]

    return wrap
