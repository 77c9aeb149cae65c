"""Fixtures that several test folders share."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
from jaxtyping import install_import_hook

# Tests execute the annotations of the engine: types, number types and shapes of every call.
install_import_hook("kcircuits.engine", "beartype.beartype")

# Test processes run side by side; threads of their own would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference numbers beside the project; the test skips where it is absent."""
    if not (SHARED / "reference").is_dir():
        pytest.skip("the folder of reference numbers (../shared) is absent")
    return SHARED


class SharedTestsRan:
    """In continuous integration, tests of present reference numbers must have run."""

    n_run = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and not report.skipped and "shared" in report.keywords:
            self.n_run += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        is_worker = hasattr(session.config, "workerinput")
        if (SHARED / "reference").is_dir() and not self.n_run and not is_worker:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print("\nthe reference numbers are there, but no test marked 'shared' ran")


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI"):
        config.pluginmanager.register(SharedTestsRan())


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
