"""Controls: is what the tool calls change in this run change, and does it see change that is there?

Each control makes a pair of epochs of which the truth is known and reads it as any other pair:
one file a control, one line in ``registry``. Without torch until one of them runs.

    control    what a control is, and what comes of one
    registry   all of them
    bench      what they work on: a checkpoint of a run, some facts, the way from weights to diff
"""
