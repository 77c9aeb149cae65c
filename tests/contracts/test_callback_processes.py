"""Two processes train one model: the main one probes and writes, the other waits.

Run as a script, this file is one of the two processes.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import kcircuits as kc
from kcircuits.io.facts import write_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.benchmark.generate import generate
from kcircuits.lab.benchmark.spec import BenchmarkSpec
from kcircuits.lab.scratch import ScratchSpec, make_base
from kcircuits.lab.training.batches import pad
from kcircuits.lab.training.processes import parting
from kcircuits.lab.training.train import load_base
from tests.contracts.two_processes import run_two

SPEC = BenchmarkSpec(people={"high": 2}, relations=("birthplace",))
TINY = ScratchSpec(
    n_layers=2, n_heads=2, d_model=16, n_helpers=4, n_controls=2, n_texts=1, n_epochs=1
)


class Counting(Trainer):
    """Sums the cross-entropy of this process's documents from the logits."""

    total = 0.0

    def compute_loss(self, model, inputs, *_, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        logits = outputs.logits.detach()[:, :-1].transpose(1, 2)
        labels = inputs["labels"][:, 1:]
        self.total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        return loss


def collate(rows):
    ids, mask, labels = pad([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def work(folder, is_failing):
    def skills(model, tokenizer):
        if is_failing:
            raise RuntimeError("skills failed")
        return [{"skill": "x", "n": 1, "accuracy": 0.5}]

    args = TrainingArguments(
        output_dir=str(folder / "trainer"),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=3,
        learning_rate=1e-2,
        remove_unused_columns=False,
    )
    callback = kc.ProbeCallback(
        folder / "facts.jsonl",
        folder / "run",
        run="tiny",
        skills=skills,
        stop=lambda series: series[-1]["epoch"] >= 2,
    )
    trainer = Counting(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        args=args,
        train_dataset=[{"input_ids": row} for row in json.loads((folder / "rows").read_text())],
        data_collator=collate,
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[callback],
    )
    trainer.train()
    weights = sum(p.double().sum().item() for p in trainer.model.parameters())
    result = {"total": trainer.total, "epoch": trainer.state.epoch, "weights": weights}
    (folder / f"rank{args.process_index}").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    controls = make_base(TINY, SPEC, folder / "model", seed=0)
    _, tokenizer = load_base(folder / "model")
    benchmark = generate(SPEC, tokenizer, seed=0)
    write_facts((*benchmark.facts, *controls), folder / "facts.jsonl")
    rows = tokenizer([document.text for document in benchmark.documents][:16])["input_ids"]
    (folder / "rows").write_text(json.dumps(rows))
    return folder, rows


@pytest.mark.slow
def test_two_processes_write_once_and_stop_together(world):
    folder, rows = world
    codes, errors = run_two(__file__, folder, "ok")
    assert codes == [0, 0], errors
    results = [json.loads((folder / f"rank{rank}").read_text()) for rank in range(2)]
    assert [result["epoch"] for result in results] == [2, 2]
    assert results[0]["weights"] == results[1]["weights"]
    written = read_rows(folder / "run" / "runs" / "tiny" / "train.jsonl")
    assert [row["epoch"] for row in written] == [1, 2]
    n_predicted = sum(len(row) - 1 for row in rows)
    assert [row["tokens"] for row in written] == [sum(map(len, rows))] * 2
    total = sum(row["loss"] * n_predicted for row in written)
    assert total == pytest.approx(sum(result["total"] for result in results), rel=1e-6)
    manifest = kc.load_manifest(folder / "run" / "checkpoints_manifest.yaml")
    assert manifest.epochs == ("ep0", "ep1", "ep2")


@pytest.mark.slow
def test_an_error_in_the_main_process_ends_the_other_too(world, tmp_path):
    folder, _ = world
    for name in ("model", "facts.jsonl", "rows"):
        (tmp_path / name).symlink_to(folder / name)
    codes, errors = run_two(__file__, tmp_path, "failing")
    assert codes == [1, 1]
    assert "skills failed" in errors[0]
    assert "UsageError: the main process failed: RuntimeError: skills failed" in errors[1]


if __name__ == "__main__":
    with parting():
        work(Path(sys.argv[1]), sys.argv[2] == "failing")
