"""Names for how often a subject is told of."""


def frequency_of(n_documents: int) -> str:
    """The name of a number of documents per epoch: low 1, medium 2 to 5, high more, none 0.

    Source: bins of Ou et al. 2025, arXiv:2502.11196.
    """
    if n_documents > 5:
        return "high"
    if n_documents > 1:
        return "medium"
    return "low" if n_documents else "none"
