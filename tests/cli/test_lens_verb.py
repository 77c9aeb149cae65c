"""``kcircuits lens``: its numbers are those of ``kc.lenses``, kept in files that verify."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.analysis.overlap.jackknife import student_quantile
from kcircuits.analysis.roles import ROLES, head_roles
from kcircuits.cli.main import main
from kcircuits.core.bootstrap import bootstrap_mean
from kcircuits.io.lens_files import lens_path, open_lens_file
from kcircuits.study.lenses.lenses import read_lenses
from kcircuits.study.lenses.page import lenses_page
from tests.cli.test_evaluate_verb import write_model

N_FACTS, N_EPOCHS, N_PROMPTS = 6, 3, 4
NAMES = ("prompt_idx", "n_tokens", "heads", "mlps", "embedding", "constant", "mean_logit",
         "attention", "logprob", "rank")  # fmt: skip


def fact(i: int, *, word: int = 0) -> dict[str, Any]:
    prompts = [
        {
            "clean": f"w{p} w{5 + p} w{20 + i} w{10 + p} w{15 + word}",
            "corrupt": f"w{p} w{5 + p} w{30 + i} w{10 + p} w{15 + word}",
            "target": f" w{40 + i}",
            "foil": f" w{50 + i}",
            "use": "discovery" if p < N_PROMPTS else "evaluation",
            "subject_span": [len(f"w{p} w{5 + p} "), len(f"w{p} w{5 + p} w{20 + i}")],
            **({"relation_span": [0, 2]} if i == 0 else {}),
        }
        for p in range(N_PROMPTS + 1)
    ]
    return {
        "id": f"f{i}", "subject": f"w{20 + i // 2}", "relation": "r", "object": f"w{40 + i}",
        "prompts": prompts, "strata": {"half": "even" if i % 2 == 0 else "odd"},
    }  # fmt: skip


def write_facts(root: Path, facts: list[dict[str, Any]]) -> None:
    (root / "facts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in facts))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with circuits at three epochs, and no lenses yet."""
    root = tmp_path_factory.mktemp("lenses")
    for epoch in range(N_EPOCHS):
        write_model(root / f"ep{epoch}", epoch)
    write_facts(root, [fact(i) for i in range(N_FACTS)])
    lines = [f"  - {{id: ep{i}, epoch: {i}, path: ep{i}}}\n" for i in range(N_EPOCHS)]
    (root / "checkpoints_manifest.yaml").write_text(
        "schema_version: 1\nrun: seen\nbase_model: tiny\nfacts: facts.jsonl\ncheckpoints:\n"
        + "".join(lines)
    )
    manifest = str(root / "checkpoints_manifest.yaml")
    assert main(["run", "--quiet", "--method", "eap", "--manifest", manifest]) == 0
    return root


@pytest.fixture(scope="module")
def study(finished: Path) -> Path:
    """The run with its lenses."""
    manifest = str(finished / "checkpoints_manifest.yaml")
    assert main(["lens", "--quiet", "--manifest", manifest]) == 0
    return finished


@pytest.fixture
def lens(study: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*args: str, root: Path = study) -> tuple[int, Any]:
        capsys.readouterr()
        manifest = str(root / "checkpoints_manifest.yaml")
        code = main(["lens", *args, "--quiet", "--manifest", manifest])
        output = capsys.readouterr()
        return code, json.loads(output.out) if "--json" in args else output

    return call


@pytest.fixture
def copied(study: Path, tmp_path: Path) -> Path:
    return shutil.copytree(study, tmp_path / "copy")


@pytest.fixture(scope="module")
def direct(study: Path) -> list[kc.Lenses]:
    """What the Python function gives at each epoch."""
    facts, found = kc.load_facts(study / "facts.jsonl"), []
    for checkpoint in kc.load_manifest(study / "checkpoints_manifest.yaml"):
        model = kc.load_model(checkpoint)
        found.append(kc.lenses(model, kc.tokenize(model, facts)))
    return found


def run_of(root: Path) -> kc.Run:
    return kc.open_run(root / "runs" / "seen")


def test_files_hold_what_the_python_function_gives(study: Path, direct: list[kc.Lenses]) -> None:
    run = run_of(study)
    for checkpoint, wanted in zip(run.checkpoints, direct, strict=True):
        file = open_lens_file(run.path, checkpoint.content_hash or "")
        assert file is not None
        for name in wanted.fact_ids:
            found, own = file.read(name), wanted.facts([name])
            assert found.checkpoint == own.checkpoint
            assert found.topology == own.topology
            for field in NAMES:
                np.testing.assert_allclose(
                    getattr(found, field), getattr(own, field), rtol=1e-4, atol=1e-5
                )


