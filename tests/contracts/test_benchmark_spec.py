"""The YAML that says what a benchmark is: what ships, what is read, what is refused and where."""

from pathlib import Path

import pytest

from kcircuits.errors import InputError, UsageError
from kcircuits.lab.benchmark.spec import BenchmarkSpec, Tolerances
from kcircuits.lab.benchmark.spec_file import load_spec, spec_names
from kcircuits.lab.presets import PRESETS

WHOLE = """\
schema_version: 1
relations: [field, employer]
facts_per_person: all
people:
  trained: {high: 3, low: 4}
  held-out: 2
exposure: {mean: 2.5}
documents: mixed
links: true
answers: both
prompts: {discovery: 6, evaluation: 2, candidates: 20}
probes: {paraphrase: 2, memorisation: 1, inverse: 0.5}
real: {relations: [capital], exposure: 3, trained: {known: 2}, updated: {partly: 1}}
tolerances: {ks_p: 0.5, js_quantile: 0.9, leaks: 1, unequal: 2}
"""


def read(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_spec(path)


def test_every_field_is_read(tmp_path):
    spec = read(tmp_path, WHOLE)
    assert spec.real is not None
    assert (spec.real.relations, spec.real_exposure) == (("capital",), 3)
    assert spec.real.facts == {"trained": {"known": 2}, "updated": {"partly": 1}}
    assert spec == BenchmarkSpec(
        people={"high": 3, "low": 4},
        held_out=2,
        relations=("field", "employer"),
        facts_per_person=None,
        exposure={"mean": 2.5},
        documents="mixed",
        has_links=True,
        answers="both",
        n_discovery=6,
        n_evaluation=2,
        n_candidates=20,
        probes={"paraphrase": 2, "memorisation": 1, "inverse": 0.5},
        real=spec.real,
        real_exposure=3,
        tolerances=Tolerances(ks_p=0.5, js_quantile=0.9, leaks=1, unequal=2),
    )
    assert spec.groups == {"high": 3, "low": 4, "none": 2}
    assert (spec.n_people, spec.n_asked, spec.n_memorisation) == (9, 2, 1)


def test_specs_ship_and_presets_name_them():
    assert spec_names() == ("circuits", "small", "smoke", "study")
    assert {preset.spec for preset in PRESETS.values()} <= set(spec_names())
    study = load_spec("study")
    told = sum(study.people.values()) * study.n_asked
    assert (told, study.held_out * study.n_asked) == (96, 32)
    assert study.real is not None
    assert sum(n for priors in study.real.facts.values() for n in priors.values()) == 36
    for name in ("smoke", "small"):
        spec = load_spec(name)
        assert (spec.facts_per_person, spec.probes) == (1, {})


def test_the_spec_in_the_docs_is_study(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    (tmp_path / "shown.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    assert load_spec(tmp_path / "shown.yaml") == load_spec("study")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("links: true", "link: true", 9, "unknown field 'link'"),
        ("links: true", "links: 1", 9, "links is 1"),
        ("schema_version: 1", "schema_version: 2", 1, "schema_version is 2"),
        ("high: 3", "often: 3", 4, "'often' is not known to people"),
        ("high: 3", "high: 3, high: 4", 5, "key 'high' is given twice"),
        ("high: 3", "high: 3.5", 5, "people.trained.high is 3.5"),
        ("high: 3", "high: -3", 4, "-3 people of frequency high"),
        ("field, employer", "field, age", 2, "'age' is not known to relations"),
        ("field, employer", "field, field", 2, "relations are field, field"),
        ("documents: mixed", "documents: wide", 8, "'wide' is not known to documents"),
        ("answers: both", "answers: many", 10, "'many' is not known to answers"),
        ("facts_per_person: all", "facts_per_person: 3", 3, "3 facts per person"),
        ("facts_per_person: all", "facts_per_person: some", 3, "facts_per_person"),
        ("mean: 2.5", "mean: 0", 7, "exposure is"),
        ("mean: 2.5", "high: 8", 7, "frequency low are told in 0 documents"),
        ("mean: 2.5", "high: 8, low: 1.5", 7, "told in 1.5 documents"),
        ("discovery: 6", "discovery: 15", 11, "15 discovery, 2 evaluation, 2 paraphrase probes"),
        ("candidates: 20", "candidates: 1", 11, "1 candidates"),
        ("inverse: 0.5", "inverse: 1.5", 12, "1.5 prompts of kind inverse"),
        ("inverse: 0.5", "inverse: 3", 12, "3 prompts of kind inverse; there are 2"),
        ("inverse: 0.5", "guess: 1", 12, "'guess' is not known to probes"),
        ("memorisation: 1", "memorisation: 2", 12, "some people are told in 1 documents"),
        ("exposure: 3", "exposure: 0", 13, "told in 0 documents"),
        ("known: 2", "sure: 2", 13, "prior 'sure'"),
        ("ks_p: 0.5", "ks_p: 1.5", 14, "ks_p is 1.5; expected 0 to 1"),
        ("leaks: 1", "leaks: -1", 14, "leaks is -1; expected 0 or more"),
        ("links: true", "links: &x true", 9, "anchors"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(tmp_path, old, new, line, message):
    assert old in WHOLE
    with pytest.raises(InputError) as caught:
        read(tmp_path, WHOLE.replace(old, new, 1))
    assert message in caught.value.message
    assert (caught.value.line, caught.value.file) == (line, str(tmp_path / "mine.yaml"))


def test_probes_over_links_need_links(tmp_path):
    text = WHOLE.replace("links: true", "links: false").replace("inverse: 0.5", "inference: 1")
    with pytest.raises(InputError, match="inference ask over links, and there are none"):
        read(tmp_path, text)


def test_neither_a_name_nor_a_file(tmp_path):
    with pytest.raises(UsageError, match="there is no spec 'large'"):
        load_spec("large")
    with pytest.raises(InputError, match="no such file"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is empty"):
        read(tmp_path, "")
