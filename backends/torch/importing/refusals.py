"""What a recording refuses: Python values computed from tensors, writes that are no data flow, unknown tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection

from nasir.errors import NasirError
from nasir.importing.recording import Call, Source

SAID = {
    "input": "the input",
    "parameter": "a parameter",
    "buffer": "a buffer",
    "random": "random numbers",
}
DESCRIBING = frozenset(
    "size dim ndimension numel nelement stride storage_offset get_device element_size data_ptr dim_order "
    "is_contiguous is_floating_point is_complex is_signed is_pinned is_shared is_same_size is_set_to is_tensor "
    "is_inference is_conj is_neg is_distributed is_coalesced has_names untyped_storage storage storage_type "
    "result_type can_cast __hash__ __repr__ __str__ __format__ __dir__ __len__ _is_view _is_zerotensor "
    "is_storage sparse_dim dense_dim".split()
)
"""Last names of functions that tell of a tensor's form, not of its numbers."""
READING = frozenset(
    "item tolist numpy equal allclose is_nonzero __bool__ __int__ __float__ __index__ __complex__ __contains__ "
    "__array__ __dlpack__".split()
)
"""Last names of functions that give Python the numbers of a tensor; others that turn out to do so are refused, too."""
MEASURING = frozenset("size __len__ numel nelement stride shape unbind".split())
"""Those that give Python the lengths of a tensor, or as many tensors."""
WITHOUT_EFFECT = frozenset("requires_grad_ retain_grad is_grad_enabled _set_grad_enabled set_grad_enabled".split())
"""Functions that change no number: they run, and are not recorded."""
REFUSED = {
    "set_": "gives a tensor other memory",
    "resize_": "gives a tensor other memory",
    "swap_": "gives a tensor other memory",
    "detach_": "cuts gradients in place; use `detach()`",
    "backward": "computes gradients inside forward",
    "grad": "computes gradients inside forward",
    "register_hook": "hooks gradients; nothing would call the hook in what is made of the recording",
    "share_memory_": "moves a tensor into shared memory",
}
"""Functions that no recording can hold, by their last names."""


def refuse_function(name: str, where: Callable[[], str]) -> None:
    """Raises NasirError for a function that no recording can hold."""
    last = name.rpartition(".")[2]
    if last in REFUSED and not name.endswith(".__get__"):
        raise NasirError(f"record: {name} in {where()} {REFUSED[last]}; take it out of forward")
    if last == "__set__" and name.endswith(".data.__set__"):
        raise NasirError(f"record: {where()} assigns to `.data` of a tensor; make a new tensor instead")


def refuse_reading(name: str, depends: frozenset[Source], where: str) -> None:
    """Raises NasirError where Python reads the numbers of a tensor: they would be those of this one run for ever."""
    if not depends:
        return
    told = " and ".join([SAID[source] for source in SAID if source in depends])
    raise NasirError(
        f"record: {where} reads numbers of a tensor in Python ({name.rpartition('.')[2]}), which depend on {told}: the "
        "recording would hold what they are in this one run; let forward use tensor operations (torch.where, masks, "
        "indices), or make a fixed number an attribute of the module"
    )


def refuse_lengths(places: Collection[str]) -> None:
    """Raises NasirError where Python takes a length that follows the numbers of a tensor, as that of a `nonzero`."""
    if places:
        raise NasirError(
            f"record: {sorted(places)[0]} gives Python a length that follows the numbers of a tensor, not only its "
            "shape: the recording would hold what it is in this one run; let forward use tensor operations alone there"
        )


def never_true(comparison: Call, compared: Call | None) -> bool:
    """Whether a comparison is false whatever is drawn: torch.rand draws from [0, 1), which is not below 0."""
    drawn, last = compared is not None and compared.operation == "torch.rand", comparison.operation.rpartition(".")[2]
    limit = comparison.args[1] if len(comparison.args) == 2 else None
    return drawn and last == "lt" and isinstance(limit, (int, float)) and limit <= 0


def unknown_operand(described: str, where: str) -> NasirError:
    """The error for an operand that no recorded call has made."""
    return NasirError(
        f"record: {where}: where its operand {described} comes from is unknown: it lies in a plain attribute or a "
        "global variable, the module keeps it from an earlier call, or code that is not Python made it (C++, "
        "TorchScript). Make it with torch functions in forward, register it with register_buffer, or empty what the "
        "module keeps"
    )


def impossible_write(what: str, where: str, remedy: str) -> NasirError:
    """The error for a write that is no data flow."""
    return NasirError(f"record: {where} writes into {what}; {remedy}")


def unknown_after_write(where: str, why: str) -> NasirError:
    """The error for an operand whose memory was written in a way that cannot be told as data flow."""
    return NasirError(
        f"record: {where} reads a tensor that has changed: {why}; let what is written there be a new tensor"
    )
