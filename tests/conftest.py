"""Fixtures that several test folders share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference numbers beside the project; the test skips where it is absent."""
    if not (SHARED / "reference").is_dir():
        pytest.skip("the folder of reference numbers (../shared) is absent")
    return SHARED
