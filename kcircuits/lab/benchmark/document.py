"""A training text."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Document:
    """A training text about one subject.

    Attributes:
        subject: Whom it is about.
        frequency: How often the subject is told of.
        text: What is read.
        tagged: The same with its named entities between tags, ``<PERSON> ... </>``; empty where
            nobody tagged it.
        sentences: Which sentence of which relation each of its statements is.
        length: ``short``, each relation once, or ``long``, each twice and more beside them.
        mentions: Names of others whom it names.
    """

    subject: str
    frequency: str
    text: str
    tagged: str = ""
    sentences: tuple[str, ...] = ()
    length: str = "short"
    mentions: tuple[str, ...] = ()
