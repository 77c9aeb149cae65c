"""Looking at a model in the middle of its training without leaving a trace.

Whatever runs inside ``undisturbed``, training goes on afterwards as if it had not: the mode of
every module, hooks, gradients, which weights are trained, and the random states of python, numpy
and torch (CPU and CUDA) are put back. Weights are not: what runs inside must not change them.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Inside, the model is in evaluation mode, in its own data type, and no gradient is taken."""
    with ExitStack() as stack:
        stack.enter_context(same_randomness())
        stack.enter_context(_same_modules(model))
        stack.enter_context(_same_gradients(model))
        stack.enter_context(_own_forward(model))
        stack.enter_context(torch.no_grad())
        for device in {"cpu", device_of(model).type}:
            stack.enter_context(torch.autocast(device, enabled=False))
        model.eval()
        yield


def device_of(model: Any) -> torch.device:
    """Where the model's input belongs: beside its first parameter."""
    return next(model.parameters()).device


@contextmanager
def same_randomness() -> Iterator[None]:
    """Puts back the random states of python, numpy and torch."""
    has_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is others' state
    cpu, cuda = torch.get_rng_state(), torch.cuda.get_rng_state_all() if has_cuda else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def _same_modules(model: Any) -> Iterator[None]:
    """The mode of each module apart: parts of a model may be kept in evaluation mode."""
    before = [
        (module, module.training, {name: dict(getattr(module, name)) for name in _HOOKS})
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, is_training, hooks in before:
            module.training = is_training
            for name, members in hooks.items():
                _restore(getattr(module, name), members)


def _restore(hooks: Any, members: Mapping[int, Any]) -> None:
    """The same dictionary object, since the handles that remove hooks point at it."""
    if dict(hooks) != members:
        hooks.clear()
        hooks.update(members)


@contextmanager
def _same_gradients(model: Any) -> Iterator[None]:
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    for p, _, _ in before:
        p.grad = None
    try:
        yield
    finally:
        for p, requires_grad, grad in before:
            p.requires_grad_(requires_grad)
            p.grad = grad


@contextmanager
def _own_forward(model: Any) -> Iterator[None]:
    """Without the autocast that accelerate wraps around a model's forward pass."""
    wrapped = vars(model).get("forward")
    if wrapped is None or "_original_forward" not in vars(model):
        yield
        return
    model.forward = vars(model)["_original_forward"]
    try:
        yield
    finally:
        model.forward = wrapped
