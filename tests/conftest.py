"""Fixtures that several test folders share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference numbers beside the project; the test skips where it is absent."""
    if not (SHARED / "reference").is_dir():
        pytest.skip("the folder of reference numbers (../shared) is absent")
    return SHARED


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """``benchmarks/synthetic_run.py``: cells and run folders with invented scores."""
    file = Path(__file__).resolve().parents[1] / "benchmarks" / "synthetic_run.py"
    spec = importlib.util.spec_from_file_location("synthetic_run", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
