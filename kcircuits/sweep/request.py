"""What a sweep is asked to compute. No torch: a request can be planned before it is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from kcircuits.core.ablation import ABLATIONS, CONSTANT, DEFAULT_ABLATION, require_ablation
from kcircuits.core.facts import Fact
from kcircuits.core.keys import digest
from kcircuits.core.manifest import Checkpoint, Manifest
from kcircuits.core.provenance import NUMERICS_VERSION
from kcircuits.discovery import DEFAULT_METHOD, resolve_params
from kcircuits.engine.metrics import DEFAULT_METRIC
from kcircuits.errors import UsageError

# Facts per batch, the unit of redo: 8 facts x 8 prompts on SmolLM2-135M are some 20 s on one core.
BATCH_SIZE = 8
FRACTION = 0.005
# What ablated edges may carry in a sweep: nothing that depends on the other facts of a batch.
SWEPT_ABLATIONS = tuple(name for name in ABLATIONS if name not in CONSTANT)
DTYPES = ("float32", "bfloat16", "float64")
# Their versions are part of every key: another version may round differently.
_LIBRARIES = ("numpy", "torch", "transformer-lens", "transformers")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything apart from checkpoint and fact that the numbers depend on.

    Attributes:
        method: Attribution method.
        params: All its parameters; ``ablation`` among them unless it is the default.
        fraction: Budget as a share of all edges; None where ``n_edges`` is given.
        n_edges: Budget in edges; None where ``fraction`` is given.
        dtype: Floating-point type of the computation.
        device: ``cpu`` or another device of torch.
    """

    method: str
    params: Mapping[str, Any]
    fraction: float | None = FRACTION
    n_edges: int | None = None
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def id(self) -> str:
        """Hash of the settings, as in the run's record."""
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The settings with the numerics version and the libraries' versions."""
        return {
            "method": self.method,
            "params": dict(self.params),
            "fraction": self.fraction,
            "n_edges": self.n_edges,
            **arithmetic(self.dtype, self.device),
        }


def arithmetic(dtype: str, device: str) -> dict[str, Any]:
    """What the last bits of numbers depend on: types, device, versions."""
    return {
        "dtype": dtype,
        "device": device.split(":")[0],
        "numerics": NUMERICS_VERSION,
        "libraries": library_versions(),
    }


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which facts at which checkpoints, by which method.

    Attributes:
        manifest: The run.
        known_facts: All facts of the facts file.
        facts: Those that are asked for, in the order of the file.
        checkpoints: Those that are asked for, in training order.
        settings: How.
        batch_size: Facts per batch; None leaves it to what the run has recorded.
    """

    manifest: Manifest
    known_facts: tuple[Fact, ...]
    facts: tuple[Fact, ...]
    checkpoints: tuple[Checkpoint, ...]
    settings: Settings
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise _refused("batch_size", self.batch_size, "at least 1")


def library_versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    return {name: version(name) for name in _LIBRARIES}


def make_settings(
    method: str = DEFAULT_METHOD,
    *,
    params: Mapping[str, Any] | None = None,
    ablation: str = DEFAULT_ABLATION,
    fraction: float | None = None,
    n_edges: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Settings:
    """Checked settings; parameters that are None or absent take the method's defaults.

    Raises:
        UsageError: An unknown method or dtype, a parameter that the method does not have, a budget
            out of range, or an ablation that a cell cannot have.
    """
    if dtype not in DTYPES:
        raise _refused("dtype", dtype, f"one of {', '.join(DTYPES)}")
    given = {name: value for name, value in (params or {}).items() if value is not None}
    metric = given.pop("metric", DEFAULT_METRIC)
    if fraction is not None and n_edges is not None:
        raise UsageError("fraction and n_edges exclude each other", field="n_edges")
    if n_edges is None and fraction is None:
        fraction = FRACTION
    if fraction is not None and not 0 < fraction <= 1:
        raise _refused("fraction", fraction, "a number above 0 and up to 1")
    if n_edges is not None and n_edges < 1:
        raise _refused("n_edges", n_edges, "at least 1")
    chosen = {} if ablation == DEFAULT_ABLATION else {"ablation": _for_cells(ablation)}
    return Settings(
        method=method,
        params={**resolve_params(method, metric, given), **chosen},
        fraction=fraction,
        n_edges=n_edges,
        dtype=dtype,
        device=device,
    )


def choose_facts(facts: Sequence[Fact], selection: str | None) -> tuple[Fact, ...]:
    """The facts that a selection means, in the order given.

    Args:
        facts: All facts.
        selection: Ids and strata ``key=value``, comma separated, any of which a fact matches;
            None means all.

    Raises:
        UsageError: A part that no fact matches.
    """
    if selection is None:
        return tuple(facts)
    chosen: set[str] = set()
    for part in (part.strip() for part in selection.split(",")):
        key, equals, value = part.partition("=")
        hits = {fact.id for fact in facts if fact.id == part}
        if not hits and equals:
            hits = {fact.id for fact in facts if fact.strata.get(key) == value}
        if not hits:
            strata = sorted({f"{k}={v}" for fact in facts for k, v in fact.strata.items()})
            raise UsageError(
                f"{part!r} is neither a fact nor a stratum of this run",
                field="facts",
                hint=f"facts are {_few([fact.id for fact in facts])}; strata {_few(strata)}",
            )
        chosen |= hits
    return tuple(fact for fact in facts if fact.id in chosen)


def _for_cells(ablation: str) -> str:
    if ablation in CONSTANT:
        raise UsageError(
            f"a run cannot use the ablation {ablation}: its constants come from all prompts that "
            "run together, and a fact's results must not depend on its neighbours",
            field="ablation",
            hint=f"use {' or '.join(SWEPT_ABLATIONS)}, or `kcircuits evaluate --ablation`",
        )
    require_ablation(ablation)
    return ablation


def _few(names: Sequence[str], n_shown: int = 8) -> str:
    more = f" and {len(names) - n_shown} more" if len(names) > n_shown else ""
    return (", ".join(names[:n_shown]) or "none") + more


def _refused(name: str, value: object, expected: str) -> UsageError:
    return UsageError(f"{name} is {value!r}; expected {expected}", field=name)
