"""The training loop: its arithmetic, its checkpoints, its probes, and how it survives a kill."""

import numpy as np
import pytest
import torch

from kcircuits.errors import UsageError
from kcircuits.io.checkpoint_files import content_hash, read_base_hash
from kcircuits.io.facts import load_facts, write_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.io.manifest import load_manifest
from kcircuits.lab.benchmark.generate import generate
from kcircuits.lab.benchmark.spec import BenchmarkSpec
from kcircuits.lab.benchmark.spec_file import load_spec
from kcircuits.lab.presets import PRESETS
from kcircuits.lab.scratch import ScratchSpec, make_base
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.study import build_and_train, knowledge_table
from kcircuits.lab.training import recorder, resume
from kcircuits.lab.training.batches import IGNORED, epoch_batches, pad
from kcircuits.lab.training.spec import TrainSpec
from kcircuits.lab.training.step import choose_precision, mean_loss
from kcircuits.lab.training.train import load_base, train
from kcircuits.lab.training.trainer import ContinualTrainer
from kcircuits.lab.training.weights import as_saved, trainable
from kcircuits.models.load import load_model
from kcircuits.models.prompts import tokenize, tokenize_facts
from tests.contracts.continual_training import trainer_of_rows

ROWS = [[3, 4, 5, 6, 7], [8, 9, 10], [11, 12, 13, 14, 15, 16]]
SPEC = BenchmarkSpec(people={"high": 2, "low": 2}, relations=("birthplace", "profession"))
TINY = ScratchSpec(
    n_layers=2, n_heads=2, d_model=16, n_helpers=4, n_controls=2, n_texts=1, n_epochs=2
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny base model, its facts file and documents."""
    folder = tmp_path_factory.mktemp("world")
    controls = make_base(TINY, SPEC, folder / "model", seed=0)
    _, tokenizer = load_base(folder / "model")
    benchmark = generate(SPEC, tokenizer, seed=0)
    write_facts((*benchmark.facts, *controls), folder / "facts.jsonl")
    documents = list(benchmark.documents)
    return folder / "model", documents, folder / "facts.jsonl"


def run(world, out, progress=None, **settings):
    base, documents, facts = world
    settings = {"n_epochs": 3, "lr": 1e-2, "batch_size": 4} | settings
    return train(base, documents, facts, out, TrainSpec(**settings), run="tiny", progress=progress)


def rows_of(out, name):
    return read_rows(out / "runs" / "tiny" / name)


@pytest.fixture(scope="module", params=("full", "lora"))
def finished(request, world, tmp_path_factory):
    """One uninterrupted run of each strategy."""
    out = tmp_path_factory.mktemp(request.param)
    return request.param, out, run(world, out, strategy=request.param)


def tiny(world):
    return load_base(world[0])[0].requires_grad_(True)


def test_training_step_is_adamw_written_out(world, tmp_path):
    model = tiny(world).double()
    lr, n_steps, told = 1e-2, 3, []
    trainer_of_rows(model, ROWS, tmp_path, lr=lr, n_epochs=n_steps, progress=told.append).train()
    reference = tiny(world).double()
    weights = trainable(reference)
    first = {name: torch.zeros_like(p) for name, p in weights.items()}
    second = {name: torch.zeros_like(p) for name, p in weights.items()}
    for t in range(1, n_steps + 1):
        loss = told[t - 1].loss
        terms = []
        for row in ROWS:  # one document at a time: no padding
            logits = reference(input_ids=torch.tensor([row])).logits[0, :-1]
            terms.append(-logits.log_softmax(-1)[range(len(row) - 1), row[1:]])
        expected = torch.cat(terms).mean()
        gradients = torch.autograd.grad(expected, list(weights.values()))
        assert loss == pytest.approx(expected.item(), rel=1e-6)  # the model's own float32 parts
        with torch.no_grad():
            for (name, p), g in zip(weights.items(), gradients, strict=True):
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g * g
                m, v = first[name] / (1 - 0.9**t), second[name] / (1 - 0.999**t)
                p -= lr * m / (v.sqrt() + 1e-8)
    for name, p in trainable(model).items():
        # A step moves each weight by about lr; the norms inside the model are float32.
        assert torch.allclose(p, weights[name], atol=1e-2 * lr, rtol=0), name


def test_padding_carries_no_loss():
    ids, mask, labels = pad(ROWS)
    assert ids.shape == mask.shape == labels.shape == (3, 6)
    assert mask.sum(1).tolist() == [5, 3, 6]
    assert (labels == IGNORED).sum().item() == 4
    assert labels[mask == 1].equal(ids[mask == 1])


def test_epoch_batches_hold_each_row_once_with_rows_of_its_length():
    lengths = np.random.default_rng(0).integers(5, 50, 53).tolist()
    batches = epoch_batches(lengths, 8, seed=1, epoch=2)
    assert sorted(row for batch in batches for row in batch) == list(range(53))
    assert sorted(map(len, batches)) == [5, *[8] * 6]
    assert max(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches) < 20
    assert batches == epoch_batches(lengths, 8, seed=1, epoch=2)
    assert batches != epoch_batches(lengths, 8, seed=1, epoch=3)
    assert batches != epoch_batches(lengths, 8, seed=2, epoch=2)


def test_epoch_0_is_the_base_model(finished, world):
    strategy, _, manifest = finished
    ids, mask, _ = pad(ROWS)
    base = load_base(world[0])[0]
    if manifest["ep0"].adapter is None:
        with torch.no_grad():  # full fine-tuning starts from, and stores, bfloat16 weights
            for p in base.parameters():
                p.copy_(p.bfloat16())
    expected = base(input_ids=ids, attention_mask=mask).logits
    hooked = load_model(manifest["ep0"]).hooked
    for row, length in enumerate(mask.sum(1)):
        ours = hooked(ids[row : row + 1, :length], prepend_bos=False)[0]
        assert torch.allclose(ours, expected[row, :length], atol=1e-5)
    assert manifest["ep0"].is_identity == STRATEGIES[strategy].is_adapter


def test_checkpoints_load_with_parity_and_probes_are_theirs(finished):
    strategy, out, manifest = finished
    facts = load_facts(manifest.facts)
    rows = rows_of(out, "probes.jsonl")
    assert len(rows) == 4 * len(facts) * 4
    for checkpoint in manifest:
        model = load_model(checkpoint)
        assert model.is_verified
        batch = tokenize(model, facts).with_use("evaluation")
        mine = [row for row in rows if row["checkpoint"] == checkpoint.id]
        for row, (target, clean, length) in zip(
            mine, zip(batch.target, batch.clean, batch.lengths, strict=True), strict=True
        ):
            logits = model.hooked(torch.from_numpy(clean[None, :length]), prepend_bos=False)
            logprob = logits[0, -1].log_softmax(-1)[target].item()
            assert row["logprob"] == pytest.approx(logprob, abs=1e-4)
            assert row["epoch"] == checkpoint.epoch
            assert (row["strategy"], row["seed"], row["kind"]) == (strategy, 0, "paraphrase")


def test_manifest_and_rows_tell_the_whole_run(finished, world):
    strategy, out, manifest = finished
    assert manifest.epochs == ("ep0", "ep1", "ep2", "ep3")
    assert [c.epoch for c in manifest] == [0, 1, 2, 3]
    for checkpoint in manifest:
        assert checkpoint.sha256 == content_hash(checkpoint.path, checkpoint.adapter)
        if checkpoint.adapter is not None:
            assert read_base_hash(checkpoint.adapter) == content_hash(world[0])
    assert len({c.sha256 for c in manifest}) == 4
    rows = rows_of(out, "train.jsonl")
    n_documents = len(world[1])
    steps = -(-n_documents // 4)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [steps, 2 * steps, 3 * steps]
    assert [c.step for c in manifest] == [0, steps, 2 * steps, 3 * steps]
    for row in rows:
        assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
        assert row["lr"] == 1e-2
        assert row["tokens"] > 0
        assert row["seconds"] > 0
        assert row["probing_seconds"] > 0
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert not (out / "state").exists()
    assert strategy in STRATEGIES


class KilledError(BaseException):
    """Stands for a kill: nothing in the loop may catch it."""


def killed_in(monkeypatch, name, call):
    """Makes the call-th use of a function of the training die, half of the time after its work."""
    module = next(m for m in (resume, recorder, ContinualTrainer) if hasattr(m, name))
    original, calls = getattr(module, name), []

    def dying(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            if call % 2:
                original(*args, **kwargs)
            raise KilledError
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, dying)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("training_step", 8),
        ("training_step", 11),
        ("save_checkpoint", 1),
        ("save_checkpoint", 3),
        ("append_rows", 1),
        ("append_rows", 4),
        ("append_rows", 5),
        ("save_state", 2),
        ("save_state", 3),
        ("write_manifest", 1),
        ("write_manifest", 4),
    ],
)
def test_a_killed_run_goes_on_with_the_same_weights(
    finished, world, tmp_path, monkeypatch, name, call
):
    strategy, out, manifest = finished
    with monkeypatch.context() as patch:
        killed_in(patch, name, call)
        with pytest.raises(KilledError):
            run(world, tmp_path, strategy=strategy)
    again = run(world, tmp_path, strategy=strategy)
    assert [c.sha256 for c in again] == [c.sha256 for c in manifest]
    assert rows_of(tmp_path, "probes.jsonl") == rows_of(out, "probes.jsonl")
    timeless = [
        [
            {k: v for k, v in row.items() if not k.endswith("seconds")}
            for row in rows_of(f, "train.jsonl")
        ]
        for f in (tmp_path, out)
    ]
    assert timeless[0] == timeless[1]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "ep0", "ep1", "ep2", "ep3"
    ]  # fmt: skip
    assert not (tmp_path / "state").exists()


def test_a_finished_run_is_not_repeated_and_another_request_is_refused(finished, world):
    strategy, out, manifest = finished

    def never(step):
        raise AssertionError(step)

    assert run(world, out, never, strategy=strategy) == load_manifest(manifest.path)
    with pytest.raises(UsageError, match=r"holds a run with lr 0\.01, not 0\.02") as caught:
        run(world, out, strategy=strategy, lr=2e-2)
    assert caught.value.field == "lr"
    assert "--out" in str(caught.value.hint)


def test_global_random_state_is_left_alone(world, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)  # not a state that an earlier run of the same seed could leave
        before = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # noqa: NPY002
        run(world, tmp_path, strategy="lora", n_epochs=1)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == np.random.get_state()[1].tobytes()  # noqa: NPY002


def test_weights_as_saved_are_rounded_inside_and_restored_after(world):
    model = tiny(world)
    before = {name: p.detach().clone() for name, p in trainable(model).items()}
    with as_saved(model, "bfloat16"):
        for name, p in trainable(model).items():
            assert torch.equal(p, before[name].bfloat16().float())
    assert all(torch.equal(p, before[name]) for name, p in trainable(model).items())


def test_timing_the_precisions_changes_nothing(world):
    model = tiny(world)
    before = {name: p.detach().clone() for name, p in trainable(model).items()}
    assert choose_precision(model, ROWS) in ("float32", "bfloat16")
    for name, p in trainable(model).items():
        assert p.grad is None
        assert torch.equal(p, before[name])


def test_autocast_is_near_float32(world):
    model = tiny(world)
    losses = [mean_loss(model, ROWS, precision).item() for precision in ("float32", "bfloat16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "magic"}, "'magic' does not exist"),
        ({"precision": "float16"}, "'float16' does not exist"),
        ({"save_dtype": "int8"}, "'int8' does not exist"),
        ({"n_epochs": 0}, "n_epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": float("nan")}, "lr is nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        TrainSpec(**settings)


def test_no_documents_are_refused(world, tmp_path):
    base, _, facts = world
    with pytest.raises(UsageError, match="no documents"):
        train(base, [], facts, tmp_path, TrainSpec(), run="tiny")


def test_divergence_names_epoch_and_step(world, tmp_path):
    model = tiny(world)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    trainer = trainer_of_rows(model, ROWS, tmp_path, n_epochs=3, batch_size=2, after=(1, 2))
    with pytest.raises(UsageError, match="diverged: the loss is nan in epoch 2, step 1"):
        trainer.train()


def test_lora_refuses_an_architecture_without_its_modules(world):
    model = load_base(world[0])[0]
    for layer in model.model.layers:
        layer.self_attn.query = layer.self_attn.q_proj
        del layer.self_attn.q_proj
    with pytest.raises(UsageError, match="has no module q_proj"):
        STRATEGIES["lora"].prepare(model, 0)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_presets_have_settings_for_every_strategy(preset):
    assert set(preset.training) == set(STRATEGIES)
    for name, spec in preset.training.items():
        assert spec.strategy == name
    assert load_spec(preset.spec).n_people


@pytest.mark.slow
def test_smoke_preset_learns_new_facts_and_forgets_some(tmp_path):
    manifest = build_and_train("smoke", tmp_path)
    table = knowledge_table(manifest)
    first, last = table[0], table[-1]
    assert first["trained high"] <= 0.25
    assert first["trained low"] <= 0.25
    assert last["trained high"] >= 0.8
    assert first["control none"] >= 0.9
    assert min(row["control none"] for row in table) <= 0.9
    assert last["loss"] < 0.5 * table[1]["loss"]
    _, tokenizer = load_base(tmp_path / "model")
    assert len(tokenize_facts(tokenizer, load_facts(manifest.facts))) == 24 * 12


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_a_rate_of_0_changes_no_checkpoint(world, tmp_path, strategy):
    run(world, tmp_path, strategy=strategy, lr=0.0, n_epochs=2)
    manifest = load_manifest(tmp_path / "checkpoints_manifest.yaml")
    assert len({load_model(checkpoint).content_hash for checkpoint in manifest}) == 1