def test_lens_rows_are_means_with_intervals_over_subjects(
    lens: Any, study: Path, direct: list[kc.Lenses]
) -> None:
    _, told = lens("--json")
    assert told["schema"] == "kcircuits.lens/1"
    assert (told["interval_over"], told["relation"]) == ("subjects", "text")
    subjects = np.array([one.subject for one in kc.load_facts(study / "facts.jsonl")])
    rows = {(r["epoch"], r["depth"]): r for r in told["lens"]}
    assert len(rows) == len(told["lens"]) == N_EPOCHS * 3
    for e, wanted in enumerate(direct):
        logprob = wanted.mean(wanted.logprob)
        interval = bootstrap_mean(logprob, subjects, seed=0)
        for depth, after in enumerate(("embedding", "layer 0", "layer 1")):
            row = rows[f"ep{e}", depth]
            assert (row["stratum"], row["facts"], row["after"]) == ("all", N_FACTS, after)
            assert row["logprob"] == pytest.approx(logprob[:, depth].mean(), rel=1e-4)
            assert row["low"] == pytest.approx(interval.low[depth], rel=1e-3)
            assert row["high"] == pytest.approx(interval.high[depth], rel=1e-3)
            assert row["prob"] == pytest.approx(wanted.prob[:, depth].mean(), rel=1e-4)
            rank = np.exp(np.log(wanted.rank[:, depth]).mean())
            assert row["rank"] == pytest.approx(rank, rel=1e-4)


def test_parts_add_up(lens: Any, direct: list[kc.Lenses]) -> None:
    _, told = lens("--json", "--by", "half")
    assert len(told["parts"]) == N_EPOCHS * 2
    for row in told["parts"]:
        wanted = direct[int(row["epoch"][2:])]
        mine = wanted.facts([f"f{i}" for i in range(N_FACTS) if i % 2 == (row["stratum"] == "odd")])
        groups = mine.heads[:, 0].sum((1, 2)).mean(0)
        for g, name in enumerate(("subject", "relation", "last", "rest")):
            assert row[name] == pytest.approx(groups[g], rel=1e-3, abs=1e-5)
        assert row["mlps"] == pytest.approx(mine.mlps[:, 0].sum(1).mean(), rel=1e-3)
        assert row["embedding"] == pytest.approx(mine.embedding[:, 0].mean(), rel=1e-3, abs=1e-5)
        assert row["total"] == pytest.approx(mine.total[:, 0].mean(), rel=1e-3)


def test_roles_and_heads_are_those_of_each_facts_mean(
    lens: Any, study: Path, direct: list[kc.Lenses]
) -> None:
    _, told = lens("--json", "--top", "3")
    subjects = np.array([one.subject for one in kc.load_facts(study / "facts.jsonl")])
    n_told = 0
    for e, wanted in enumerate(direct):
        means = wanted.mean(wanted.heads[:, 0])
        roles = head_roles(means)
        for r, role in enumerate(ROLES):
            (row,) = [x for x in told["roles"] if (x["epoch"], x["role"]) == (f"ep{e}", role)]
            counts = (roles == r).sum((1, 2))
            assert row["heads"] == pytest.approx(counts.mean())
            against = (roles == r) & (means[..., 0] + means[..., 1] < 0)
            assert row["against"] == pytest.approx(against.sum((1, 2)).mean())
            interval = bootstrap_mean(counts.astype(float), subjects, seed=0)
            assert row["low"] == pytest.approx(float(interval.low))
            assert row["high"] == pytest.approx(float(interval.high))
            n_told += counts.sum()
        heads = [x for x in told["heads"] if x["epoch"] == f"ep{e}"]
        sizes = np.abs(means.sum(-1)).mean(0)
        order = np.argsort(-sizes.ravel())[:3]
        assert [x["head"] for x in heads] == [f"a{i // 4}.h{i % 4}" for i in order]
        for row, i in zip(heads, order, strict=True):
            at = np.unravel_index(i, sizes.shape)
            own = means[(slice(None), *at)]
            assert row["contribution"] == pytest.approx(own.sum(1).mean(), rel=1e-3, abs=1e-5)
            for g, name in enumerate(("subject", "relation", "last", "rest")):
                assert row[name] == pytest.approx(own[:, g].mean(), rel=1e-3, abs=1e-5)
            difference = wanted.mean(wanted.heads[:, 1].sum(-1))[(slice(None), *at)].mean()
            assert row["difference"] == pytest.approx(difference, rel=1e-3, abs=1e-5)
            attention = wanted.mean(wanted.attention)[(slice(None), *at)].mean(0)
            assert row["attention_subject"] == pytest.approx(attention[0], rel=1e-3)
            assert row["attention_relation"] == pytest.approx(attention[1], rel=1e-3)
            for r, role in enumerate(ROLES):
                share = (roles[(slice(None), *at)] == r).mean()
                assert row[f"{role}_facts"] == pytest.approx(share)
    assert n_told > 0


