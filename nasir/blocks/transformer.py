"""The encoder block of vision transformers; labels inside are torchvision's."""

from __future__ import annotations

from nasir.blocks.make import Maker
from nasir.blocks.scales import BranchScale, scaled
from nasir.blocks.stochastic_depth import StochasticDepth, stochastic
from nasir.errors import TypeRuleError
from nasir.ir import Port
from nasir.options.ranges import Count, NotNegative, Rate, Whole
from nasir.registry import blocks


@blocks.register("transformer")
def transformer(
    make: Maker,
    x: Port,
    stride: int,
    out: Whole = 0,
    heads: Count = 4,
    head_dim: Whole = 0,
    mlp: Whole = 0,
    dropout: Rate = 0.0,
    attention_dropout: Rate = 0.0,
    eps: NotNegative = 1e-6,
    branch_scale: BranchScale | None = None,
    stochastic_depth: StochasticDepth = 0.0,
) -> Port:
    """Pre-norm encoder block on tokens: x + attention(norm(x)), then x + mlp(norm(x)) (Dosovitskiy et al. 2021).

    out                channels; 0: those of the input, which it must keep
    heads              attention heads
    head_dim           channels a head of q, k and v; 0: channels // heads
    mlp                hidden units of the two-layer network; 0: 4 times the channels
    dropout            after both projections and after the hidden units
    attention_dropout  of the attention's softmax
    eps                of the norms
    branch_scale       what both branches are multiplied by, as in `basic`
    stochastic_depth   of both branches, each for itself, as in `basic`
    """
    channels = make.channels(x)
    place = f"block '{make.path}'"
    if stride != 1 or out not in (0, channels):
        raise TypeRuleError(
            f"{place}: a transformer keeps its {channels} channels and all tokens, it cannot have out {out} and "
            f"stride {stride}; leave both away"
        )
    # no need to divide evenly: a pass may have removed some of the channels
    head_dim = head_dim or max(1, channels // heads)

    def dropped(y: Port, name: str) -> Port:
        return make.node("dropout", y, name, p=float(dropout)) if dropout else y

    y = make.node("layer_norm", x, "ln_1", eps=eps)
    y = make.node("linear", y, "self_attention.in_proj", out=3 * heads * head_dim)
    scale = head_dim**-0.5
    drop = float(attention_dropout)
    y = make.node("self_attention", y, "self_attention.core", heads=heads, head_dim=head_dim, scale=scale, dropout=drop)
    y = dropped(make.node("linear", y, "self_attention.out_proj", out=channels), "dropout")
    y = scaled(make, y, branch_scale, "scale_1")
    y = stochastic(make, y, stochastic_depth, "stochastic_depth_1")
    x = make.node("add", (x, y), "add_1")
    y = make.node("layer_norm", x, "ln_2", eps=eps)
    y = make.node("gelu", make.node("linear", y, "mlp.0", out=mlp or 4 * channels), "mlp.1")
    y = make.node("linear", dropped(y, "mlp.2"), "mlp.3", out=channels)
    y = stochastic(
        make, scaled(make, dropped(y, "mlp.4"), branch_scale, "scale_2"), stochastic_depth, "stochastic_depth_2"
    )
    return make.node("add", (x, y), "add_2")
