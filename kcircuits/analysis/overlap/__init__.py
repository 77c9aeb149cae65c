"""How alike circuits are, beside what the method reproduces of itself and what chance gives.

Plain numpy: no model, no disk. The modules, from the prompts up:

    halves          splits of a fact's prompts, and relabellings of their epochs
    half_circuits   circuits of halves, under every relabelling
    corrected       overlap of two circuits, corrected for chance, of edges or nodes
    turnover        k_ss, k_tt, k_st of one fact between two epochs; ceiling and turnover
    jackknife       intervals over entities
    swap_test       tests that swap epoch labels
    verdict         changed, no change beyond noise, cannot tell
    all_pairs       all pairs of epochs at once
    fact_halves     overlaps of all pairs of facts at one epoch
    between_facts   what groups of pairs share, with intervals
    contrast        whether pairs within strata share more than pairs between them
    clusters        groups of facts with like circuits
    own_facts       facts with themselves and with others, in two runs or by two methods
"""
