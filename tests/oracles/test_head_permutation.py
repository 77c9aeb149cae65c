"""Who is who among renumbered heads: the detector against names, and against noise."""

import numpy as np
import pytest

from kcircuits.analysis.overlap.permutation import head_profiles, match_heads, renumber_heads
from kcircuits.core.candidates import flat_edges
from kcircuits.core.topology import Topology

TOPOLOGY = Topology(n_layers=4, n_heads=5)
EDGES = flat_edges(TOPOLOGY)
N_FACTS, N_PROMPTS = 12, 8
ENTITIES = [f"e{i}" for i in range(N_FACTS)]


def new_name(name: str, heads: np.ndarray) -> str:
    """A node at t under the name that it has at s."""
    if name[0] != "a":
        return name
    layer, _, rest = name[1:].partition(".h")
    head, bracket, kind = rest.partition("<")
    return f"a{layer}.h{heads[int(layer)].tolist().index(int(head))}{bracket}{kind}"


def random_heads(rng, layers=range(TOPOLOGY.n_layers)):
    heads = np.tile(np.arange(TOPOLOGY.n_heads), (TOPOLOGY.n_layers, 1))
    for layer in layers:
        heads[layer] = np.roll(heads[layer], 1 + rng.integers(TOPOLOGY.n_heads - 1))
    return heads


def scores_of(rng, *, noise, kept=1.0):
    """[epoch, prompt, edge] of each fact: heavy-tailed signals of which t keeps a share."""
    facts = []
    for _ in range(N_FACTS):
        first = rng.lognormal(0, 1.5, len(EDGES)) * rng.choice([-1, 1], len(EDGES))
        other = rng.lognormal(0, 1.5, len(EDGES)) * rng.choice([-1, 1], len(EDGES))
        second = np.where(rng.random(len(EDGES)) < kept, first, other)
        signals = np.stack([first, second])[:, None]
        facts.append(signals * (1 + noise * rng.standard_normal((2, N_PROMPTS, len(EDGES)))))
    return facts


def matched(facts, heads, entities=ENTITIES):
    """The match of s with t, whose edges have the names that ``heads`` gives them."""
    place = np.empty(TOPOLOGY.edge_mask.size, dtype=int)
    place[EDGES] = np.arange(len(EDGES))
    order = place[renumber_heads(EDGES, heads, TOPOLOGY)]  # of each edge at t, its place at s
    profiles = [
        head_profiles(np.stack([values[0], values[1][:, order]]), EDGES, TOPOLOGY)
        for values in facts
    ]
    return match_heads(profiles, entities)


def test_renumbered_edges_are_those_of_the_renamed_heads():
    heads = random_heads(np.random.default_rng(0))
    found = renumber_heads(EDGES, heads, TOPOLOGY)
    for edge, new in zip(EDGES, found, strict=True):
        sender, _, receiver = TOPOLOGY.edge_name(*divmod(int(edge), TOPOLOGY.n_backward)).partition(
            "->"
        )
        assert TOPOLOGY.edge_name(*divmod(int(new), TOPOLOGY.n_backward)) == (
            f"{new_name(sender, heads)}->{new_name(receiver, heads)}"
        )
    assert sorted(found) == EDGES.tolist()


def test_profile_adds_up_a_heads_edges_by_the_other_end():
    rng = np.random.default_rng(1)
    candidates = np.sort(rng.choice(EDGES, 90, replace=False))
    scores = rng.standard_normal((2, 3, 90))
    profiles = head_profiles(scores, candidates, TOPOLOGY)
    slow = np.zeros_like(profiles)
    kinds = ["q", "k", "v", "mlp", "logits"]
    for i, edge in enumerate(candidates):
        name = TOPOLOGY.edge_name(*divmod(int(edge), TOPOLOGY.n_backward))
        sender, _, receiver = name.partition("->")
        node, _, kind = receiver.rstrip(">").partition("<")
        kind = kind or {"m": "mlp", "l": "logits"}[node[0]]
        for place, feature in (
            (sender, kinds.index(kind)),
            (node, 5 + 3 * kinds.index(kind) + "iam".index(sender[0])),
        ):
            if place[0] == "a":
                layer, head = map(int, place[1:].split(".h"))
                slow[:, :, layer, head, feature] += scores[:, :, i]
    np.testing.assert_allclose(profiles, slow, atol=1e-12)


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_permuted_layers_and_their_heads_are_found(noise):
    rng = np.random.default_rng(2)
    heads = random_heads(rng, layers=(1, 3))
    match = matched(scores_of(rng, noise=noise, kept=0.9), heads)
    assert match.layers == [1, 3]
    np.testing.assert_array_equal(match.undoing, heads)
    assert (match.matched[[1, 3]] > match.as_named[[1, 3]] + 0.5).all()


def test_permuting_every_layer_is_found_in_every_layer():
    rng = np.random.default_rng(3)
    heads = random_heads(rng)
    match = matched(scores_of(rng, noise=0.5), heads)
    assert match.layers == [0, 1, 2, 3]
    np.testing.assert_array_equal(match.heads, heads)


@pytest.mark.parametrize("kept", [1.0, 0.5, 0.0])
def test_change_that_is_no_permutation_is_not_called_one(kept):
    """Circuits that stay, that lose half of their edges, and that have nothing in common."""
    own = random_heads(np.random.default_rng(0), layers=())
    alarms = [
        matched(scores_of(np.random.default_rng(seed), noise=0.7, kept=kept), own).layers
        for seed in range(40)
    ]
    assert sum(map(len, alarms)) == 0


def test_a_head_that_takes_over_in_some_facts_is_no_permutation():
    rng = np.random.default_rng(4)
    facts = scores_of(rng, noise=0.3)
    swapped = random_heads(rng, layers=())
    swapped[2, [0, 1]] = 1, 0
    place = np.empty(TOPOLOGY.edge_mask.size, dtype=int)
    place[EDGES] = np.arange(len(EDGES))
    order = place[renumber_heads(EDGES, swapped, TOPOLOGY)]
    for values in facts[: N_FACTS // 2]:
        values[1] = values[1][:, order]
    assert matched(facts, random_heads(rng, layers=())).layers == []


def test_few_entities_tell_nothing():
    rng = np.random.default_rng(5)
    heads, facts = random_heads(rng), scores_of(rng, noise=0.1)
    match = matched(facts, heads, ["a", "b", "c"] * (N_FACTS // 3))
    assert match.n_entities == 3
    assert np.isnan(match.low).all()
    assert match.layers == []


def test_single_prompts_and_empty_layers_tell_nothing():
    profiles = [np.zeros((2, 1, 4, 5, 14))] * N_FACTS
    assert match_heads(profiles, ENTITIES).layers == []
    match = match_heads([np.zeros((2, 4, 4, 5, 14))] * N_FACTS, ENTITIES)
    assert match.layers == []
    np.testing.assert_array_equal(match.heads, random_heads(np.random.default_rng(0), layers=()))
