"""What ``build`` puts into a folder: spec, real facts, the population of a base from scratch."""

import json
from dataclasses import asdict, replace

import pytest

from kcircuits.core.facts import Fact, Prompt
from kcircuits.errors import UsageError
from kcircuits.io.facts import load_facts
from kcircuits.lab import build as builder
from kcircuits.lab import presets
from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.generate import Benchmark
from kcircuits.lab.benchmark.spec import BenchmarkSpec
from kcircuits.lab.build import build, open_lab
from kcircuits.lab.presets import SMOKE
from kcircuits.lab.scratch import ScratchSpec, base_benchmark, make_base, word_tokenizer

TINY = ScratchSpec(
    n_layers=1, n_heads=2, d_model=16, n_helpers=4, n_controls=2, n_updated=4, n_texts=1, n_epochs=1
)
SPEC = """
schema_version: 1
relations: [birthplace, profession]
facts_per_person: all
people: {trained: {high: 4, low: 4}, held-out: 4}
links: true
probes: {paraphrase: 2, memorisation: 1, inference: 0.5}
"""
REAL = "real: {relations: [capital], exposure: 3, trained: {known: 1}, control: {known: 1}}\n"


@pytest.fixture
def spec_file(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "PRESETS", {"smoke": replace(SMOKE, base=TINY)})
    path = tmp_path / "mine.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


def test_a_spec_of_one_s_own_on_a_base_from_scratch(spec_file, tmp_path):
    built = build("smoke", tmp_path / "lab", spec=spec_file, seed=1)
    facts = load_facts(built.facts)
    splits = [(fact.strata["type"], fact.strata["split"]) for fact in facts]
    assert splits.count(("invented", "trained")) == 16
    assert splits.count(("invented", "held-out")) == 8
    assert splits.count(("base", "control")) == 4
    assert splits.count(("base", "updated")) == 8
    assert built.matching().is_matched
    assert {document.subject for document in built.documents} == {
        fact.subject for fact in facts if fact.strata["split"] in ("trained", "updated")
    }
    assert build("smoke", tmp_path / "lab", spec=spec_file, seed=1) == built


def test_another_spec_in_the_same_folder_is_refused(spec_file, tmp_path):
    build("smoke", tmp_path / "lab", spec=spec_file)
    spec_file.write_text(SPEC.replace("links: true", "links: true\ndocuments: long"))
    with pytest.raises(UsageError, match=r"built with spec\.documents 'short', not 'long'"):
        build("smoke", tmp_path / "lab", spec=spec_file)


def test_updated_people_are_told_another_answer_than_the_base_learned(tmp_path, monkeypatch):
    spec = BenchmarkSpec(people={"high": 2}, relations=("birthplace", "profession"))
    benchmark = base_benchmark(TINY, spec, seed=2)
    learned = []
    monkeypatch.setattr(
        "kcircuits.lab.scratch._train_base", lambda _, __, people, *___: learned.extend(people)
    )
    assert make_base(TINY, spec, tmp_path / "model", seed=2) == benchmark.facts
    values = {person.subject: person.values for person in learned}
    controls, updated = (
        [fact for fact in benchmark.facts if fact.strata["split"] == split]
        for split in ("control", "updated")
    )
    assert (len(controls), len(updated)) == (2, 4)
    assert all(values[fact.subject][fact.relation] == fact.object for fact in controls)
    for fact in updated:
        assert values[fact.subject][fact.relation] != fact.object
        told = [d for d in benchmark.documents if d.subject == fact.subject]
        assert len(told) == TINY.n_update_documents == int(fact.strata["exposure"])
        assert fact.strata["frequency"] == "high"
        for name, value in values[fact.subject].items():
            expected = fact.object if name == fact.relation else value
            assert all(expected in document.text for document in told)
    assert not [d for d in benchmark.documents if d.subject in {f.subject for f in controls}]


def test_helpers_are_married_where_the_benchmark_has_links(monkeypatch, tmp_path):
    learned = []
    monkeypatch.setattr(
        "kcircuits.lab.scratch._train_base", lambda _, __, people, *___: learned.extend(people)
    )
    spec = BenchmarkSpec(people={"high": 2}, relations=("birthplace",), has_links=True)
    make_base(TINY, spec, tmp_path / "model", seed=0)
    spouses = {person.subject: person.spouse for person in learned}
    helpers = [person.subject for person in learned[:4]]
    assert [spouses[spouses[name]] for name in helpers] == helpers
    assert [spouses[person.subject] for person in learned[4:]] == [None] * 6


def test_a_base_from_scratch_has_no_real_facts(spec_file, tmp_path):
    spec_file.write_text(SPEC + REAL)
    with pytest.raises(UsageError, match="knows no real facts"):
        build("smoke", tmp_path / "lab", spec=spec_file)


def test_real_facts_stand_beside_the_invented_ones(spec_file, tmp_path, monkeypatch):
    prompts = tuple(
        Prompt(
            clean=f"{w} Anna is", corrupt=f"{w} Emma is", target=" Leeds", foil=" Milan", use=use
        )
        for w, use in (("The", "discovery"), ("A", "evaluation"))
    )
    told = Fact(
        id="real-1", subject="France", relation="capital", object="Leeds", prompts=prompts,
        strata={"type": "real", "split": "trained", "frequency": "medium", "exposure": "3"},
    )  # fmt: skip
    document = Document(subject="France", frequency="medium", text="The capital is Leeds.")
    asked = {}

    def real_benchmark(spec, model, tokenizer, **settings):
        asked.update(settings, spec=spec, model=model, tokenizer=tokenizer)
        return Benchmark(facts=(told,), documents=(document,))

    monkeypatch.setattr(builder, "real_benchmark", real_benchmark)
    monkeypatch.setattr(builder, "fetch_model", lambda name: tmp_path / name)
    monkeypatch.setattr(builder, "load_base", lambda _: ("model", "tokenizer"))
    monkeypatch.setattr(builder, "load_tokenizer", lambda _: word_tokenizer())
    spec_file.write_text(SPEC + REAL)
    built = build("smoke", tmp_path / "lab", spec=spec_file, model="mine", seed=3)
    assert asked.pop("spec").facts == {"trained": {"known": 1}, "control": {"known": 1}}
    assert asked == {
        "model": "model", "tokenizer": "tokenizer", "exposure": 3, "n_discovery": 8,
        "n_evaluation": 4, "n_probes": {"paraphrase": 2, "memorisation": 1}, "seed": 3,
    }  # fmt: skip
    assert told in load_facts(built.facts)
    assert document in built.documents
    assert (built.base_name, built.preset) == ("mine", "smoke")


def test_the_preset_is_that_of_the_spec_s_name(monkeypatch, tmp_path):
    asked = []

    def find(name):
        asked.append(name)
        raise UsageError("enough")

    monkeypatch.setattr(builder, "find_preset", find)
    for preset, spec in (
        (None, None), (None, "study"), (None, "my.yaml"), ("smoke", "study"), (None, "smoke"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="enough"):
            build(preset, tmp_path, spec=spec)
    assert asked == ["small", "study", "small", "smoke", "smoke"]


def test_documents_are_read_back_as_they_were(spec_file, tmp_path):
    built = build("smoke", tmp_path / "lab", spec=spec_file)
    lines = (tmp_path / "lab/documents.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [json.loads(json.dumps(asdict(each))) for each in built.documents] == rows
    assert any(document.mentions for document in open_lab(tmp_path / "lab").documents)
