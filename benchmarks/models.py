"""Networks of torchvision and timm, imported and examined one by one: the figures of docs/models.md.

    python -m benchmarks.models ["timm dla34" ...] [--anew] [--most PARAMETERS] [--minutes N] [--gb N] [--out FILE]

Each network has a process of its own, with a bound on time and memory. What FILE has already is left out (but for
`--anew`), so that an interrupted run goes on where it was. Of networks with more parameters than `--most` only the
structure is looked at, without numbers, or a network with fewer blocks is examined in their place; a later run with a
higher bound looks at those without numbers again. `make docs` writes the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.regnet import BlockParams

from benchmarks.examined import examined, structure
from benchmarks.processes import in_a_process
from nasir.backends.torch.importing import graph_of
from nasir.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "models.json"
SMALL = (3, 64, 64)

OF_TORCHVISION = torchvision.models.list_models(torchvision.models)
OF_TIMM = (
    *("resnet10t", "resnet18d", "resnest14d", "seresnet18", "skresnet18", "ecaresnet26t", "res2net50_14w_8s"),
    *("resnetv2_18", "resnetv2_50x1_bit", "regnetx_002", "regnety_002", "regnetz_b16", "gernet_s", "repvgg_a0"),
    *("efficientnet_lite0", "efficientnetv2_rw_t", "mobilenetv2_050", "mobilenetv3_small_050", "mixnet_s"),
    *("mobilenetv4_conv_small", "mobilenetv4_hybrid_medium", "lcnet_050", "mnasnet_small", "rexnet_100"),
    *("ghostnet_050", "ghostnetv2_100", "mobileone_s0", "repghostnet_050", "repvit_m0_9", "fastvit_t8"),
    *("convnext_atto", "convnextv2_atto", "convmixer_768_32", "mambaout_femto", "starnet_s1", "inception_next_atto"),
    *("densenet121", "dla34", "vovnet39a", "ese_vovnet19b_slim_dw", "hrnet_w18_small", "selecsls42", "hgnetv2_b0"),
    *("inception_v3", "inception_v4", "inception_resnet_v2", "xception41", "dpn48b", "cspresnet50", "cspdarknet53"),
    *("nf_resnet26", "nf_regnet_b0", "dm_nfnet_f0", "eca_nfnet_l0", "botnet26t_256", "gcresnext26ts"),
    *("vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224"),
    *("swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "cait_xxs24_224", "coat_lite_tiny", "coatnet_nano_rw_224"),
    *("crossvit_tiny_240", "levit_128s", "maxvit_rmlp_pico_rw_256", "mixer_s32_224", "gmlp_ti16_224", "resmlp_12_224"),
    *("poolformer_s12", "caformer_s18", "convformer_s18", "pvt_v2_b0", "twins_svt_small", "twins_pcpvt_small"),
    *("edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050", "efficientformer_l1", "efficientvit_b0"),
    *("efficientvit_m0", "convit_tiny", "pit_ti_224", "visformer_tiny", "xcit_nano_12_p8_224", "davit_tiny"),
    *("tiny_vit_5m_224", "volo_d1_224", "sequencer2d_s"),
)
NAMES = (*(f"torchvision {name}" for name in OF_TORCHVISION), *(f"timm {name}" for name in OF_TIMM))


def maker(name: str) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    """What makes a network, and the shape of the images that it is made for."""
    library, model = name.split()
    if library == "timm":
        config = timm.models.get_pretrained_cfg(model)
        return lambda: timm.create_model(model), tuple(config.input_size)
    options = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
    side = min(weights.transforms().crop_size[0] for weights in torchvision.models.get_model_weights(model))
    return lambda: torchvision.models.get_model(model, **options), (3, side, side)


def _vit_h_14() -> nn.Module:
    return torchvision.models.VisionTransformer(224, 14, 4, 16, 1280, 5120)


def _regnet_y_128gf() -> nn.Module:
    widths = [528, 1056, 2904, 7392]
    params = BlockParams([2, 1, 1, 1], widths, [264] * 4, [1.0] * 4, [2] * 4, se_ratio=0.25)
    return torchvision.models.RegNet(params, norm_layer=partial(nn.BatchNorm2d, eps=1e-5, momentum=0.1))


FEWER_BLOCKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "torchvision vit_h_14": (_vit_h_14, "4 of 32 blocks"),
    "torchvision regnet_y_128gf": (_regnet_y_128gf, "5 of 27 blocks"),
}
"""Networks that are examined with fewer blocks, since they are too large; what is told of their structure is whole."""


def looked_at(name: str, most: float) -> dict[str, Any]:
    """The row of one network. Of one with more than `most` parameters its structure alone, or with fewer blocks."""
    make, shape = maker(name)
    try:
        with torch.device("meta"):
            net = make()
    except Exception:  # it cannot be made without numbers
        net = make()
    if sum(p.numel() for p in net.parameters()) <= most:
        return examined(make, [SMALL, shape])
    graph = graph_of(net.to("meta"), torch.empty(2, *shape, device="meta"))
    whole = {"params": graph.cost().params, **structure(graph, net)}
    if name in FEWER_BLOCKS:
        smaller, told = FEWER_BLOCKS[name]
        return {**examined(smaller, [SMALL, shape]), **whole, "fewer_blocks": told}
    return {"input": list(shape), **whole, "structure_only": True}


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--anew", action="store_true", help="also those that FILE has")
    parser.add_argument("--most", type=float, default=350e6, help="parameters of what is examined as a whole")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each network")
    parser.add_argument("--gb", type=float, default=10.0, help="memory for each network")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    asked = parser.parse_args()
    out: Path = asked.out
    rows: dict[str, Any] = json.loads(out.read_text())["models"] if out.exists() else {}
    for name in asked.names or NAMES:
        row = rows.get(name, {})
        if row and not asked.anew and not ("structure_only" in row and row["params"] <= asked.most):
            continue
        rows[name] = row = in_a_process(partial(looked_at, name, asked.most), asked.minutes, asked.gb)
        print(name, json.dumps(row), flush=True)
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
        sorted_rows = {key: rows[key] for key in NAMES if key in rows}
        write_atomically(out, f"{json.dumps({**versions, 'models': sorted_rows}, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
