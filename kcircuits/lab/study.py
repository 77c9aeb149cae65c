"""From a preset to a finished training run: base model, benchmark, continual pre-training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kcircuits.analysis.dynamics.series import PARAPHRASE
from kcircuits.core.manifest import Manifest
from kcircuits.errors import UsageError
from kcircuits.io.facts import load_facts
from kcircuits.io.jsonl import read_rows
from kcircuits.lab.build import BaseProgress, Built, build
from kcircuits.lab.presets import find_preset
from kcircuits.lab.probing.alone import record_without_training
from kcircuits.lab.recipes import find_recipe
from kcircuits.lab.skills import check_skills, make_setting
from kcircuits.lab.strategies import STRATEGIES
from kcircuits.lab.training.run_folder import RunFolder
from kcircuits.lab.training.spec import TrainSpec
from kcircuits.lab.training.step import Progress
from kcircuits.lab.training.train import train


def train_built(
    built: Built,
    *,
    to: str | Path | None = None,
    strategy: str = "full",
    recipe: str | None = None,
    n_epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    skills: Sequence[str] = (),
    questions: int | None = None,
    report_to: Sequence[str] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Trains on a built benchmark by the preset's settings, a recipe's, or those given instead.

    A strategy that does not train (``rag-*``) is probed at epoch 0 alone, with documents in its
    prompts; what is given for training then has no meaning, and is refused.

    Args:
        built: The benchmark.
        to: The run's folder; default the benchmark's own, which has room for one run.
        strategy: A name of ``STRATEGIES``.
        recipe: A name of ``RECIPES``; default the settings of the preset.
        n_epochs: See ``TrainSpec``; so are lr, batch_size and precision.
        lr: Likewise.
        batch_size: Likewise.
        seed: Default the recipe's where it has one, else the benchmark's.
        precision: Likewise.
        skills: What is measured at every epoch beside the probes.
        questions: See ``TrainSpec``.
        report_to: Names of trackers.
        progress: Called after every step.

    Raises:
        UsageError: No such strategy or recipe, or a setting out of range.
    """
    given = {"n_epochs": n_epochs, "lr": lr, "batch_size": batch_size, "precision": precision}
    spec = training_spec(
        built, strategy, recipe, seed=seed, skills=tuple(skills), questions=questions, **given
    )
    names = {"run": f"{built.preset}-{strategy}", "base_name": built.base_name}
    place = built.folder if to is None else Path(to)
    if not STRATEGIES[strategy].is_training:
        _require_nothing(given | {"report_to": report_to or None}, strategy)
        return record_without_training(
            built.base,
            built.documents,
            built.facts,
            place,
            strategy=strategy,
            seed=spec.seed,
            questions=spec.questions,
            skills=spec.skills,
            **names,
        )
    return train(
        built.base,
        built.documents,
        built.facts,
        place,
        spec,
        **names,
        progress=progress,
        report_to=report_to,
    )


def training_spec(
    built: Built,
    strategy: str,
    recipe: str | None = None,
    *,
    seed: int | None = None,
    skills: tuple[str, ...] = (),
    **given: Any,
) -> TrainSpec:
    """The settings of a training: the preset's or a recipe's, and those given instead.

    Args:
        built: The benchmark.
        strategy: A name of ``STRATEGIES``.
        recipe: A name of ``RECIPES``; default the settings of the preset.
        seed: Default the recipe's where it has one, else the benchmark's.
        skills: What is measured at every epoch beside the probes.
        given: Other fields of ``TrainSpec``; those that are None are not given.

    Raises:
        UsageError: No such strategy, recipe or skill, or a setting out of range.
    """
    if recipe is None:
        check_strategy(built.preset, strategy)
        spec, own_seed = find_preset(built.preset).training[strategy], None
    else:
        found = find_recipe(recipe)
        spec, own_seed = found.of(strategy), found.seed
    if skills:
        check_skills(skills, make_setting())
    if seed is None:
        seed = built.seed if own_seed is None else own_seed
    given = {name: value for name, value in given.items() if value is not None}
    return replace(spec, seed=seed, skills=skills, **given)


def _require_nothing(given: Mapping[str, Any], strategy: str) -> None:
    field = next((name for name, value in given.items() if value is not None), None)
    if field is not None:
        raise UsageError(
            f"{strategy} trains nothing, so {field} {given[field]} has no meaning",
            field=field,
            hint="leave it out",
        )


def check_strategy(preset: str, strategy: str) -> None:
    """UsageError where a preset does not exist, or cannot be trained by a strategy."""
    training = find_preset(preset).training
    if strategy not in training:
        raise UsageError(
            f"there is no strategy {strategy!r}",
            field="strategy",
            hint=f"choose from {', '.join(training)}",
        )


def build_and_train(
    preset: str,
    out: str | Path,
    *,
    strategy: str = "full",
    seed: int = 0,
    progress: Progress | None = None,
    base_progress: BaseProgress | None = None,
) -> Manifest:
    """All of a preset in one folder; goes on where a killed process stopped."""
    built = build(preset, out, seed=seed, progress=base_progress)
    return train_built(built, strategy=strategy, progress=progress)


def knowledge_table(manifest: Manifest) -> list[dict[str, Any]]:
    """Loss and share of paraphrases known at each epoch, by split and frequency.

    The two answers of an updated subject exclude each other, so what was true before and what
    documents tell (stratum ``told``) have columns of their own, e.g. ``updated high before``.
    Where open questions were asked, ``recall`` is their mean.

    Args:
        manifest: Of a finished run; its rows are read beside it.
    """
    folder = RunFolder(root=(manifest.path or Path()).parent, run=manifest.run)
    strata = {fact.id: _column(fact.strata) for fact in load_facts(manifest.facts)}
    losses = {row["epoch"]: row for row in read_rows(folder.losses)}
    probes = read_rows(folder.probes)
    has_open = any(probe.get("recall") is not None for probe in probes)
    table: list[dict[str, Any]] = []
    for checkpoint in manifest:
        mine = [row for row in probes if row["checkpoint"] == checkpoint.id]
        row: dict[str, Any] = {"epoch": checkpoint.id}
        row["loss"] = losses.get(checkpoint.epoch, {}).get("loss")
        for stratum in dict.fromkeys(strata.values()):
            known = [
                probe["known"]
                for probe in mine
                if strata[probe["fact"]] == stratum and probe["kind"] == PARAPHRASE
            ]
            row[stratum] = sum(known) / len(known) if known else None
        if has_open:
            recalls = [probe["recall"] for probe in mine if probe["recall"] is not None]
            row["recall"] = sum(recalls) / len(recalls)
        table.append(row)
    return table


def _column(strata: Mapping[str, str]) -> str:
    """Which column of the table a fact counts in."""
    told = f" {strata['told']}" if "told" in strata else ""
    return f"{strata.get('split')} {strata.get('frequency')}{told}"
