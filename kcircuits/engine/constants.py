"""Mean outputs of senders: what edges carry under mean and positional-mean ablation.

Means are over the clean prompts that circuits are found on, real tokens only, so padding never
enters them; the tokens of an answer that are fed with its prompt count as the prompt's. Positional
means take each position by itself; positions that no prompt reaches have the mean over all.
"""

from collections.abc import Iterable

import torch

from kcircuits.core.ablation import CONSTANT, Ablation
from kcircuits.core.batch import PromptBatch
from kcircuits.engine.ablation import Constants, ablate_all, sender_differences
from kcircuits.engine.chunks import plan_chunks
from kcircuits.engine.footprint import RowSizes, recorded_bytes
from kcircuits.engine.forward import Record, embed, forward
from kcircuits.engine.tokens import TokenRows
from kcircuits.errors import UsageError
from kcircuits.models.weights import TransformerWeights


@torch.no_grad()
def mean_constants(
    weights: TransformerWeights, chunks: Iterable[TokenRows], *, by_position: bool
) -> Constants:
    """Mean output of every sender.

    Args:
        weights: The model.
        chunks: Clean prompts, without a shared prefix.
        by_position: One mean for each position, then the mean over all, instead of that alone.
    """
    topology = weights.topology
    n_pos = 0
    wide = torch.promote_types(weights.dtype, torch.float32)
    sums = weights.embed.new_zeros(topology.n_forward, 0, weights.d_model, dtype=wide)
    counts = weights.embed.new_zeros(0, dtype=wide)
    for rows in chunks:
        record, inputs = Record(), embed(weights, rows.clean)
        forward(weights, inputs, rows.reads, record=record)
        nothing = ablate_all(weights, rows, "zero")
        outputs = -sender_differences(weights, nothing, inputs, record)
        width = rows.clean.shape[1]
        is_real = torch.arange(width, device=rows.device)[None] < rows.lengths[:, None]
        if width > n_pos:
            sums = torch.nn.functional.pad(sums, (0, 0, 0, width - n_pos))
            counts = torch.nn.functional.pad(counts, (0, width - n_pos))
            n_pos = width
        weight = is_real.to(wide)
        sums[:, :width] += torch.einsum("urpd,rp->upd", outputs.to(wide), weight)
        counts[:width] += weight.sum(0)
    means = sums.sum(1, keepdim=True) / counts.sum()
    if by_position:
        means = torch.cat([sums / counts[None, :, None], means], 1)
    return means.to(weights.dtype)


def constants_of(
    weights: TransformerWeights, batch: PromptBatch, ablation: Ablation, memory: int
) -> Constants | None:
    """Mean outputs over the discovery prompts of a batch; None where ablation needs none.

    For ``optimal`` they are where learning starts.

    Raises:
        UsageError: There is no discovery prompt.
    """
    if ablation not in CONSTANT:
        return None
    batch = batch.with_use("discovery")
    if not len(batch):
        raise UsageError(
            f"{ablation} ablation takes constants from discovery prompts, and there is none",
            field="ablation",
            hint='give facts prompts with "use": "discovery", or use corrupt or zero',
        )
    sizes = RowSizes.of(batch, share_prefix=False)
    n_bytes = recorded_bytes(weights, sizes, n_steps=1)
    # The sums, their means and those in the model's dtype.
    n_sums = 3 * weights.topology.n_forward * sizes.n_pos * weights.d_model
    plan = plan_chunks(batch, n_bytes, memory, n_fixed=n_sums * max(4, weights.embed.itemsize))
    chunks = (
        TokenRows.from_batch(batch.rows(index), weights, with_foil=False, share_prefix=False)
        for index in plan
    )
    return mean_constants(weights, chunks, by_position=ablation == "positional-mean")
