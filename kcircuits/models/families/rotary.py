"""Rotary embeddings and sliding windows: transformers config -> HookedTransformerConfig fields."""

from collections.abc import Mapping
from typing import Any

from kcircuits.errors import CheckpointError


def rotary_fields(config: Any, d_head: int) -> dict[str, Any]:
    """Fields for one rotary embedding that all layers share.

    Raises:
        CheckpointError: TransformerLens does not compute this kind of rotary embedding.
    """
    rope = config.rope_parameters
    rotary_dim = int(d_head * rope.get("partial_rotary_factor", 1.0))
    if rotary_dim % 2:
        raise CheckpointError(
            f"{rotary_dim} of {d_head} dimensions of a head would rotate; rotation needs pairs",
            field="partial_rotary_factor",
        )
    return {
        "positional_embedding_type": "rotary",
        "rotary_dim": rotary_dim,
        "rotary_base": rope["rope_theta"],
        **_scaling(rope),
    }


def rotary_fields_by_layer_type(config: Any, d_head: int) -> dict[str, Any]:
    """Fields where full-attention and sliding-window layers rotate differently (Gemma 3)."""
    full, sliding = (config.rope_parameters.get(f"{kind}_attention") for kind in _KINDS)
    if full is None or sliding is None:
        raise CheckpointError(
            "rope_parameters must describe full_attention and sliding_attention",
            field="rope_parameters",
        )
    if _scaling(sliding):
        raise CheckpointError(
            f"rotary scaling {sliding['rope_type']!r} in sliding-window layers is not supported",
            field="rope_parameters",
        )
    scaling = _scaling(full)
    if scaling.keys() - {"rotary_scaling_factor"}:
        raise CheckpointError(
            f"rotary scaling {full['rope_type']!r} in full-attention layers is not supported "
            "beside sliding windows, only 'linear' is",
            field="rope_parameters",
        )
    return {
        "positional_embedding_type": "rotary",
        "rotary_dim": d_head,
        "rotary_base": full["rope_theta"],
        "rotary_base_local": sliding["rope_theta"],
        **scaling,
    }


_KINDS = ("full", "sliding")


def window_fields(config: Any) -> dict[str, Any]:
    """Fields for layers that see only the last ``sliding_window`` positions; {} without any."""
    layer_types = getattr(config, "layer_types", None) or []
    if "sliding_attention" not in layer_types:
        return {}
    return {
        "use_local_attn": True,
        "window_size": config.sliding_window,
        "attn_types": ["local" if t == "sliding_attention" else "global" for t in layer_types],
    }


def _scaling(rope: Mapping[str, Any]) -> dict[str, Any]:
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return {}
    if kind == "linear":
        return {"rotary_scaling_factor": float(rope["factor"])}
    if kind == "llama3":
        return {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        }
    raise CheckpointError(
        f"rotary scaling {kind!r} is not supported",
        field="rope_parameters",
        hint="supported are default, linear and llama3",
    )
