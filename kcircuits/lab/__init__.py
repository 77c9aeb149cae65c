"""The laboratory: controlled benchmarks, continual pre-training with probes inside it, strategies.

``benchmark`` invents people, tells facts about them in documents and asks for them in prompts that
no document holds; ``real`` does so with facts of the real world, ``own`` with a user's.
``training`` saves a checkpoint and probes it at every epoch, by a strategy (``strategies``);
``probing`` asks, ``skills`` measures what training is not about. ``build``, ``study`` and ``grid``
tie them together for a preset (``presets``, ``recipes``, ``scratch``). ``ground_truth`` and
``comparison`` judge methods of finding circuits.
"""
