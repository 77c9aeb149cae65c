"""Names of results: hashes of everything that the numbers depend on, and of nothing else.

Never a path, a name of a run or a date: equal keys mean equal numbers, wherever they were made.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from kcircuits.core.batch import PromptBatch


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value in canonical form: sorted keys, ASCII, no spaces.

    Raises:
        ValueError: A NaN or an infinity.
    """
    text = json.dumps(
        value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def cell_key(*, checkpoint: str, fact_hash: str, tokens: str, settings: Mapping[str, Any]) -> str:
    """The key of one cell.

    Args:
        checkpoint: Content hash of the checkpoint.
        fact_hash: Content hash of the fact.
        tokens: ``token_digests`` of the fact.
        settings: Method, parameters, budget, dtype, numerics version and library versions.
    """
    return digest(
        {"checkpoint": checkpoint, "fact": fact_hash, "tokens": tokens, "settings": dict(settings)}
    )


def token_digests(batch: PromptBatch) -> dict[str, str]:
    """For each fact the sha256 of its prompts' token ids, answers, candidates and uses."""
    rows: dict[str, list[Any]] = {fact_id: [] for fact_id in batch.fact_ids}
    order: list[int] = np.lexsort((batch.prompt_idx, batch.fact_idx)).tolist()
    for row in order:
        n_tokens = int(batch.lengths[row])
        rows[batch.fact_ids[int(batch.fact_idx[row])]].append(
            [
                int(batch.prompt_idx[row]),
                batch.clean[row, :n_tokens].tolist(),
                batch.corrupt[row, :n_tokens].tolist(),
                list(batch.targets[row]),
                list(batch.foils[row]),
                [list(answer) for answer in batch.candidates[row]] if batch.candidates else [],
                batch.uses[row] if batch.uses else None,
            ]
        )
    return {fact_id: digest(prompts) for fact_id, prompts in rows.items()}
