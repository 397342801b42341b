"""Vectors looked up by number."""

from __future__ import annotations

from nasir.importing.rules.place import Place, Typed, rule
from nasir.ir import ValueType


@rule("torch.nn.modules.sparse.Embedding")
def _embedding(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if value.dtype not in ("int64", "int32") or a["max_norm"] is not None or a["scale_grad_by_freq"] or a["sparse"]:
        return None  # it writes its table, or has other gradients
    return Typed(
        "embedding", (x,), {"count": a["num_embeddings"], "out": a["embedding_dim"], "padding": a["padding_idx"]}
    )
