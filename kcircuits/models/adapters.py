"""PEFT adapters: loaded whole, on the base they were trained on, or not at all."""

from typing import Any

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict

from kcircuits.core.manifest import Checkpoint
from kcircuits.errors import CheckpointError
from kcircuits.io.checkpoint_files import CheckpointFiles, content_hash, read_base_hash
from kcircuits.models.reference import check_finite


def check_base(base: CheckpointFiles, adapter: CheckpointFiles) -> None:
    """CheckpointError where the adapter records another base than the one given."""
    kind = adapter.config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"peft_type {kind!r} is not supported, only LORA adapters can be merged",
            file=adapter.root / "adapter_config.json",
            field="peft_type",
        )
    recorded = read_base_hash(adapter.root)
    if recorded is not None and recorded != (actual := content_hash(base.root)):
        raise CheckpointError(
            f"the adapter was trained on a base with sha256 {recorded[:12]}, but {base.root} has "
            f"{actual[:12]}",
            file=adapter.root,
            field="base_sha256",
            hint="name the base model that the adapter was trained on as `path`",
        )


def with_adapter(model: Any, adapter: CheckpointFiles, source: Checkpoint) -> Any:
    """The PEFT model of ``model`` and the adapter, not merged.

    Raises:
        CheckpointError: The adapter's tensors are not those that its config implies for this
            base, are not numbers, or change nothing where they should.
    """
    try:
        peft = PeftModel.from_pretrained(model, str(adapter.root), is_trainable=False)
    except Exception as error:  # PEFT raises whatever a wrong base or config leads it to
        is_absent = isinstance(error, KeyError)
        reason = f"no tensor {error.args[0]}" if is_absent else str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"the adapter does not fit this base: {reason[:300]}",
            file=adapter.root,
            hint="name the base model that the adapter was trained on as `path`",
        ) from error
    _check_keys(peft, adapter)
    check_finite(peft, adapter.root)
    if not (source.is_identity or source.epoch == 0) and _changes_nothing(peft, adapter):
        raise CheckpointError(
            "all B matrices of the adapter are zero: it changes nothing",
            file=adapter.root,
            hint="mark the checkpoint as epoch 0 or `identity: true` if that is meant",
        )
    return peft.eval().requires_grad_(False)


def merged(peft: Any) -> Any:
    """The plain transformers model with the adapter merged into its weights.

    PEFT merges in place, and where lm_head shares the embeddings' memory it would move with them,
    though it does not while the adapter is apart. So lm_head gets its own copy first.
    """
    lm_head = peft.get_base_model().get_output_embeddings()
    if type(lm_head) is torch.nn.Linear:
        lm_head.weight = torch.nn.Parameter(lm_head.weight.clone(), requires_grad=False)
    return peft.merge_and_unload()


def _check_keys(peft: Any, adapter: CheckpointFiles) -> None:
    """The file's tensors are those of the config, with or without whole embedding layers."""
    found = set(adapter.tensors)
    expected = set(get_peft_model_state_dict(peft, save_embedding_layers=False))
    if found == expected:
        return
    surplus = found - expected
    if surplus and surplus <= set(get_peft_model_state_dict(peft, save_embedding_layers=True)):
        expected |= surplus
    for keys, problem in ((expected - found, "lacks"), (found - expected, "has a surplus")):
        if keys:
            name = min(keys)
            raise CheckpointError(
                f"the adapter {problem} tensor {name}: its config implies {len(expected)} "
                f"tensors, the file holds {len(found)}",
                file=adapter.root / "adapter_model.safetensors",
                field=name,
                hint="name the base model that the adapter was trained on, or save it again",
            )


def _changes_nothing(peft: Any, adapter: CheckpointFiles) -> bool:
    is_plain = all("lora_" in name for name in adapter.tensors)
    b_matrices = [p for name, p in peft.named_parameters() if "lora_B" in name or "_B." in name]
    return is_plain and not any(bool(torch.any(p)) for p in b_matrices)
