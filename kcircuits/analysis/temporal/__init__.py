"""A fact's circuit as a graph that changes from epoch to epoch.

Plain numpy and networkx: no model, no disk. The modules, from the scores up:

    epoch_halves  circuits of halves of the prompts at every epoch, and under swapped epoch labels
    presence      when each edge or node is in the circuit; births and deaths
    history       first seen, last seen, lifetime, spells; the persistent core
    structure     entropy, sender layers and depth, degrees and hubs of circuits
    tracking      all of these of one fact, small enough to keep for every fact
    lifespans     spells of presence, for the life table (``analysis.survival``)
    roles         nodes that become or stop being hubs, enter or leave the core
    graph         networkx graphs whose nodes and edges carry their history
"""
