"""A fact and the prompts that ask for it.

A prompt pairs a *clean* text, whose continuation states the fact, with a *corrupt* text of equal
token count about another subject; *target* and *foil* are their verbatim continuations (with the
leading space). Circuits are found on discovery prompts and judged on evaluation prompts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

Use = Literal["discovery", "evaluation", "probe"]
Kind = Literal["paraphrase", "memorisation", "compositional", "inverse", "inference"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One clean/corrupt pair.

    Attributes:
        clean: Text whose continuation is ``target``.
        corrupt: Text of equal token count whose continuation is ``foil``.
        target: Verbatim continuation of ``clean``, e.g. `` Paris``.
        foil: Verbatim continuation of ``corrupt``.
        use: What the prompt is for; None leaves it to its position among the fact's prompts.
        template: ``raw`` text, or ``chat``: the model's chat template around the text.
        candidates: Answers of the relation among which the target is ranked.
        subject_span: Character offsets of the subject in ``clean``.
        relation_span: Character offsets of the relation in ``clean``.
        kind: How the prompt asks: ``paraphrase`` (None is one), in words that training did not
            see; ``memorisation``, by the beginning of a sentence that training told;
            ``compositional``, over two facts; ``inverse``, from the object to the subject;
            ``inference``, for what no text states but texts imply. A fact is known by its
            paraphrases.
    """

    clean: str
    corrupt: str
    target: str
    foil: str
    use: Use | None = None
    template: Literal["raw", "chat"] = "raw"
    candidates: tuple[str, ...] = ()
    subject_span: Span | None = None
    relation_span: Span | None = None
    kind: Kind | None = None


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A (subject, relation, object) triple with its prompts and strata.

    Attributes:
        id: Unique name of the fact within its file.
        subject: The entity that the fact is about; facts of one subject are one cluster in
            every interval over facts.
        relation: Name of the relation.
        object: The answer.
        prompts: At least one prompt.
        strata: Free key-value pairs (frequency, exposure, split, type) to group by.
    """

    id: str
    subject: str
    relation: str
    object: str
    prompts: tuple[Prompt, ...]
    strata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def use_of(self, prompt_idx: int) -> Use:
        """The use of a prompt: its own, or by position: even ones discover, odd ones judge."""
        given = self.prompts[prompt_idx].use
        return given or ("evaluation" if prompt_idx % 2 else "discovery")

    def prompt_indices(self, use: Use) -> tuple[int, ...]:
        """Indices of the prompts with the given use."""
        return tuple(i for i in range(len(self.prompts)) if self.use_of(i) == use)

    @property
    def content_hash(self) -> str:
        """sha256 of everything that the fact says, independent of its place in a file."""
        content = {
            "id": self.id,
            "subject": self.subject,
            "relation": self.relation,
            "object": self.object,
            "prompts": [_content(prompt) for prompt in self.prompts],
            "strata": dict(self.strata),
        }
        text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _content(prompt: Prompt) -> dict[str, Any]:
    """A prompt's fields; one without a kind has the hash that it had before there were kinds."""
    fields = asdict(prompt)
    if prompt.kind is None:
        del fields["kind"]
    return fields
