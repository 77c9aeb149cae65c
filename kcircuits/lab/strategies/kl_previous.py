"""LoRA that is pulled back to the model of the epoch before: loss + KL(M_{j-1} || M_j).

Source: Mousavi, Alghisi, Riccardi 2026, arXiv:2601.03858 (step-wise regularisation).
"""

from dataclasses import replace

from kcircuits.lab.strategies.lora import LORA
from kcircuits.lab.training.anchor import Anchor

KL_PREVIOUS = replace(LORA, name="kl-previous", anchor=Anchor(to="previous", weight=1.0))
