"""A quantised GGUF file becomes a plain float32 model folder."""

from pathlib import Path
from typing import Any

from kcircuits.errors import CheckpointError


def convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF file to a folder of float32 safetensors, config and tokenizer.

    Raises:
        CheckpointError: transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kcircuits.models.quiet import quiet

    options = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=torch.float32, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
            # The loaded model counts as quantised and refuses to be saved; a plain one of the
            # same tensors does not.
            del model.config.quantization_config
            with torch.device("meta"):
                plain = AutoModelForCausalLM.from_config(model.config)
            plain.load_state_dict(model.state_dict(), assign=True)
            plain.tie_weights()
            plain.save_pretrained(target)
            tokenizer.save_pretrained(target)
    except OSError:
        raise
    except Exception as error:  # the library raises whatever a malformed file leads it to
        raise CheckpointError(
            f"the GGUF file cannot be dequantised: {str(error).strip()[:300]}", file=gguf
        ) from error
