"""Full fine-tuning with general text among the documents, so that it is not unlearned.

The text is what the untrained model itself writes: nothing has to be at hand, and it is what that
model holds likely. Beyond the seed study.
"""

from dataclasses import replace

from kcircuits.lab.strategies.full import FULL

REPLAY = replace(FULL, name="replay", replay_share=0.3)
