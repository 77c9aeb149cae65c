"""How much of what differs between the circuits of two epochs is noise of the method.

Circuits of a fact at two epochs, found on other prompts, differ by 1 - k_st; those of other prompts
at one epoch by 1 - c already (``turnover``). The share of noise is their ratio over facts,
sum (1 - c) / sum (1 - k_st): 1 where nothing changed, 0 where the method repeats itself exactly.
"""

import numpy as np
from jaxtyping import Float, Shaped

from kcircuits.analysis.overlap.jackknife import Interval, jackknife_ratio


def noise_share(
    k_st: Float[np.ndarray, " fact"],
    ceiling: Float[np.ndarray, " fact"],
    entities: Shaped[np.ndarray, " fact"],
) -> Interval:
    """The share of noise with its 95% interval over entities.

    Args:
        k_st: Chance-corrected overlap between the epochs of each fact (and step).
        ceiling: Its ceiling c.
        entities: Its entity.
    """
    rest = jackknife_ratio(1 - ceiling, 1 - k_st, entities)
    return Interval(
        estimate=1 - rest.estimate,
        low=1 - rest.high,
        high=1 - rest.low,
        standard_error=rest.standard_error,
        quantile=rest.quantile,
        n_entities=rest.n_entities,
    )
