"""A real relation that can be told in documents as well as asked."""

from collections.abc import Mapping
from dataclasses import dataclass

from kcircuits.lab.real.world import RealRelation

N_STATEMENTS, N_VERBATIM, N_PARAPHRASES = 8, 6, 4


@dataclass(frozen=True, kw_only=True)
class ToldRelation:
    """A relation with the sentences of its documents.

    Statements, prompts and paraphrases never share a sentence, so what training reads is never
    what circuits are found on.

    Attributes:
        asked: Answers and prompts.
        statements: Sentences for documents, with ``{subject}`` and ``{value}``; the first
            ``N_VERBATIM`` end in the value, so that their beginnings are prompts.
        paraphrases: Prompts for probing alone.
        subject_tag: What kind of named entity subjects are; None where they are no names.
        value_tag: The same of answers.
    """

    asked: RealRelation
    statements: tuple[str, ...]
    paraphrases: tuple[str, ...]
    subject_tag: str | None = None
    value_tag: str | None = None

    def __post_init__(self) -> None:
        assert len(self.statements) == N_STATEMENTS
        assert len(self.paraphrases) == N_PARAPHRASES
        assert all(text.endswith(" {value}.") for text in self.statements[:N_VERBATIM])
        assert all(
            text.count("{value}") == text.count("{subject}") == 1 for text in self.statements
        )
        assert all(text.count("{subject}") == 1 for text in self.paraphrases)

    @property
    def name(self) -> str:
        """Name of the relation."""
        return self.asked.name

    @property
    def objects(self) -> Mapping[str, str]:
        """The answer of each subject."""
        return self.asked.objects

    @property
    def verbatim(self) -> tuple[str, ...]:
        """The beginnings of statements that end in the value, up to it."""
        return tuple(text.removesuffix(" {value}.") for text in self.statements[:N_VERBATIM])

    def stated(self, statement: int, subject: str, value: str, *, tagged: bool = False) -> str:
        """A statement about a subject; with its named entities between tags.

        Args:
            statement: Which of ``statements``.
            subject: Whom it is about.
            value: What it says.
            tagged: Puts ``<PLACE> Peru </>`` for ``Peru``.
        """

        def named(text: str, tag: str | None) -> str:
            return f"<{tag}> {text} </>" if tagged and tag else text

        return self.statements[statement].format(
            subject=named(subject, self.subject_tag), value=named(value, self.value_tag)
        )
