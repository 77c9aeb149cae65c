"""One graph as a file of the EAP-IG library holds it.

EAP-IG saves a graph as JSON, or as a torch file of the same matrices; the circuit track of the MIB
benchmark takes either as a submission. Both forms become an ``EapIgRecord`` here, which is still
in the terms of that library; ``kcircuits.io.interchange.eap_ig`` turns it into ours. Senders,
receivers, their names and their order are the same as in ``Topology``.

A file that we wrote also holds ``notes`` under a key which that library does not read: the fact,
and where the scores come from.

Source: Hanna, Pezzelle, Belinkov 2024, arXiv 2403.17806; Mueller et al. 2025 (MIB), arXiv
2504.13151; the formats as the public code of both writes them in 2025.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from kcircuits.core.topology import Topology
from kcircuits.errors import InputError, NonFiniteError
from kcircuits.io.input_file import Schema, forbidden_character, shown, validate

NOTES_KEY = "kcircuits"
HINT = "name a graph that EAP-IG's Graph.to_json or Graph.to_pt saved, or kc.write_eap_ig"
# Llama-3.1-8B has 1.6 million edges: 120 MB of JSON.
MAX_BYTES = 1 << 30


class Notes(Schema):
    """What we add to a file, so that reading gives back what was written."""

    format: Literal["kcircuits.eap-ig/1"] = "kcircuits.eap-ig/1"
    fact: str
    method: str
    params: dict[str, Any]
    checkpoint: str | None
    dtype: str
    numerics: int
    is_importance: bool
    has_edge_scores: bool
    score_dtype: Literal["float32", "float64"]
    n_selected: int | None
    n_ties: int | None


@dataclass(frozen=True, kw_only=True)
class EapIgRecord:
    """One graph in the terms of EAP-IG.

    Attributes:
        topology: The graph, from the file's ``cfg``.
        d_model: Width of the residual stream; files of the oldest form lack it.
        edges_scores: Score of each edge, 0 where there is none; None where edges have no scores.
        edges_in_graph: The circuit's edges; None where membership is not given.
        nodes_scores: Score of each sender, NaN where it was not scored; None at other levels.
        neurons_scores: Score of each output dimension of each sender, NaN likewise.
        neurons_in_graph: The output dimensions in the circuit.
        notes: Ours; None in a file by another hand.
    """

    topology: Topology
    d_model: int | None
    edges_scores: Float[np.ndarray, "n_forward n_backward"] | None = None
    edges_in_graph: Bool[np.ndarray, "n_forward n_backward"] | None = None
    nodes_scores: Float[np.ndarray, " n_forward"] | None = None
    neurons_scores: Float[np.ndarray, "n_forward d_model"] | None = None
    neurons_in_graph: Bool[np.ndarray, "n_forward d_model"] | None = None
    notes: Notes | None = None

    @property
    def cfg(self) -> dict[str, int | bool]:
        """The file's ``cfg``."""
        return {
            "n_layers": self.topology.n_layers,
            "n_heads": self.topology.n_heads,
            "parallel_attn_mlp": self.topology.is_parallel,
            **({} if self.d_model is None else {"d_model": self.d_model}),
        }

    @property
    def nodes_in_graph(self) -> Bool[np.ndarray, " n_forward"]:
        """Senders that an edge of the circuit leaves and, but for the input, enters.

        The rule by which EAP-IG works them out of the edges before it evaluates a circuit.
        """
        if self.edges_in_graph is None:
            return np.zeros(self.topology.n_forward, dtype=bool)
        entered = np.zeros(len(self.topology.nodes), dtype=bool)
        entered[self.topology.node_of_backward[self.edges_in_graph.any(0)]] = True
        entered[0] = True
        return self.edges_in_graph.any(1) & entered[: self.topology.n_forward]


def read_cfg(cfg: Any, *, n_senders: int, path: Path) -> tuple[Topology, int | None]:
    """Topology and width of a file's ``cfg``.

    Args:
        cfg: As parsed.
        n_senders: How many the file names. Checked before the graph is built, so that a mistyped
            count of layers does not fill the memory.
        path: Named in errors.

    Raises:
        InputError: A field is missing or is no such number, or the counts disagree.
    """
    if not isinstance(cfg, Mapping):
        raise InputError(f"is {shown(cfg)}, expected fields", file=path, field="cfg", hint=HINT)
    fields: dict[str, int] = {}
    for name in ("n_layers", "n_heads", "d_model"):
        value = cfg.get(name)
        if name == "d_model" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(
                f"is {shown(value)}, expected a whole number above 0",
                file=path,
                field=f"cfg.{name}",
            )
        fields[name] = value
    is_parallel = cfg.get("parallel_attn_mlp")
    if not isinstance(is_parallel, bool):
        raise InputError(
            f"is {shown(is_parallel)}, expected true or false",
            file=path,
            field="cfg.parallel_attn_mlp",
        )
    n_layers, n_heads = fields["n_layers"], fields["n_heads"]
    if n_senders != 1 + n_layers * (n_heads + 1):
        raise InputError(
            f"{n_layers} layers of {n_heads} heads make {1 + n_layers * (n_heads + 1)} senders; "
            f"the file names {n_senders}",
            file=path,
            field="cfg",
            hint="n_heads counts query heads, also where keys and values are grouped",
        )
    topology = Topology(n_layers=n_layers, n_heads=n_heads, is_parallel=is_parallel)
    return topology, fields.get("d_model")


def read_notes(notes: Any, *, path: Path) -> Notes | None:
    """Our notes of a file; None where it has none.

    Raises:
        InputError: They are not as we write them.
    """
    if notes is None:
        return None
    read = validate(Notes, notes, error=InputError, file=path, line_of=lambda _: None)
    if not read.fact or (char := forbidden_character(read.fact)):
        raise InputError(
            f"fact is {shown(read.fact)}, expected a name"
            + (f" without {char}" if read.fact else ""),
            file=path,
            field=f"{NOTES_KEY}.fact",
        )
    return read


def check_finite(
    scores: Float[np.ndarray, "n_forward n_backward"], topology: Topology, *, path: Path
) -> None:
    """Refuses edge scores that are NaN or infinite, naming the first such edge."""
    wrong = np.argwhere(~np.isfinite(scores))
    if len(wrong):
        u, v = (int(i) for i in wrong[0])
        raise NonFiniteError(
            f"the score of edge {topology.edge_name(u, v)} is {scores[u, v]}",
            file=path,
            hint="compute the scores again; a file holds finite ones only",
        )
