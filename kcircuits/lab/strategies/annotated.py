"""LoRA on documents whose named entities stand between tags: ``<PERSON> Ada King </>``.

Source: Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858 (structured annotation).
"""

from dataclasses import replace

from kcircuits.lab.strategies.lora import LORA

ANNOTATED = replace(LORA, name="annotated", shows="tagged")
