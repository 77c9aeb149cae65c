"""Loops that are no Trainer, and what is refused before anything is written."""

import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

import kcircuits as kc
from kcircuits.errors import (
    CheckpointError,
    FactsError,
    NonFiniteError,
    StoreBusyError,
    UsageError,
)
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.training import recorder
from kcircuits.lab.training.train import load_base
from kcircuits.lab.training.weights import trainable
from kcircuits.models.quiet import quiet
from tests.contracts.watched_training import (
    KilledError,
    build,
    collate,
    dying,
    rows_of,
    timeless,
    trainer_of,
    world,
)

__all__ = ["world"]  # the fixtures


def plain_loop(model, rows, n_epochs, watch):
    """A loop that is no Trainer; calls ``watch(epoch, model, losses)``."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(1, n_epochs + 1):
        order = torch.randperm(len(rows)).tolist()
        model.train()
        for start in range(0, len(rows), 6):
            batch = collate([{"input_ids": rows[i]} for i in order[start : start + 6]])
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        watch(epoch, model, {"loss": 1.0 / epoch, "step": 3 * epoch, "lr": 1e-2, "tokens": 7})
    return model


def test_a_loop_of_ones_own_is_watched_alike(world, tmp_path):
    facts, tokenizer = world[1], load_base(world[0])[1]
    unwatched_model = plain_loop(build(world, "full"), world[2], 2, lambda *_: None)
    model = build(world, "full")
    observer = kc.TrainingObserver(facts, tmp_path / "a" / "run", run="tiny", tokenizer=tokenizer)
    config = dict(vars(model.config))
    observer.begin(model)
    assert vars(model.config) == config
    plain_loop(model, world[2], 2, lambda n, live, losses: observer.epoch(n, live, **losses))
    other = build(world, "full")
    settings = {"facts": facts, "out": tmp_path / "b" / "run", "run": "tiny"}
    settings |= {"tokenizer": tokenizer, "stop": lambda series: series[-1]["loss"] < 0.6}
    stops = [kc.observe(other, 0, **settings)]
    watch = lambda n, live, losses: stops.append(kc.observe(live, n, **settings, **losses))  # noqa: E731
    plain_loop(other, world[2], 2, watch)
    assert stops == [False, False, True]
    for name, p in unwatched_model.named_parameters():
        assert torch.equal(p, model.get_parameter(name))
        assert torch.equal(p, other.get_parameter(name))
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    losses = rows_of(tmp_path / "a", "train.jsonl")
    assert [row["perplexity"] for row in losses] == pytest.approx([math.e, math.exp(0.5)])
    assert observer.manifest.epochs == ("ep0", "ep1", "ep2")
    before = timeless(tmp_path / "b")
    kc.observe(other, 2, **settings, loss=0.5, step=6, lr=1e-2, tokens=7)  # again: no second row
    assert timeless(tmp_path / "b") == before


def test_errors_come_before_training(world, tmp_path):
    facts, out = world[1], tmp_path / "run"
    trainer = trainer_of(world, build(world, "full"), tmp_path, [kc.ProbeCallback(facts, out)])
    trainer.processing_class = trainer.callback_handler.processing_class = None
    with pytest.raises(UsageError, match="there is no tokenizer") as caught:
        trainer.train()
    assert caught.value.hint
    fact = json.loads(facts.read_text().splitlines()[0])
    fact["prompts"][0]["corrupt"] += " and more"
    unfit = tmp_path / "unfit.jsonl"
    unfit.write_text(json.dumps(fact) + "\n")
    other = trainer_of(world, build(world, "full"), tmp_path, [kc.ProbeCallback(unfit, out)])
    with pytest.raises(FactsError, match="clean has"):
        other.train()
    assert trainer.state.global_step == other.state.global_step == 0
    with pytest.raises(FactsError):
        kc.ProbeCallback(tmp_path / "absent.jsonl", out)
    with pytest.raises(UsageError, match="cannot name a folder"):
        kc.ProbeCallback(facts, out, run="../up")
    with pytest.raises(UsageError, match="every_epochs is 0"):
        kc.ProbeCallback(facts, out, every_epochs=0)
    assert not out.exists()


def observer_of(world, out, **settings):
    tokenizer = load_base(world[0])[1]
    settings = {"run": "tiny", "tokenizer": tokenizer} | settings
    return kc.TrainingObserver(world[1], out, **settings)


def test_a_folder_with_another_run_is_refused(world, tmp_path):
    model = build(world, "full")
    first = observer_of(world, tmp_path)
    first.begin(model)
    with pytest.raises(UsageError, match="holds a run with run 'tiny', not 'other'"):
        observer_of(world, tmp_path, run="other").begin(model)
    with pytest.raises(UsageError, match="holds a run with seed 0, not 1"):
        observer_of(world, tmp_path, seed=1).begin(model)
    first.epoch(1, model, loss=1.0)
    with pytest.raises(UsageError, match=r"holds epochs up to 1[\s\S]*overwrite=True"):
        observer_of(world, tmp_path).begin(model)
    with pytest.raises(UsageError, match="epoch 1 does not come after epoch 1"):
        first.epoch(1, model, loss=1.0)
    second = observer_of(world, tmp_path, overwrite=True)
    second.begin(model)
    assert second.manifest.epochs == ("ep0",)
    with pytest.raises(StoreBusyError, match="another process has recorded"):
        first.epoch(2, model, loss=1.0)
    (tmp_path / "foreign" / "checkpoints" / "mine").mkdir(parents=True)
    with pytest.raises(UsageError, match="is there already"):
        observer_of(world, tmp_path / "foreign").begin(model)
    with pytest.raises(UsageError, match="holds no epoch 0"):
        observer_of(world, tmp_path / "new").begin(model, after=2)


def test_what_is_not_a_number_is_refused_and_not_written(world, tmp_path):
    model = build(world, "full")
    observer = observer_of(world, tmp_path)
    observer.begin(model)
    with pytest.raises(UsageError, match="the loss is nan in epoch 1") as caught:
        observer.epoch(1, model, loss=float("nan"))
    assert "learning rate" in caught.value.hint
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="ep1: the log-probability of fact"):
        observer.epoch(1, model, loss=1.0)
    assert observer.manifest.epochs == ("ep0",)
    with pytest.raises(UsageError, match=r"epoch\(\) came before begin\(\)"):
        observer_of(world, tmp_path).epoch(1, model)


def test_a_failed_recording_leaves_nothing_for_the_next(world, tmp_path, monkeypatch):
    model = build(world, "full")
    observer = observer_of(world, tmp_path)
    observer.begin(model)
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "write_manifest", dying(lambda *_: None, 1))
        with pytest.raises(KilledError):
            observer.epoch(1, model, loss=1.0)
    observer.epoch(1, model, loss=2.0)
    folder = tmp_path / "runs" / "tiny"
    assert [row["loss"] for row in read_rows(folder / "train.jsonl")] == [2.0]
    ids = [row["checkpoint"] for row in read_rows(folder / "probes.jsonl")]
    assert ids.count("ep0") == ids.count("ep1") > 0
    assert observer.manifest.epochs == ("ep0", "ep1")


def test_models_that_would_load_as_others_are_refused(world, tmp_path):
    model = build(world, "full")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with pytest.raises(UsageError, match="two matrices"):
        observer_of(world, tmp_path).begin(model)
    with pytest.raises(UsageError, match="a transformers or PEFT model was expected"):
        observer_of(world, tmp_path).begin(torch.nn.Linear(2, 2))
    adapted = build(world, "lora")
    with torch.no_grad():
        adapted.base_model.model.model.norm.weight.add_(1)
    with pytest.raises(CheckpointError, match="is not the one in the base's folder"):
        observer_of(world, tmp_path, base=world[0]).begin(adapted)
    with pytest.raises(UsageError, match="is no model folder"):
        observer_of(world, tmp_path, base=tmp_path).begin(build(world, "lora"))
    with pytest.raises(UsageError, match="the model is no PEFT adapter"):
        observer_of(world, tmp_path, base=world[0]).begin(build(world, "full"))
    small = build(world, "full")
    small.resize_token_embeddings(8)
    with pytest.raises(FactsError, match="beyond the 8 rows of the embedding"):
        observer_of(world, tmp_path).begin(small)
    observer = observer_of(world, tmp_path, skills=lambda *_: [{"skill": "sums", "n": 3}])
    with pytest.raises(UsageError, match="a row of skills"):
        observer.begin(build(world, "full"))


@pytest.mark.parametrize("is_tied", [True, False])
def test_embeddings_tied_or_trained_apart_load_as_themselves(world, tmp_path, is_tied):
    model, folder = build(world, "full"), tmp_path / "base"
    assert model.config.tie_word_embeddings
    if not is_tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.1)
    model.save_pretrained(folder)
    load_base(world[0])[1].save_pretrained(folder)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    with quiet():
        adapted = get_peft_model(model, config)
    observer = observer_of(world, tmp_path / "out", base=folder)
    observer.begin(adapted)
    with torch.no_grad():
        for p in trainable(adapted).values():
            p.add_(torch.randn_like(p) * 0.1)
    observer.epoch(1, adapted, loss=1.0)
    ids = torch.tensor([world[2][0]])
    expected = adapted.eval()(input_ids=ids).logits
    for checkpoint in observer.manifest:
        hooked = kc.load_model(checkpoint).hooked
    assert torch.allclose(hooked(ids, prepend_bos=False), expected, atol=1e-4)