def test_one_fact_has_intervals_over_its_prompts(lens: Any, direct: list[kc.Lenses]) -> None:
    _, told = lens("--json", "--facts", "f3")
    assert (told["interval_over"], told["facts"]) == ("prompts", ["f3"])
    own = direct[1].facts(["f3"])
    row = next(r for r in told["lens"] if (r["epoch"], r["depth"]) == ("ep1", 2))
    reach = student_quantile(0.975, 3) * own.logprob[:, 2].std(ddof=1) / 2
    assert row["high"] - row["logprob"] == pytest.approx(reach, rel=1e-3)
    assert row["logprob"] - row["low"] == pytest.approx(reach, rel=1e-3)


def test_steps_join_epochs(lens: Any) -> None:
    _, told = lens("ep0..ep2", "--json")
    steps = [(r["from"], r["to"]) for r in told["steps"]]
    assert steps == [("ep0", "ep1")] * 3 + [("ep1", "ep2")] * 3
    assert sum(r["acquired"] + r["lost"] for r in told["steps"]) > 0
    for row in told["steps"]:
        excess = row["acquired"] + row["lost"] - 2 * row["noise"]
        assert row["excess"] == pytest.approx(excess)
        assert row["low"] <= row["excess"] <= row["high"]
    assert {(r["from"], r["to"]) for r in told["head_steps"]} == {("ep0", "ep2")}
    _, alone = lens("ep1", "--json")
    assert alone["steps"] == alone["head_steps"] == []


