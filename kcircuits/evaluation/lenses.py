"""Direct logit attribution, attention and logit lens of many prompts, one forward pass for all.

What the numbers are: ``core.lenses``; how they are computed: ``engine.direct``.
"""

from collections.abc import Callable

import numpy as np
import torch

from kcircuits.core.batch import PromptBatch
from kcircuits.core.facts import Use
from kcircuits.core.lenses import GROUPS, Lenses, Relation, position_groups
from kcircuits.engine.chunks import (
    DEFAULT_MEMORY,
    count_workers,
    parse_memory,
    plan_chunks,
    run_chunks,
)
from kcircuits.engine.direct import DirectEffects, direct_effects
from kcircuits.engine.footprint import RowSizes, plain_bytes
from kcircuits.engine.parity import checked_weights
from kcircuits.engine.tokens import require_room
from kcircuits.errors import NonFiniteError, UsageError
from kcircuits.models import Model


def lenses(
    model: Model,
    batch: PromptBatch,
    *,
    use: Use = "discovery",
    relation: Relation = "text",
    memory: str | int = DEFAULT_MEMORY,
    progress: Callable[[int], object] | None = None,
) -> Lenses:
    """What each component adds to the answers' logits, and what each layer would answer.

    Args:
        model: From ``load_model``.
        batch: From ``tokenize``.
        use: Which prompts; all where the batch declares no uses.
        relation: The relation's positions: all ``text`` but the subject, or the ``span`` that
            prompts mark.
        memory: Peak memory above the loaded model to stay within; numbers do not depend on it.
        progress: Called with the number of prompts done after each chunk.

    Raises:
        CheckpointError: A token id beyond the embedding, or more positions than the model has.
        FactsError: ``span``, and a prompt has no ``relation_span``.
        UsageError: An option that cannot be meant.
        NonFiniteError: A number is NaN or infinite; names fact and prompt.
    """
    batch = batch.with_use(use)
    if not len(batch):
        raise UsageError(f"there is no prompt for {use}", field="use")
    groups = position_groups(batch, relation)
    weights, n_workers = checked_weights(model), count_workers(model.weights)
    sizes = RowSizes(n_pos=int(batch.lengths.max(initial=1)))
    ids = (batch.clean[batch.pos_mask], batch.target, batch.foil)
    largest = max(int(each.max(initial=0)) for each in ids)
    require_room(weights, largest_token=largest, n_pos=sizes.n_pos)

    def run(index: np.ndarray) -> dict[str, np.ndarray]:
        part = batch.rows(index)
        width = part.clean.shape[1]  # padding may hold anything: it becomes token 0, and no group
        one_hot = groups[index, :width, None] == np.arange(len(GROUPS))
        tokens, lengths, target, foil, group = (
            torch.as_tensor(array, device=weights.device)
            for array in (part.clean * part.pos_mask, part.lengths, part.target, part.foil, one_hot)
        )
        found = direct_effects(weights, tokens, lengths, target, foil, group.to(torch.float32))
        return {name: tensor.cpu().numpy() for name, tensor in found._asdict().items()}

    parts: list[dict[str, np.ndarray]] = []
    order: list[np.ndarray] = []
    plan = plan_chunks(batch, plain_bytes(weights, sizes), parse_memory(memory), n_workers)
    for index, part in run_chunks(plan, run, n_workers):
        _require_finite(part, batch, index)
        parts.append(part)
        order.append(index)
        if progress is not None:
            progress(len(index))
    place = np.argsort(np.concatenate(order))
    together = {name: np.concatenate([p[name] for p in parts])[place] for name in _NAMES}
    return Lenses(
        topology=weights.topology,
        checkpoint=model.content_hash,
        relation=relation,
        fact_ids=batch.fact_ids,
        fact_idx=batch.fact_idx,
        prompt_idx=batch.prompt_idx,
        n_tokens=(groups[:, :, None] == np.arange(len(GROUPS))).sum(1),
        **together,
    )


_NAMES = DirectEffects._fields


def _require_finite(part: dict[str, np.ndarray], batch: PromptBatch, index: np.ndarray) -> None:
    for name, values in part.items():
        bad = np.flatnonzero(~np.isfinite(values).all(tuple(range(1, values.ndim))))
        if len(bad):
            row = index[bad[0]]
            fact, prompt = batch.fact_ids[int(batch.fact_idx[row])], int(batch.prompt_idx[row])
            raise NonFiniteError(
                f"fact {fact!r}, prompt {prompt}: {name} is not finite",
                field=name,
                hint="look for NaN in this checkpoint's weights",
            )
