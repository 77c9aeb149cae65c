"""Documents of one's own: what training reads, and about whom."""

from collections import Counter
from pathlib import Path

from kcircuits.lab.benchmark.document import Document
from kcircuits.lab.benchmark.exposure import frequency_of
from kcircuits.lab.own.table import read_table

REQUIRED, OPTIONAL = ("subject", "text"), ("tagged", "frequency")


def read_documents(path: str | Path) -> tuple[Document, ...]:
    """The documents of a file, in order.

    A document without ``frequency`` has that of the number of documents about its subject.

    Args:
        path: JSONL or CSV with the fields ``subject`` and ``text``, and optionally ``tagged`` (the
            text with its named entities between tags) and ``frequency``.

    Raises:
        InputError: The first line that breaks a rule.
        FileAccessError: The file cannot be read.
    """
    rows = read_table(path)
    for row in rows:
        row.allow((*REQUIRED, *OPTIONAL))
    counts = Counter(row.text("subject") for row in rows)
    frequencies: dict[str, str] = {}
    documents: list[Document] = []
    for row in rows:
        subject = row.text("subject")
        given = {name: row.text(name) for name in OPTIONAL if name in row.fields}
        frequency = given.get("frequency", frequency_of(counts[subject]))
        if frequencies.setdefault(subject, frequency) != frequency:
            row.refuse(
                f"{subject!r} has frequency {frequency!r} here and {frequencies[subject]!r} before",
                "frequency",
                "give all documents about a subject one frequency",
            )
        documents.append(
            Document(
                subject=subject,
                frequency=frequency,
                text=row.text("text"),
                tagged=given.get("tagged", ""),
            )
        )
    return tuple(documents)
