"""What a model family is: how its transformers config and weights read in TransformerLens."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kcircuits.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture that can be loaded.

    Attributes:
        model_type: ``model_type`` of config.json.
        hooked_config: transformers config -> arguments of HookedTransformerConfig. Refuses, by
            ``unsupported``, every setting that the HookedTransformer would not compute.
        convert: transformers model, HookedTransformerConfig -> tensors by HookedTransformer name.
    """

    model_type: str
    hooked_config: Callable[[Any], dict[str, Any]]
    convert: Callable[[Any, Any], dict[str, Tensor]]


def weight_converter(name: str) -> Callable[[Any, Any], dict[str, Tensor]]:
    """TransformerLens's own weight converter of a family, imported when it is first called.

    transformer-lens 4 has none: there a TransformerBridge holds the transformers modules.
    """

    def convert(model: Any, cfg: Any) -> dict[str, Tensor]:
        module = importlib.import_module(f"transformer_lens.pretrained.weight_conversions.{name}")
        return getattr(module, f"convert_{name}_weights")(model, cfg)

    return convert


# Names of activations in transformers that have another name in TransformerLens.
_ALIASES = {"swish": "silu", "gelu_python": "gelu"}
_ACTIVATIONS = ("gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


def activation(name: str, field: str) -> str:
    """TransformerLens's name of an activation function; CheckpointError if it has none."""
    name = _ALIASES.get(name, name)
    if name not in _ACTIVATIONS:
        raise CheckpointError(
            f"activation {name!r} is not supported",
            field=field,
            hint=f"supported are {', '.join(_ACTIVATIONS)}",
        )
    return name


def require(config: Any, **expected: Any) -> None:
    """Refuse a config whose fields differ from what the HookedTransformer computes."""
    for field, value in expected.items():
        actual = getattr(config, field, value)
        if actual != value:
            raise CheckpointError(
                f"{config.model_type} with {field} = {actual!r} is not supported, "
                f"only {value!r} is",
                field=field,
            )
