"""transformers model -> HookedTransformer: our config, TransformerLens's own weight converters.

Nothing is folded, centred or guessed from a name, so the weights are those of the file.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from kcircuits.errors import CheckpointError
from kcircuits.models.families import Family
from kcircuits.models.reference import double_throughout

# The unembedding has a bias in TransformerLens only.
_ALWAYS_ZERO = {"unembed.b_U"}


def hooked_config(family: Family, config: Any, dtype: torch.dtype) -> HookedTransformerConfig:
    """HookedTransformerConfig of a transformers config; CheckpointError if it cannot be one."""
    return HookedTransformerConfig(
        **{
            "original_architecture": (config.architectures or [None])[0],
            **family.hooked_config(config),
        },
        dtype=dtype,
        device="cpu",
        init_weights=False,
        default_prepend_bos=False,
    )


def wrap(family: Family, model: Any) -> HookedTransformer:
    """A HookedTransformer with the weights of a transformers model, in memory of its own."""
    parameter = next(model.parameters())
    cfg = hooked_config(family, model.config, parameter.dtype)
    return _on(build_hooked(cfg, owned_state(family, model, cfg)), parameter.device)


def rounded(hooked: HookedTransformer, dtype: torch.dtype) -> HookedTransformer:
    """The same model in ``dtype``: its weights rounded, everything else made in that type."""
    cfg = copy.copy(hooked.cfg)
    cfg.dtype = dtype
    state = {name: tensor.detach().to(dtype) for name, tensor in hooked.named_parameters()}
    return _on(build_hooked(cfg, state), hooked.embed.W_E.device)


def architecture_of(hooked: HookedTransformer) -> dict[str, Any]:
    """The fields that two checkpoints must share to be swapped for each other."""
    return {k: v for k, v in hooked.cfg.to_dict().items() if k != "model_name"}


def build_hooked(cfg: HookedTransformerConfig, state: dict[str, Tensor]) -> HookedTransformer:
    """A HookedTransformer that owns the given tensors; none of its own making is left.

    Random initialisation is off: the empty tensors are never touched and then replaced.
    """
    hooked = HookedTransformer(cfg, move_to_device=False)
    absent = {name for name, _ in hooked.named_parameters()} - state.keys()
    surplus = state.keys() - hooked.state_dict().keys()
    if absent - _ALWAYS_ZERO or surplus:
        raise CheckpointError(
            f"the weight converter does not fit the model: absent {sorted(absent)}, surplus "
            f"{sorted(surplus)}",
            hint="report the config.json of this checkpoint to the project",
        )
    hooked.load_state_dict(state, strict=False, assign=True)
    return hooked.eval()


def set_rotary_tables(hooked: HookedTransformer, dtype: torch.dtype) -> None:
    """Compute the tables of rotary angles in ``dtype``, and keep them in the model's own type.

    A model in use has tables made in float32 whatever its type: so transformers computes them,
    and so do the reference numbers. Only the comparison in float64 needs finer ones.
    """
    if hooked.cfg.positional_embedding_type != "rotary":
        return
    for block in hooked.blocks:
        attention: Any = block.attn
        with double_throughout(dtype):
            tables = attention.calculate_sin_cos_rotary(
                hooked.cfg.rotary_dim,
                attention.rotary_sin.shape[0],
                base=attention._rotary_base(),
                dtype=dtype,
            )
        attention.rotary_sin, attention.rotary_cos = (
            table.to(attention.rotary_sin) for table in tables
        )


def owned_state(family: Family, model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    """Converted tensors in memory of their own, in the layout ([out, in]) that they came in.

    Tied embeddings become two tensors, so that a later checkpoint may untie them.
    """
    with torch.no_grad():
        state = family.convert(model, cfg)
    return {name: tensor.detach().to(cfg.dtype).clone() for name, tensor in state.items()}


def _on(hooked: HookedTransformer, device: torch.device) -> HookedTransformer:
    torch.nn.Module.to(hooked, device)
    hooked.cfg.device = str(device)
    return hooked
