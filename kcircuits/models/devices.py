"""Where models compute."""

import torch

from kcircuits.errors import UsageError


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name; UsageError where this machine has none such."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as cause:  # torch asserts that it was built for CUDA
        raise UsageError(
            f"device {str(name)!r} is not there: {str(cause).splitlines()[0]}",
            field="device",
            hint="cpu, or cuda where torch sees a GPU",
        ) from None
    return device
