"""LoRA that is pulled back to the untrained model: loss + 10 KL(M_0 || M_j).

Source: Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858 (pre-training regularisation).
"""

from dataclasses import replace

from kcircuits.lab.strategies.lora import LORA
from kcircuits.lab.training.anchor import Anchor

KL_BASE = replace(LORA, name="kl-base", anchor=Anchor(to="base", weight=10.0))
