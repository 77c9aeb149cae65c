"""The registry of model families: one file and one line each."""

from typing import Any

from kcircuits.core.topology import Topology
from kcircuits.errors import CheckpointError
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

__all__ = ["FAMILIES", "Family", "fields_of", "topology_of"]


def fields_of(config: Any) -> dict[str, Any]:
    """``Family.hooked_config`` of a transformers config.

    Raises:
        CheckpointError: The family or a setting of it is not supported.
    """
    if config.model_type not in FAMILIES:
        raise CheckpointError(
            f"model_type {config.model_type!r} is not supported",
            field="model_type",
            hint=f"supported are {', '.join(FAMILIES)}",
        )
    return FAMILIES[config.model_type].hooked_config(config)


def topology_of(config: Any) -> Topology:
    """The computation graph of a transformers config, without any weights.

    Raises:
        CheckpointError: As ``fields_of``.
    """
    fields = fields_of(config)
    return Topology(
        n_layers=fields["n_layers"],
        n_heads=fields["n_heads"],
        is_parallel=fields.get("parallel_attn_mlp", False),
    )
