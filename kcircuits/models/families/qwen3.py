"""Qwen3: Llama with RMSNorm on queries and keys and a head width of its own."""

from typing import Any

from torch import Tensor

from kcircuits.models.families.family import Family, weight_converter
from kcircuits.models.families.llama import llama_fields, with_attention_biases


def _hooked_config(config: Any) -> dict[str, Any]:
    return {**llama_fields(config), "use_qk_norm": True}


def _convert(model: Any, cfg: Any) -> dict[str, Tensor]:
    return with_attention_biases(weight_converter("qwen3")(model, cfg), model, cfg)


FAMILY = Family(model_type="qwen3", hooked_config=_hooked_config, convert=_convert)
