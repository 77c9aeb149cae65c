"""What a model knows from epoch to epoch: acquired, retained, forgotten, learned again.

Everything starts from a ``ProbeSeries``, the answers of one training run to its probes; the
modules are one question each. Plain numpy: no model, no disk.

    series      the data, and facts and entities from probes
    grid        tidy probe rows -> series, with every gap named
    steps       acquired, retained and forgotten between epochs
    events      learning, forgetting, acquisition, relearning, consolidation of each fact
    lifetimes   how long knowledge lasts: the discrete life table of windows
    exposure    effectivity and retainability of an exposure
    trend       non-monotonicity; divergence of loss and knowledge
    strata      groups of facts, intervals over entities, differences between groups
    ood         change out of domain, items paired
    rows        the table that ``kcircuits dynamics`` prints
"""

from kcircuits.analysis.dynamics.steps import KnowledgeStep, knowledge_step

__all__ = ["KnowledgeStep", "knowledge_step"]
