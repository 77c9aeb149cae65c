"""A sweep's numbers from real models: attribution, circuits, their evaluation, probes."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from kcircuits.core.ablation import DEFAULT_ABLATION
from kcircuits.core.batch import PromptBatch
from kcircuits.core.facts import Fact
from kcircuits.core.manifest import Checkpoint
from kcircuits.core.scores import EdgeScores
from kcircuits.core.selection import select
from kcircuits.discovery import get_method
from kcircuits.discovery.attribute import attribute
from kcircuits.engine.chunks import DEFAULT_MEMORY, parse_memory
from kcircuits.errors import NonFiniteError, UsageError
from kcircuits.evaluation import evaluate, known_facts, probe
from kcircuits.models import load_model, swap_checkpoint, tokenize
from kcircuits.sweep.compute import Advance, BatchResult, Loaded
from kcircuits.sweep.request import Settings


class ModelCompute:
    """``Compute`` on ``kcircuits.models`` and the engine.

    Args:
        settings: Method, parameters, dtype and device.
        memory: Peak memory above the loaded model to stay within, such as ``1GiB``; the numbers
            do not depend on it.

    Raises:
        UsageError: The device cannot be used here, or a memory that is none.
    """

    def __init__(self, settings: Settings, *, memory: str | int = DEFAULT_MEMORY) -> None:
        self._memory = parse_memory(memory)
        try:
            torch.empty(0, device=settings.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"device {settings.device!r} cannot be used here: {reason}",
                field="device",
                hint="use --device cpu",
            ) from error
        self._settings = settings

    def load(self, checkpoint: Checkpoint, previous: Loaded | None) -> Loaded:
        """The checkpoint in memory; its weights go into the previous model where there is one."""
        if previous is None:
            dtype = getattr(torch, self._settings.dtype)
            model = load_model(checkpoint, dtype=dtype, device=self._settings.device)
        else:
            model = swap_checkpoint(previous.model, checkpoint)
        return Loaded(model=model, topology=model.topology, content_hash=model.content_hash)

    def tokenize(self, loaded: Loaded, facts: Sequence[Fact]) -> PromptBatch:
        """All prompts of the facts, by the checkpoint's own tokenizer."""
        return tokenize(loaded.model, facts)

    def attribute(
        self, loaded: Loaded, batch: PromptBatch, n_edges: int, advance: Advance
    ) -> BatchResult:
        """Scores per discovery prompt, then each fact's circuit on its evaluation prompts."""
        try:
            return self._numbers(loaded, batch, n_edges, advance)
        except NonFiniteError:
            return self._without_failures(loaded, batch, n_edges)

    def _numbers(
        self, loaded: Loaded, batch: PromptBatch, n_edges: int, advance: Advance
    ) -> BatchResult:
        params = self._settings.params
        scores = self._scores(loaded, batch, n_edges, advance)
        circuits = select(scores, n_edges=n_edges)
        faithfulness = evaluate(
            loaded.model,
            batch,
            circuits,
            metric=params["metric"],
            ablation=params.get("ablation", DEFAULT_ABLATION),
            memory=self._memory,
        )
        probes = probe(loaded.model, batch)
        return BatchResult(
            scores=scores,
            faithfulness=faithfulness,
            probes=probes,
            is_known=known_facts(probes),
            n_circuit_edges=dict(zip(scores.fact_ids, circuits.n_edges.tolist(), strict=True)),
        )

    def _scores(
        self, loaded: Loaded, batch: PromptBatch, n_edges: int, advance: Advance
    ) -> EdgeScores:
        """A row per discovery prompt, or per fold of them where the method is trained."""
        name, params = self._settings.method, self._settings.params
        train = get_method(name).train
        if train is None:
            return attribute(
                loaded.model,
                batch,
                name,
                reduce="prompt",
                memory=self._memory,
                progress=advance,
                **params,
            )
        n_prompts, n_told = len(batch.with_use("discovery")), 0

        def tell(share: float, note: str) -> None:
            nonlocal n_told
            advance(int(share * n_prompts) - n_told, note)
            n_told = int(share * n_prompts)

        return train(loaded.model, batch, n_edges, params, self._memory, tell)

    def _without_failures(self, loaded: Loaded, batch: PromptBatch, n_edges: int) -> BatchResult:
        """Finds the facts whose numbers are not finite, and computes the others without them."""
        failures: dict[str, str] = {}
        for fact_id in batch.fact_ids:
            try:
                self._numbers(loaded, batch.facts([fact_id]), n_edges, _ignore)
            except NonFiniteError as error:
                failures[fact_id] = error.message
        others = [fact_id for fact_id in batch.fact_ids if fact_id not in failures]
        if not others:
            return BatchResult(scores=None, failures=failures)
        result = self._numbers(loaded, batch.facts(others), n_edges, _ignore)
        return replace(result, failures=failures)


def _ignore(_: int, note: str = "", /) -> None:
    """No progress to tell: these prompts were counted already."""
