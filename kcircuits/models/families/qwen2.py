"""Qwen2 and Qwen2.5: Llama with biases on query, key and value, and optional sliding windows."""

from transformer_lens.pretrained.weight_conversions.qwen2 import convert_qwen2_weights

from kcircuits.models.families.family import Family
from kcircuits.models.families.llama import llama_fields

FAMILY = Family(model_type="qwen2", hooked_config=llama_fields, convert=convert_qwen2_weights)
