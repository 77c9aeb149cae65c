"""Methods of finding circuits side by side: the same facts, the same held-out prompts.

Every method finds circuits on the discovery prompts; its circuits of several sizes are judged on
the evaluation prompts. A method that scores edges has circuits of every size; one that is trained
for a size has those it was trained for, and areas over the part of the curve that they span.

What a method finds twice is measured too: circuits of ``HALF_SIZE`` from the even and from the odd
discovery prompts of each fact, and their overlap |A and B| / sqrt(|A| |B|).

Time is the CPU time of all threads, which other processes on the machine do not lengthen much.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from kcircuits.core.batch import PromptBatch
from kcircuits.core.circuit import Circuits
from kcircuits.core.curve import FaithfulnessCurve
from kcircuits.core.ranking import SIZES
from kcircuits.core.scores import EdgeScores
from kcircuits.core.selection import select
from kcircuits.discovery.registry import get_method, resolve_params
from kcircuits.engine.metrics import DEFAULT_METRIC
from kcircuits.errors import UsageError

if TYPE_CHECKING:
    from kcircuits.models import Model

# Sizes that methods which are trained for a size are compared at.
TRAINED_SIZES = (0.005, 0.01, 0.02, 0.05)
HALF_SIZE = 0.01

# Told what is done, in words, and the share of it.
Progress = Callable[[str, float], object]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What one method found, and how it was judged.

    Attributes:
        method: Name of the method.
        params: Its parameters.
        cpu_seconds: To find the circuits of all facts.
        by_size: Curve of the circuits by |score|, or of those the method was trained for.
        by_importance: Curve of the circuits by signed importance; None for a trained method.
        half_overlap: Overlap of each fact's circuits from both halves of its prompts.
    """

    method: str
    params: Mapping[str, Any]
    cpu_seconds: float
    by_size: FaithfulnessCurve
    by_importance: FaithfulnessCurve | None
    half_overlap: Float[np.ndarray, " fact"]

    def to_json(self) -> dict[str, Any]:
        """As plain values; ``from_json`` reads them."""
        curves = {name: getattr(self, name) for name in ("by_size", "by_importance")}
        return {
            "method": self.method,
            "params": dict(self.params),
            "cpu_seconds": self.cpu_seconds,
            "half_overlap": self.half_overlap.tolist(),
            **{name: curve and _plain(curve) for name, curve in curves.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Compared":
        """From what ``to_json`` gave."""
        by_importance = content["by_importance"]
        return cls(
            method=content["method"],
            params=content["params"],
            cpu_seconds=content["cpu_seconds"],
            half_overlap=np.array(content["half_overlap"]),
            by_size=_curve(content["by_size"]),
            by_importance=None if by_importance is None else _curve(by_importance),
        )


def compare_method(
    model: "Model",
    batch: PromptBatch,
    method: str,
    *,
    params: Mapping[str, Any] | None = None,
    trained_sizes: Sequence[float] = TRAINED_SIZES,
    memory: str | int = "1GiB",
    progress: Progress | None = None,
) -> Compared:
    """Finds circuits by one method and judges them.

    Args:
        model: From ``load_model``.
        batch: Prompts of facts that the model knows, some for discovery and some for evaluation.
        method: Name of the method.
        params: Its parameters; absent ones take their defaults.
        trained_sizes: Sizes of a method that is trained for a size, ascending.
        memory: As in ``attribute``.
        progress: Told what is done.

    Raises:
        UsageError: A method or parameter that cannot be meant, or facts of which the model knows
            none.
    """
    settings = resolve_params(method, DEFAULT_METRIC, params or {})
    run = _Run(model, batch, method, settings, memory, progress or (lambda *_: None))
    is_trained = get_method(method).train is not None
    return run.trained(trained_sizes) if is_trained else run.scored()


class _Run:
    def __init__(
        self,
        model: "Model",
        batch: PromptBatch,
        method: str,
        settings: Mapping[str, Any],
        memory: str | int,
        progress: Progress,
    ) -> None:
        self.model, self.batch, self.memory = model, batch, memory
        self.method, self.settings, self.progress = method, settings, progress

    def scored(self) -> Compared:
        from kcircuits.discovery.attribute import attribute

        found = self.batch.with_use("discovery")
        start = time.process_time()
        scores = attribute(
            self.model,
            found,
            self.method,
            reduce="prompt",
            memory=self.memory,
            progress=_counted(self.progress, "finding", len(found)),
            **self.settings,
        )
        seconds = time.process_time() - start
        place = _places(scores.fact_idx)
        halves = [_rows(scores, place % 2 == k) for k in range(2)]
        return self._compared(
            seconds,
            self._curve(scores, SIZES, by="size"),
            self._curve(scores, SIZES, by="importance"),
            halves,
        )

    def trained(self, sizes: Sequence[float]) -> Compared:
        from kcircuits.core.budget import edge_budget
        from kcircuits.discovery.prune import prune_sizes
        from kcircuits.discovery.prune_folds import prune_folds

        n_edges = [edge_budget(self.model.topology, fraction=size) for size in sizes]
        options = dict(self.settings)
        options.pop("folds", None)
        recipe = _recipe(options)
        start = time.process_time()
        circuits = prune_sizes(
            self.model,
            self.batch,
            n_edges,
            recipe=recipe,
            memory=self.memory,
            progress=lambda step: self.progress("training", step.number / step.n_steps),
            **options,
        )
        seconds = time.process_time() - start
        folds = prune_folds(
            self.model,
            self.batch,
            edge_budget(self.model.topology, fraction=HALF_SIZE),
            n_folds=2,
            recipe=recipe,
            memory=self.memory,
            progress=lambda step: self.progress("training on halves", step.number / step.n_steps),
            **options,
        )
        halves = [_rows(folds, folds.prompt_idx == k) for k in range(2)]
        return self._compared(seconds, self._curve(circuits, sizes, by="size"), None, halves)

    def _curve(
        self, circuits: EdgeScores | Sequence[Circuits], sizes: Sequence[float], **by: Any
    ) -> FaithfulnessCurve:
        from kcircuits.evaluation import faithfulness_curve

        n_prompts = len(self.batch.with_use("evaluation"))
        return faithfulness_curve(
            self.model,
            self.batch,
            circuits,
            sizes=sizes,
            memory=self.memory,
            progress=_counted(self.progress, "judging", n_prompts),
            **by,
        )

    def _compared(
        self,
        seconds: float,
        by_size: FaithfulnessCurve,
        by_importance: FaithfulnessCurve | None,
        halves: Sequence[EdgeScores],
    ) -> Compared:
        if by_size.is_gated.all():
            raise UsageError(
                f"the model knows none of the {len(by_size.fact_ids)} facts on their evaluation "
                "prompts, so no circuit can be judged",
                field="facts",
                hint="write facts that it knows: kcircuits lab known",
            )
        first, second = (select(half.mean_by_fact(), fraction=HALF_SIZE) for half in halves)
        both = (first.mask & second.mask).sum((1, 2))
        product = first.mask.sum((1, 2)) * second.mask.sum((1, 2))
        return Compared(
            method=self.method,
            params=self.settings,
            cpu_seconds=seconds,
            by_size=by_size,
            by_importance=by_importance,
            half_overlap=both / np.sqrt(np.maximum(product, 1)),
        )


def _recipe(options: dict[str, Any]) -> Any:
    """Takes the recipe of a training out of a method's parameters."""
    from kcircuits.discovery.pruning import Recipe

    names = [field.name for field in fields(Recipe) if field.name in options]
    return Recipe(**{name: options.pop(name) for name in names})


def _places(fact_idx: np.ndarray) -> np.ndarray:
    """Place of each row among the rows of its fact."""
    seen: Counter[int] = Counter()
    places = []
    for fact in fact_idx.tolist():
        places.append(seen[fact])
        seen[fact] += 1
    return np.array(places)


def _rows(scores: EdgeScores, chosen: np.ndarray) -> EdgeScores:
    return replace(
        scores,
        values=scores.values[chosen],
        fact_idx=scores.fact_idx[chosen],
        prompt_idx=None if scores.prompt_idx is None else scores.prompt_idx[chosen],
    )


def _counted(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    n_done = 0

    def advance(n: int) -> None:
        nonlocal n_done
        n_done += n
        progress(what, n_done / total)

    return advance


def _plain(curve: FaithfulnessCurve) -> dict[str, Any]:
    content = asdict(curve)
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in content.items()}


def _curve(content: Mapping[str, Any]) -> FaithfulnessCurve:
    arrays = {k: np.array(v) if isinstance(v, list) else v for k, v in content.items()}
    return FaithfulnessCurve(**{**arrays, "fact_ids": tuple(content["fact_ids"])})
