"""A checkpoint folder, with or without adapter, becomes a model that is proven to be that one.

The steps: check the files, hash them, load the plain transformers/PEFT model, make the
HookedTransformer (transformer-lens 4: the TransformerBridge) of its weights, compare the logits
of the two, and forget the first.
"""

import dataclasses
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from kcircuits.core.manifest import Checkpoint
from kcircuits.core.topology import Topology
from kcircuits.errors import CheckpointError, UsageError
from kcircuits.io.checkpoint_files import (
    CheckpointFiles,
    adapter_files,
    content_hash,
    model_files,
)
from kcircuits.models.adapters import check_base, merged, with_adapter
from kcircuits.models.backend import (
    architecture_of,
    rounded,
    set_rotary_tables,
    weights_of,
    wrap,
)
from kcircuits.models.devices import find_device
from kcircuits.models.parity import (
    BOUNDS,
    ProbeLogits,
    check_parity,
    probe_logits,
    probe_tokens,
)
from kcircuits.models.quiet import quiet
from kcircuits.models.reference import (
    double_throughout,
    family_of,
    load_config,
    load_reference,
)
from kcircuits.models.weights import TransformerWeights

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """One checkpoint in memory.

    Attributes:
        hooked: The HookedTransformer, or with transformer-lens 4 the TransformerBridge; nothing
            folded or centred.
        tokenizer: transformers tokenizer, or None where the folder has no tokenizer files.
        content_hash: sha256 of weights, config, tokenizer files and adapter.
        is_verified: The manifest declared this hash; otherwise changed bits go unnoticed.
        dtype: Floating-point type of the weights.
        device: Where they live.
        source: The checkpoint they came from.
        probe: Fixed tokens and the plain transformers/PEFT model's logits for them, by which any
            other implementation of this model can be checked.
    """

    hooked: Any
    tokenizer: Any
    content_hash: str
    is_verified: bool
    dtype: torch.dtype
    device: torch.device
    source: Checkpoint
    probe: ProbeLogits

    @property
    def topology(self) -> Topology:
        """The computation graph of the architecture."""
        cfg = self.hooked.cfg
        is_parallel = bool(cfg.parallel_attn_mlp)
        return Topology(n_layers=cfg.n_layers, n_heads=cfg.n_heads, is_parallel=is_parallel)

    @property
    def weights(self) -> TransformerWeights:
        """The weights as the engine reads them.

        Raises:
            UsageError: Another checkpoint was swapped into ``hooked`` since.
        """
        if self.hooked.cfg.model_name != self.content_hash:
            raise UsageError(
                f"this model ({self.source.id}) was replaced by another checkpoint",
                hint="use the model that swap_checkpoint returned",
            )
        return self._weights

    @cached_property
    def _weights(self) -> TransformerWeights:
        return weights_of(self.hooked)


