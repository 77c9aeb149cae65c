"""Does the circuit of a fact change before the fact is forgotten?

Both sides of each fact, the turnover of its circuit and whether it is known, epoch by epoch. Plain
numpy: no model, no disk. The modules:

    trajectories          the data: turnover of each step, known or not at each epoch
    exchange              which entities may exchange their trajectories, and how
    risk_rows             fact-steps at risk of forgetting, and the ranks of their turnover
    turnover_forgetting   turnover before forgetting: effect sizes, permutation test, verdict
    verdict               precedes, no link beyond chance, cannot tell
    same_step             turnover by what happened in the same step: descriptive
    distinguishing_edges  edges and nodes that tell consolidated from transient facts
"""
