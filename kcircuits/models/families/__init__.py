"""The registry of model families: one file and one line each."""

from kcircuits.models.families import (
    gemma2,
    gemma3,
    gpt2,
    llama,
    neox,
    olmo,
    olmo2,
    phi,
    qwen2,
    qwen3,
)
from kcircuits.models.families.family import Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.model_type: module.FAMILY
    for module in (gpt2, neox, phi, llama, qwen2, qwen3, gemma2, gemma3, olmo, olmo2)
}

__all__ = ["FAMILIES", "Family"]
