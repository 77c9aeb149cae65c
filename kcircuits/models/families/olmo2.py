"""OLMo 2: Llama with norms after attention and MLP only, and of all heads' queries (keys) together.

TransformerLens knows these models by the name of their architecture, not by fields of its config.
"""

from typing import Any

from torch import Tensor

from kcircuits.models.families.family import Family, require, weight_converter
from kcircuits.models.families.llama import llama_fields, with_attention_biases

ARCHITECTURE = "Olmo2ForCausalLM"


def _hooked_config(config: Any) -> dict[str, Any]:
    n_heads = config.num_attention_heads
    # TransformerLens reads keys and values as if every head had its own, and norms of d_model.
    require(config, num_key_value_heads=n_heads, head_dim=config.hidden_size // n_heads)
    return {
        **llama_fields(config),
        "n_key_value_heads": None,
        "original_architecture": ARCHITECTURE,
    }


def _convert(model: Any, cfg: Any) -> dict[str, Tensor]:
    return with_attention_biases(weight_converter("olmo2")(model, cfg), model, cfg)


FAMILY = Family(model_type="olmo2", hooked_config=_hooked_config, convert=_convert)
