"""The class of TransformerLens that a checkpoint becomes: by what is installed.

transformer-lens 3 has HookedTransformer, 4 has TransformerBridge in its place. Each has a file of
its own with these functions; nothing else asks which of the two it deals with.

- ``wrap(family, model)``: the plain transformers model as that class, nothing folded or centred;
  ``model`` itself is spent
- ``rounded(hooked, dtype)``: the same model with rounded weights; ``hooked`` is spent
- ``set_rotary_tables(hooked, dtype)``: compute rotary angles in that precision
- ``architecture_of(hooked)``: what two checkpoints must share to be swapped for each other
- ``weights_of(hooked)``: the weights as the engine reads them
"""

from importlib.util import find_spec

if find_spec("transformer_lens.HookedTransformer") is None:
    from kcircuits.models.bridge import architecture_of, rounded, set_rotary_tables, wrap
    from kcircuits.models.bridge import weights_from_bridge as weights_of
else:
    from kcircuits.models.hooked import architecture_of, rounded, set_rotary_tables, wrap
    from kcircuits.models.hooked_weights import weights_from_hooked as weights_of

__all__ = ["architecture_of", "rounded", "set_rotary_tables", "weights_of", "wrap"]
