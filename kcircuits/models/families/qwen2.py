"""Qwen2 and Qwen2.5: Llama with biases on query, key and value, and optional sliding windows."""

from kcircuits.models.families.family import Family, weight_converter
from kcircuits.models.families.llama import llama_fields

FAMILY = Family(model_type="qwen2", hooked_config=llama_fields, convert=weight_converter("qwen2"))
