"""``lab circuits``: runs made from nothing, and a study whose numbers are those of the diffs."""

import json
from itertools import pairwise

import numpy as np
import pytest

import kcircuits as kc
from kcircuits.analysis.overlap.dataset_circuits import dataset_overlaps
from kcircuits.analysis.overlap.jackknife import jackknife_ratio
from kcircuits.cli.main import main
from kcircuits.core.candidates import flat_edges
from kcircuits.errors import UsageError
from kcircuits.plots.circuit_study import dataset_figure, noise_figure, settling_figure
from kcircuits.study.circuits import runs as circuit_runs
from kcircuits.study.circuits.study import open_circuit_study
from tests.cli.link_runs import write_run
from tests.contracts.tiny_lab import build_tiny

SEEDS = ("0", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a study of two seeds, and the command that makes it."""
    folder = tmp_path_factory.mktemp("circuits")
    build_tiny(folder / "lab")
    command = ["lab", "circuits", "--lab", str(folder / "lab"), "--out", str(folder / "out")]
    command += ["--seeds", "0,1", "--epochs", "2", "--quiet"]
    assert main(command) == 0
    return folder / "out", command


@pytest.fixture(scope="module")
def document(made):
    return json.loads((made[0] / "circuits.json").read_text())


@pytest.fixture(scope="module")
def runs(made):
    files = [made[0] / "trainings" / f"full-seed{seed}" for seed in SEEDS]
    return [kc.open_run(next((file / "runs").iterdir())) for file in files]


@pytest.fixture(scope="module")
def planted(synthetic, tmp_path_factory):
    """A study of two runs of 48 entities, whose facts come, stay and go."""
    root = tmp_path_factory.mktemp("planted")
    return open_circuit_study(
        [kc.open_run(write_run(synthetic, root / seed, int(seed))) for seed in SEEDS]
    )


@pytest.fixture(params=["trained", "planted"])
def told(request):
    """Rows of a study, and its runs."""
    if request.param == "planted":
        study = request.getfixturevalue("planted")
        tables = {name: getattr(study, name) for name in ("noise", "steps", "depth", "settling")}
        return tables, study.runs
    return request.getfixturevalue("document"), request.getfixturevalue("runs")


def overlaps_of(run, pairs, *, known):
    """k_st, ceiling, Jaccard of the same prompts and subject of each fact that counts."""
    found = []
    for start, stop in pairs:
        for one in run.diff(start, stop).fact_diffs:
            if not known or one.is_compared:
                overlap = one.overlap
                k_st, same = overlap.k_st[0], overlap.same_prompts
                found.append((k_st, overlap.ceiling, same, one.fact.subject))
    return found


@pytest.mark.parametrize("against", ["previous", "first"])
@pytest.mark.parametrize("facts_are", ["known", "all"])
@pytest.mark.parametrize("seed", [*SEEDS, "all"])
def test_noise_is_that_of_the_diffs(told, against, facts_are, seed):
    document, runs = told
    (row,) = (
        row
        for row in document["noise"]
        if (row["against"], row["facts_are"], row["seed"]) == (against, facts_are, seed)
    )
    chosen = runs if seed == "all" else [runs[int(seed)]]
    terms = []
    for run in chosen:
        steps = list(pairwise(run.epochs))
        pairs = steps if against == "previous" else [(run.epochs[0], stop) for _, stop in steps]
        terms += overlaps_of(run, pairs, known=facts_are == "known")
    assert row["steps"] == len(terms)
    if not terms:
        assert row["differs"] is None
        return
    k_st, ceiling, same = (np.array(column) for column in list(zip(*terms, strict=True))[:3])
    entities = np.array([term[3] for term in terms])
    assert row["apparent"] == pytest.approx(1 - same.mean())
    assert row["differs"] == pytest.approx(1 - k_st.mean())
    assert row["noise"] == pytest.approx(1 - ceiling.mean())
    assert row["noise_share"] == pytest.approx((1 - ceiling).sum() / (1 - k_st).sum())
    assert row["turnover"] == pytest.approx(1 - k_st.sum() / ceiling.sum())
    rest = jackknife_ratio(1 - ceiling, 1 - k_st, entities)
    if rest.n_entities < 10:
        assert row["noise_share_low"] is None
        return
    assert row["noise_share_low"] == pytest.approx(1 - rest.high)
    assert row["noise_share_low"] < row["noise_share"] < row["noise_share_high"]


def test_steps_add_up_to_all_steps(told):
    document, _ = told
    for facts_are in ("known", "all"):
        steps = [row for row in document["steps"] if row["facts_are"] == facts_are]
        (whole,) = (
            row
            for row in document["noise"]
            if (row["against"], row["facts_are"], row["seed"]) == ("previous", facts_are, "all")
        )
        counts = [row["steps"] for row in steps]
        assert sum(counts) == whole["steps"]
        parts = [row["differs"] or 0 for row in steps]
        if whole["steps"]:
            assert np.average(parts, weights=counts) == pytest.approx(whole["differs"])


def test_a_circuit_of_all_facts_is_that_of_their_scores(document, runs):
    run, edges = runs[1], flat_edges(runs[1].topology)
    cells = [run.cells(epoch, dense=True) for epoch in run.epochs]
    means = np.stack([[cell.mean.ravel()[edges] for cell in column] for column in cells])
    entities = np.array([fact.subject for fact in run.facts])
    (found,) = dataset_overlaps(means, entities, run.n_edges, [(0, 2)])
    rows = {
        (row["seed"], row["n_edges"], row["from"], row["to"]): row for row in document["dataset"]
    }
    row = rows["1", run.n_edges, "ep0", "ep2"]
    assert row["jaccard"] == pytest.approx(found.jaccard)
    assert row["turnover"] == pytest.approx(found.turnover, nan_ok=True)
    assert {(pair[2], pair[3]) for pair in rows} == {("ep0", "ep1"), ("ep0", "ep2"), ("ep1", "ep2")}


def test_a_rate_of_0_is_one_checkpoint_without_turnover(document, made):
    rest = document["at_rest"]
    assert (rest["epochs"], rest["checkpoints"]) == (3, 1)
    assert rest["turnover"] == 0
    assert rest["jaccard_same_prompts"] == 1
    still = kc.open_run(next((made[0] / "trainings" / "rate-0" / "runs").iterdir()))
    halves = [one.overlap for one in still.diff("ep0", "ep0").fact_diffs]
    shared = [one.chance + one.k_ss[0] * (1 - one.chance) for one in halves]
    expected = np.mean(shared) / (2 - np.mean(shared))
    assert rest["jaccard_of_halves"] == pytest.approx(expected)
    assert 0 < expected < 1


def test_depth_and_settling_are_those_of_all_tracks_together(told):
    document, runs = told
    tracks = [run.track() for run in runs]
    depth = {(row["seed"], row["group"]): row for row in document["depth"]}
    for seed, track in zip(SEEDS, tracks, strict=True):
        for group, members in track_groups(track).items():
            ends = [np.flatnonzero(one.circuits.is_known)[[0, -1]] for one in members]
            changes = [
                one.circuits.structure.depth[last] - one.circuits.structure.depth[first]
                for one, (first, last) in zip(members, ends, strict=True)
                if first < last
            ]
            row = depth[seed, group]
            assert row["facts"] == len(changes)
            if changes:
                assert row["change"] == pytest.approx(np.mean(changes))
    alone = [row["facts"] for track in tracks for row in track.settling if row["step"] == 0]
    assert sum(row["facts"] for row in document["settling"] if row["step"] == 0) == sum(alone)


def track_groups(track):
    groups = {}
    for one in track.facts:
        if one.knowledge != "never known":
            groups.setdefault(one.knowledge, []).append(one)
    return groups


def test_what_is_done_is_not_done_again(made, monkeypatch, capsys):
    def fail(*_, **__):
        pytest.fail("computed again")

    monkeypatch.setattr(circuit_runs.ModelCompute, "attribute", fail)
    monkeypatch.setattr("kcircuits.lab.grid.train_built", fail)
    capsys.readouterr()
    assert main([*made[1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "kcircuits.circuit-study/1"


def test_page_and_text_show_the_tables(made, document):
    page, text = ((made[0] / f"circuits.{kind}").read_text() for kind in ("html", "md"))
    for part in ("Difference and noise", "Mean layer of the senders", "turnover at a rate of 0"):
        assert part in page
    assert "| previous | all | all |" in text
    whole = next(r for r in document["noise"] if (r["facts_are"], r["seed"]) == ("all", "all"))
    assert f"| {whole['differs']:.2f} | {whole['noise']:.2f} |" in text


def test_figures_draw_their_rows_and_say_so_where_there_are_none(document):
    rows = [row for row in document["steps"] if row["facts_are"] == "all"]
    figure = noise_figure(rows)
    by_name = {trace.name: list(trace.y) for trace in figure.data}
    assert by_name["other prompts: 1 − k_st"] == [row["differs"] for row in rows]
    first = [row for row in document["dataset"] if row["from"] == "ep0"]
    assert len(dataset_figure(first).data) == 2 * len(SEEDS)
    for draw in (noise_figure, settling_figure, dataset_figure):
        assert draw([]).layout.annotations[0].text


def test_runs_of_other_facts_or_epochs_are_refused(runs, made):
    still = kc.open_run(next((made[0] / "trainings" / "rate-0" / "runs").iterdir()))
    other = still.record.requests[-1]
    short = type(still)(
        path=still.path,
        record=still.record,
        request=type(other)(**{**vars(other), "checkpoints": other.checkpoints[:2]}),
    )
    with pytest.raises(UsageError, match="has other epochs than"):
        open_circuit_study([runs[0], short])
    with pytest.raises(UsageError, match="no run is named"):
        open_circuit_study([])