def load_model(
    source: Checkpoint | str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Model:
    """Load a checkpoint of a manifest, or a model folder.

    Args:
        source: A checkpoint (with or without adapter) or a folder.
        dtype: float64, float32 or bfloat16.
        device: Where to compute.

    Raises:
        CheckpointError: The folder is not, or not surely, the model that was asked for; the
            message names the tensor, file or field.
        FileAccessError: The disk refused.
        UsageError: Another dtype, or no such device.
    """
    place = find_device(device)
    if dtype not in BOUNDS:
        raise UsageError(
            f"dtype {dtype} is not supported", field="dtype", hint=f"choose from {list(BOUNDS)}"
        )
    checkpoint = source if isinstance(source, Checkpoint) else _unnamed(Path(source))
    files = model_files(checkpoint.path)
    adapter = None if checkpoint.adapter is None else adapter_files(checkpoint.adapter)
    digest = _checked_hash(checkpoint, is_declared=isinstance(source, Checkpoint))
    with quiet():
        hooked, probe = _load_hooked(checkpoint, files, adapter, dtype, place)
        tokenizer = _load_tokenizer(adapter if adapter and adapter.has_tokenizer else files)
    hooked.cfg.model_name = digest
    return Model(
        hooked=hooked,
        tokenizer=tokenizer,
        content_hash=digest,
        is_verified=checkpoint.sha256 is not None,
        dtype=dtype,
        device=place,
        source=checkpoint,
        probe=probe,
    )


def swap_checkpoint(model: Model, source: Checkpoint | str | Path) -> Model:
    """Put another checkpoint's weights into the ``hooked`` of ``model``, in place.

    Everything is checked before the first tensor is copied: on an error ``model`` is as it was.
    Afterwards ``model`` itself is spent (its ``weights`` refuse); use the returned one.

    Raises:
        CheckpointError: As ``load_model``, or the checkpoint has another architecture.
    """
    loaded = load_model(source, dtype=model.dtype, device=model.device)
    _check_same_architecture(model, loaded)
    target = dict(model.hooked.named_parameters())
    try:
        with torch.no_grad():
            for name, tensor in loaded.hooked.named_parameters():
                target[name].copy_(tensor)
    except BaseException:
        # Half of one model and half of another must not be mistaken for either.
        for tensor in target.values():
            tensor.data.fill_(torch.nan)
        raise
    model.hooked.cfg.model_name = loaded.content_hash
    return dataclasses.replace(loaded, hooked=model.hooked)


def _unnamed(path: Path) -> Checkpoint:
    return Checkpoint(id=path.name or str(path), path=path)


def _checked_hash(checkpoint: Checkpoint, *, is_declared: bool) -> str:
    digest = content_hash(checkpoint.path, checkpoint.adapter)
    if checkpoint.sha256 is None:
        if is_declared:
            logger.warning(
                "checkpoint %s is unverified: no sha256 is declared, so changed bits would go "
                "unnoticed",
                checkpoint.id,
            )
    elif checkpoint.sha256 != digest:
        raise CheckpointError(
            f"checkpoint {checkpoint.id} has sha256 {digest}, but {checkpoint.sha256} is declared",
            file=checkpoint.adapter or checkpoint.path,
            field="sha256",
            hint="the files changed since the manifest was written; restore them, or write the "
            "manifest again",
        )
    return digest


def _load_hooked(
    checkpoint: Checkpoint,
    files: CheckpointFiles,
    adapter: CheckpointFiles | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Any, ProbeLogits]:
    """``Model.hooked``, and the plain model's logits that it was compared with.

    The comparison for bfloat16 runs in float32, where a wrong model cannot hide behind rounding;
    the weights are rounded after it. That for float64 runs with rotary tables in float64, which
    are then replaced by the usual ones.
    """
    family, config = family_of(files), load_config(files)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    tokens, where = probe_tokens(family.hooked_config(config)), (adapter or files).root
    reference = load_reference(files, config, exact)
    if adapter is not None:
        check_base(files, adapter)
        reference = with_adapter(reference, adapter, checkpoint)
    with double_throughout(exact):
        expected = probe_logits(reference.to(device), tokens)
        hooked = wrap(family, reference if adapter is None else merged(reference))
        del reference
        check_parity(probe_logits(hooked, tokens), expected, exact, where)
    if dtype == torch.float64:
        set_rotary_tables(hooked, torch.float32)
        check_parity(probe_logits(hooked, tokens), expected, torch.float32, where)
    elif dtype != exact:
        hooked = rounded(hooked, dtype)
        check_parity(probe_logits(hooked, tokens), expected, dtype, where)
    return hooked, ProbeLogits(tokens=tokens.to(device), last=expected[:, -1])


def _load_tokenizer(files: CheckpointFiles) -> Any:
    if not files.has_tokenizer:
        return None
    try:
        return AutoTokenizer.from_pretrained(
            files.root, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library raises whatever malformed files lead it to
        raise CheckpointError(
            f"the tokenizer cannot be used: {str(error).strip().splitlines()[0][:300]}",
            file=files.root,
            hint="save the tokenizer again with save_pretrained(), or copy it again",
        ) from error


def _check_same_architecture(model: Model, loaded: Model) -> None:
    ours, theirs = architecture_of(model.hooked), architecture_of(loaded.hooked)
    different = sorted(key for key in ours if ours[key] != theirs.get(key))
    if different:
        field = different[0]
        raise CheckpointError(
            f"checkpoint {loaded.source.id} has another architecture than {model.source.id}: "
            f"{field} is {theirs.get(field)!r}, not {ours[field]!r}",
            file=loaded.source.path,
            field=field,
            hint="load it with load_model() instead of swapping it in",
        )
