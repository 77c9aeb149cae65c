"""What a notebook holds: runs, and what they answer. Ties files, statistics and plots together.

A package for each question, with the object that a notebook holds, its tables, and its page:

    diff         what changed between two epochs
    overlap      how alike circuits are between all epochs
    between      the same between facts, runs and methods
    track        circuits from epoch to epoch, and all about one fact
    lenses       what heads do, and the logit lens
    transfer     circuits of an epoch on the weights of others
    link         turnover and forgetting
    evaluation   faithfulness
    dynamics     what was known when; stopping rules; strategies
    comparison   methods on the same facts
    circuits     a study of circuits over training seeds
    controls     pairs of epochs of which the truth is known
"""

from kcircuits.study.run import Run, open_run

__all__ = ["Run", "open_run"]
