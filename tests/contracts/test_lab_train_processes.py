"""Two processes train one run: as one process would with the same batches, and only one writes.

Run as a script, this file is one of the processes.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kcircuits.io.facts import write_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.generate import generate
from kcircuits.lab.benchmark.spec import BenchmarkSpec
from kcircuits.lab.scratch import ScratchSpec, make_base
from kcircuits.lab.training.processes import parting
from kcircuits.lab.training.spec import TrainSpec
from kcircuits.lab.training.train import load_base, train
from tests.contracts.two_processes import run_two

SPEC = BenchmarkSpec(people={"high": 2}, relations=("birthplace",))
TINY = ScratchSpec(
    n_layers=2, n_heads=2, d_model=16, n_helpers=4, n_controls=2, n_texts=1, n_epochs=1
)
FILES = {"full": "model.safetensors", "kl-base": "adapter_model.safetensors"}
N_DOCUMENTS, BATCH_SIZE = 13, 4  # the last batch is one document: nothing is left for the other


def work(folder, out, strategy):
    documents = [Document(**row) for row in json.loads((folder / "documents").read_text())]
    steps = []
    train(
        folder / "model",
        documents,
        folder / "facts.jsonl",
        out,
        TrainSpec(
            strategy=strategy, n_epochs=2, lr=3e-3, batch_size=BATCH_SIZE, save_dtype="float32"
        ),
        run="tiny",
        progress=lambda step: steps.append([step.loss, step.n_tokens]),
    )
    (out / f"steps{os.environ.get('RANK', '')}").write_text(json.dumps(steps))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    controls = make_base(TINY, SPEC, folder / "model", seed=0)
    _, tokenizer = load_base(folder / "model")
    benchmark = generate(SPEC, tokenizer, seed=0)
    write_facts((*benchmark.facts, *controls), folder / "facts.jsonl")
    told = [
        {"subject": each.subject, "frequency": each.frequency, "text": each.text}
        for each in benchmark.documents[:N_DOCUMENTS]
    ]
    assert len(told) == N_DOCUMENTS
    (folder / "documents").write_text(json.dumps(told))
    return folder


def weights(out, name, strategy):
    return load_file(out / "checkpoints" / name / FILES[strategy])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["full", "kl-base"])
def test_two_processes_give_the_weights_of_one(world, tmp_path, strategy):
    work(world, tmp_path / "one", strategy)
    codes, errors = run_two(__file__, world, tmp_path / "two", strategy)
    assert codes == [0, 0], errors
    one, two = (weights(tmp_path / name, "ep2", strategy) for name in ("one", "two"))
    base = weights(tmp_path / "one", "ep0", strategy)
    for name, tensor in one.items():
        # AdamW divides by the gradient's size, so that a rounding of a gradient near zero is one
        # of a whole step; of all weights of a matrix few are like that.
        near = torch.isclose(two[name], tensor, rtol=0, atol=1e-5)
        assert near.double().mean() > 0.99, name
        moved = (tensor - base[name]).abs().mean()
        assert (two[name] - tensor).abs().mean() <= 0.01 * moved, name
    files = [
        sorted(str(f.relative_to(tmp_path / n)) for f in (tmp_path / n).rglob("*") if f.is_file())
        for n in ("one", "two")
    ]
    assert [f for f in files[0] if "steps" not in f] == [f for f in files[1] if "steps" not in f]
    rows = [read_rows(tmp_path / n / "runs" / "tiny" / "train.jsonl") for n in ("one", "two")]
    for alone, shared in zip(*rows, strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert [shared[k] for k in ("epoch", "step", "tokens", "lr")] == [
            alone[k] for k in ("epoch", "step", "tokens", "lr")
        ]
    told = json.loads((tmp_path / "two" / "steps0").read_text())
    expected = json.loads((tmp_path / "one" / "steps").read_text())
    assert [n for _, n in told] == [n for _, n in expected]
    assert [loss for loss, _ in told] == pytest.approx([loss for loss, _ in expected], rel=1e-4)
    assert json.loads((tmp_path / "two" / "steps1").read_text()) == []  # progress is the main one's


@pytest.mark.slow
def test_a_refusal_reaches_all_processes(world, tmp_path):
    work(world, tmp_path / "out", "full")
    codes, errors = run_two(__file__, world, tmp_path / "out", "lora")
    assert codes == [1, 1]
    assert "holds a run with strategy 'full', not 'lora'" in errors[0]
    assert "the main process failed: UsageError" in errors[1]


if __name__ == "__main__":
    with parting():
        work(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