def test_what_is_kept_is_not_computed_again(
    lens: Any, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("kcircuits.study.scored_checkpoint.load_scored", refuse)
    assert lens("--json")[0] == 0
    assert lens("last", "--facts", "half=even", "--json")[1]["facts"] == ["f0", "f2", "f4"]


def test_reading_needs_no_torch(study: Path) -> None:
    code = (
        "import sys; from kcircuits.cli.main import main; "
        "assert main(['lens', '--json', '--quiet', '--html', 'x.html']) == 0; "
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=study, capture_output=True)


def test_only_what_is_missing_is_computed(lens: Any, copied: Path) -> None:
    run = run_of(copied)
    path = lens_path(run.path, run.checkpoints[0].content_hash or "")
    path.unlink()
    others = [lens_path(run.path, c.content_hash or "") for c in run.checkpoints[1:]]
    before = [file.stat().st_mtime_ns for file in others]
    _, told = lens("--json", "--facts", "f1,f2", root=copied)
    assert told["facts"] == ["f1", "f2"]
    assert [file.stat().st_mtime_ns for file in others] == before
    assert read_lenses(run).left_out == ("f0", "f3", "f4", "f5")
    held = open_lens_file(run.path, run.checkpoints[0].content_hash or "")
    assert held is not None
    assert [one.id for one in held.facts] == ["f1", "f2"]
    _, whole = lens("--json", root=copied)  # adds the others beside them
    _, wanted = lens("--json")
    for row, want in zip(whole["lens"], wanted["lens"], strict=True):
        assert row["logprob"] == pytest.approx(want["logprob"], rel=1e-5)
    assert read_lenses(run).left_out == ()


def test_a_run_computes_what_is_missing(lens: Any, copied: Path) -> None:
    run, told = run_of(copied), []
    path = lens_path(run.path, run.checkpoints[1].content_hash or "")
    path.unlink()
    found = run.lenses(by="half", progress=lambda *news: told.append(news))
    assert path.exists()
    assert (found.epochs, found.left_out) == (run.epochs, ())
    assert told[-1] == (N_FACTS * N_PROMPTS, N_FACTS * N_PROMPTS, "ep1")
    for row, want in zip(found.lens_rows, lens("--json", "--by", "half")[1]["lens"], strict=True):
        assert row["logprob"] == pytest.approx(want["logprob"], rel=1e-5)
    path.unlink()
    (copied / "ep1" / "model.safetensors").unlink()
    with pytest.raises(kc.KCircuitsError, match="ep1"):
        run.lenses()


@pytest.mark.parametrize("change", ["words", "span"])
def test_a_changed_fact_is_not_read(change: str, lens: Any, copied: Path) -> None:
    facts = [fact(i, word=int(i == 2 and change == "words")) for i in range(N_FACTS)]
    if change == "span":  # the same tokens, of which others are the subject
        for prompt in facts[2]["prompts"]:
            prompt["subject_span"] = [0, 2]
    write_facts(copied, facts)
    manifest = str(copied / "checkpoints_manifest.yaml")
    assert main(["run", "--quiet", "--method", "eap", "--manifest", manifest]) == 0
    assert read_lenses(run_of(copied)).left_out == ("f2",)
    with pytest.raises(kc.KCircuitsError, match="no fact has lenses at all of ep0, ep1, ep2"):
        read_lenses(run_of(copied), fact_ids=["f2"])
    _, told = lens("--json", root=copied)
    _, before = lens("--json")
    assert told["left_out"] == []
    field, table = ("logprob", "lens") if change == "words" else ("relation", "parts")
    assert told[table][1][field] != pytest.approx(before[table][1][field], rel=1e-6)


def test_a_flipped_bit_is_found(lens: Any, copied: Path) -> None:
    run = run_of(copied)
    path = lens_path(run.path, run.checkpoints[1].content_hash or "")
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    code, output = lens(root=copied)
    assert code == 5
    assert "does not fit its checksum" in output.err
    assert "delete that file, then `kcircuits lens` computes it again" in output.err
    where = ["--run", str(run.path)]
    assert main(["status", "--verify", *where]) == 5
    assert main(["status", "--repair", *where]) == 0
    assert not path.exists()
    assert main(["status", "--verify", *where]) == 0
    assert lens(root=copied)[0] == 0


def test_an_epoch_that_cannot_be_loaded_leaves_the_others(
    lens: Any, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "runs" / "seen" / "lenses")
    (copied / "ep1" / "model.safetensors").unlink()
    code, output = lens(root=copied)
    assert code == 8
    assert "1 of 3 epochs are missing (ep1 not computed)" in output.err
    assert read_lenses(run_of(copied)).epochs == ("ep0", "ep2")
    with pytest.raises(kc.KCircuitsError, match="epoch ep1 of run seen has no lenses yet"):
        read_lenses(run_of(copied), ["ep1"])


def test_another_checkpoint_under_the_same_name_is_refused(lens: Any, copied: Path) -> None:
    shutil.rmtree(copied / "runs" / "seen" / "lenses")
    write_model(copied / "ep1", 7)
    code, output = lens("ep1", root=copied)
    assert code == 4
    assert "checkpoint ep1 is not the one that the run has scored" in output.err


def test_epochs_with_other_settings_do_not_mix(lens: Any, copied: Path) -> None:
    write_facts(copied, [fact(0)])
    code, _ = lens("ep1", "--facts", "f0", "--relation", "span", root=copied)
    assert code == 0
    with pytest.raises(kc.KCircuitsError, match="computed with other settings: relation"):
        read_lenses(run_of(copied))
    assert read_lenses(run_of(copied), ["ep1"]).settings["relation"] == "span"
    assert lens(root=copied)[0] == 0  # computes that epoch anew
    assert read_lenses(run_of(copied)).settings["relation"] == "text"


def test_text_says_what_the_numbers_are(lens: Any) -> None:
    code, output = lens("--by", "half", "--top", "4")
    assert code == 0
    for part in ("Logit lens", "embedding", "layer 1", "Where the answer's logit comes from",
                 "Roles  (heads per fact)", "replicated", "chance", "Strongest heads at ep2",
                 "Roles that come and go", "noise", "even", "odd"):  # fmt: skip
        assert part in output.out, part
    assert "\x1b" not in output.out


def test_html_writes_a_page(lens: Any, tmp_path: Path, study: Path) -> None:
    file = tmp_path / "page.html"
    code, output = lens("--html", str(file))
    assert code == 0
    assert str(file) in output.out
    page = file.read_text(encoding="utf-8")
    for part in ("Logit lens", "Strongest heads", "Roles of all heads", "Roles that come and go"):
        assert part in page
    assert "Lenses" in lenses_page(run_of(study).lenses(["ep1"]).only("f2"))
    assert run_of(study).lenses().plot().data


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("ep9",), 2, "'ep9' means no checkpoint"),
        (("ep2..ep0",), 2, "runs backwards"),
        (("--facts", "nobody"), 2, "'nobody' is neither a fact nor a stratum"),
        (("--by", "colour"), 2, "no fact has a stratum 'colour'"),
        (("--relation", "verb"), 2, "relation is 'verb'; expected text or span"),
        (("--relation", "span"), 3, "fact 'f1', prompt 0: there is no relation_span"),
        (("--top", "-1"), 2, "--top is -1"),
        (("--memory", "much", "--relation", "span"), 2, "memory is 'much'"),
    ],
)
def test_bad_calls_say_why(lens: Any, args: tuple[str, ...], code: int, message: str) -> None:
    found, output = lens(*args)
    assert found == code
    assert message in output.err
