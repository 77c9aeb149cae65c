"""Gemma 3, the text models: Gemma 2 with norms of queries and keys.

Sliding-window layers rotate with a base of their own. Soft caps of attention scores are refused:
transformers has the field, but does not apply it here.
"""

from typing import Any

from kcircuits.models.families.family import Family, require
from kcircuits.models.families.gemma2 import convert_gemma, gemma_fields
from kcircuits.models.families.rotary import rotary_fields_by_layer_type


def _hooked_config(config: Any) -> dict[str, Any]:
    require(config, attn_logit_softcapping=None)
    fields = gemma_fields(config)
    rotary = rotary_fields_by_layer_type(config, fields["d_head"])
    return {**fields, "use_qk_norm": True, **rotary}


FAMILY = Family(model_type="gemma3_text", hooked_config=_hooked_config, convert=convert_gemma)
