"""When to stop training, and which epoch to keep: rules that see only what a run has shown so far.

    rule       what a rule sees (``History``), says (``Decision``) and is (``StoppingRule``)
    registry   the rules by name
    online     a rule inside a training loop
    replay     a rule on a finished run, scored on other entities than it chose on

A rule is one file and one line in the registry. It is a pure function of the history, so the same
code serves a training loop (call ``decide`` after each epoch) and a replay. Source: METHODS.md
section 7.
"""
