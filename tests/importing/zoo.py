"""Networks of others with random weights, small enough for tests: how to make each, and what it is called with."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
import user_modules
from torch import nn


@dataclass(frozen=True)
class Entry:
    """A network: how it is made, its arguments for a batch size, and the library that it takes ("" for none)."""

    make: Callable[[], nn.Module]
    arguments: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
    library: str = ""

    def made(self) -> nn.Module:
        """The network, the same one each time; skips where its library is not installed."""
        if self.library and importlib.util.find_spec(self.library) is None:
            pytest.skip(f"{self.library} is not installed")
        torch.manual_seed(0)
        return self.make()


def images(size: int = 32, channels: int = 3) -> Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]:
    return lambda batch: ((torch.randn(batch, channels, size, size),), {})


def of_torchvision(name: str, size: int = 32, **options: Any) -> Entry:
    return Entry(lambda: torchvision.models.get_model(name, weights=None, **options), images(size))


def of_timm(name: str, size: int = 64, **options: Any) -> Entry:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=5, **options)

    return Entry(make, images(size), "timm")


SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
PATCHES = {**SMALL, "image_size": 32, "patch_size": 8}
WORDS = {**SMALL, "vocab_size": 50, "use_cache": False}
PLACED = {**SMALL, "vocab_size": 50, "max_position_embeddings": 16}
GROUPED = {**WORDS, "num_key_value_heads": 2}
PAIR = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "use_cache": False,
}


def ids(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randint(3, 50, (batch, 7)),), {}


def id_pairs(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (), {"input_ids": torch.randint(3, 50, (batch, 7)), "decoder_input_ids": torch.randint(3, 50, (batch, 5))}


def sounds(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (), {"input_features": torch.randn(batch, 8, 20), "decoder_input_ids": torch.randint(3, 50, (batch, 5))}


def of_transformers(
    model: str, config: str, arguments: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]], **options: Any
) -> Entry:
    def make() -> nn.Module:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**options))  # type: ignore[no-any-return]

    return Entry(make, arguments, "transformers")


def several(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    named = {"image": torch.randn(batch, 5), "mask": torch.rand(batch, 7) > 0.3, "scale": 2.0}
    return (torch.randint(0, 11, (batch, 7)), torch.randn(batch, 2)), named


def tiny_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)]
    return ConvNeXt(stages, stochastic_depth_prob=0.3, num_classes=5)


def tiny_swin(version: str = "") -> nn.Module:
    from torchvision.models import swin_transformer as swin

    parts = {} if not version else {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return swin.SwinTransformer([2, 2], 8, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.3, num_classes=5, **parts)


def tiny_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 4, 16, 24, dropout=0.1, num_classes=5)


USER = {
    "functional": Entry(user_modules.Functional, images(8)),
    "shared": Entry(user_modules.Shared, images(8)),
    "weight norm": Entry(user_modules.Normalized, images(8)),
    "in place": Entry(user_modules.InPlace, images(8)),
    "several": Entry(user_modules.Several, several),
    "u-net": Entry(user_modules.UNet, images(8)),
    "gated": Entry(user_modules.Gated, images(8)),
    "custom": Entry(user_modules.Custom, lambda batch: ((torch.randn(batch, 4),), {})),
    "lstm": Entry(
        lambda: nn.LSTM(4, 5, 2, dropout=0.1, batch_first=True), lambda batch: ((torch.randn(batch, 3, 4),), {})
    ),
}

FAST = {
    **USER,
    "resnet18": of_torchvision("resnet18"),
    "mobilenet_v3_small": of_torchvision("mobilenet_v3_small", 64),
    "shufflenet_v2_x0_5": of_torchvision("shufflenet_v2_x0_5"),
    "tiny convnext": Entry(tiny_convnext, images()),
    "tiny swin": Entry(tiny_swin, images(32)),
    "tiny vit": Entry(tiny_vit, images()),
    "llama": of_transformers("LlamaForCausalLM", "LlamaConfig", ids, **GROUPED),
    "t5": of_transformers(
        "T5ForConditionalGeneration", "T5Config", id_pairs,
        vocab_size=50, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, use_cache=False,
    ),
    "timm test_vit": of_timm("test_vit", 160),
    "timm lcnet_050": of_timm("lcnet_050"),
}  # fmt: skip

SLOW = {
    **{
        name: of_torchvision(name, size, **options)
        for name, size, options in [
            ("alexnet", 64, {}),
            ("densenet121", 64, {}),
            ("efficientnet_b0", 64, {}),
            ("efficientnet_v2_s", 64, {}),
            ("googlenet", 64, {"init_weights": False}),
            ("inception_v3", 299, {"init_weights": False}),
            ("mnasnet0_5", 64, {}),
            ("mobilenet_v2", 64, {}),
            ("mobilenet_v3_large", 64, {}),
            ("regnet_x_400mf", 64, {}),
            ("regnet_y_400mf", 64, {}),
            ("resnet50", 64, {}),
            ("resnext50_32x4d", 64, {}),
            ("squeezenet1_1", 64, {}),
            ("vgg11_bn", 32, {}),
            ("swin_v2_t", 64, {}),
            ("maxvit_t", 224, {}),
        ]
    },
    "tiny swin v2": Entry(lambda: tiny_swin("v2"), images(32)),
    "fcn_resnet50": of_torchvision("fcn_resnet50", 64, weights_backbone=None),
    "lraspp_mobilenet_v3_large": of_torchvision("lraspp_mobilenet_v3_large", 64, weights_backbone=None),
    **{
        f"timm {name}": of_timm(name, size)
        for name, size in [
            ("beit_base_patch16_224", 224),
            ("cait_xxs24_224", 224),
            ("convit_tiny", 224),
            ("convnextv2_atto", 64),
            ("cspnext_tiny", 64),
            ("davit_tiny", 64),
            ("edgenext_xx_small", 64),
            ("efficientformer_l1", 224),
            ("efficientvit_m0", 224),
            ("fastvit_t8", 64),
            ("ghostnet_050", 64),
            ("hardcorenas_a", 64),
            ("hrnet_w18_small", 64),
            ("levit_128s", 224),
            ("mambaout_femto", 64),
            ("mixer_s32_224", 224),
            ("mobilenetv4_conv_small", 64),
            ("mobileone_s0", 64),
            ("mobilevit_xxs", 64),
            ("nf_resnet26", 64),
            ("poolformer_s12", 64),
            ("pvt_v2_b0", 64),
            ("regnetx_002", 64),
            ("repvit_m1", 64),
            ("resnetv2_18", 64),
            ("rexnet_100", 64),
            ("skresnet18", 64),
            ("starnet_s1", 64),
            ("tiny_vit_5m_224", 224),
            ("xcit_nano_12_p8_224", 64),
        ]
    },
    **{
        f"transformers {name}": of_transformers(model, config, arguments, **options)
        for name, model, config, arguments, options in [
            ("albert", "AlbertModel", "AlbertConfig", ids, {**PLACED, "embedding_size": 16}),
            ("bart", "BartModel", "BartConfig", id_pairs, {**PAIR, "max_position_embeddings": 32}),
            ("bert", "BertModel", "BertConfig", ids, PLACED),
            ("bloom", "BloomForCausalLM", "BloomConfig", ids,
             {"vocab_size": 50, "hidden_size": 16, "n_layer": 2, "n_head": 4, "use_cache": False}),
            ("clip vision", "CLIPVisionModel", "CLIPVisionConfig", images(), PATCHES),
            ("deit", "DeiTModel", "DeiTConfig", images(), PATCHES),
            ("dinov2", "Dinov2Model", "Dinov2Config", images(), PATCHES),
            ("gemma", "GemmaForCausalLM", "GemmaConfig", ids, {**GROUPED, "head_dim": 4}),
            ("gpt2", "GPT2LMHeadModel", "GPT2Config", ids,
             {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16, "use_cache": False,
              "bos_token_id": 1, "eos_token_id": 2}),
            ("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", ids, WORDS),
            ("mistral", "MistralForCausalLM", "MistralConfig", ids, GROUPED),
            ("opt", "OPTForCausalLM", "OPTConfig", ids,
             {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "ffn_dim": 24, "num_attention_heads": 4,
              "max_position_embeddings": 16, "word_embed_proj_dim": 16, "use_cache": False}),
            ("qwen3", "Qwen3ForCausalLM", "Qwen3Config", ids, {**GROUPED, "head_dim": 4}),
            ("swin", "SwinModel", "SwinConfig", images(),
             {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32,
              "patch_size": 2}),
            ("whisper", "WhisperModel", "WhisperConfig", sounds,
             {**PAIR, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 20, "pad_token_id": 0,
              "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}),
        ]
    },
}  # fmt: skip


def named(names: Iterable[str]) -> list[Any]:
    """Names of entries as parameters of a test; transformers takes seconds to import: its networks are of the zoo."""
    known, marks = {**FAST, **SLOW}, [pytest.mark.slow, pytest.mark.zoo]
    return [pytest.param(name, marks=marks * (known[name].library == "transformers")) for name in names]
