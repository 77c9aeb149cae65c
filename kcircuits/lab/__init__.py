"""The laboratory: a controlled benchmark, continual pre-training with probes, its strategies.

A benchmark (``benchmark``) invents people, tells facts about them in documents and asks for them
in prompts that no document holds. Training (``train``) saves a checkpoint and probes it at every
epoch, by a strategy (``strategies``). ``study`` ties both together for a preset (``presets``).
"""
