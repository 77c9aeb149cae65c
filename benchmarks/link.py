"""How often the test of turnover before forgetting alarms without a link, and finds one.

python benchmarks/link.py --repeats 1000
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from record import measurement, parser, report

sys.path.insert(0, str(Path(__file__).parent))

from synthetic_link import simulate_runs

from kcircuits.analysis.link.turnover_forgetting import forgetting_test

# Name, options of the simulation, and the largest (or, negative, the smallest) share of alarms.
SETTINGS: tuple[tuple[str, dict[str, Any], float | None], ...] = (
    ("drift, frailty and strata", {"confounding": 0.0}, 0.06),
    ("and margins", {}, 0.06),
    ("two facts an entity", {"facts_per_entity": 2}, 0.06),
    ("one run", {"n_runs": 1}, 0.06),
    ("few forgotten", {"forgetting": -4.0}, 0.07),
    ("quiet unknown facts", {"unknown_noise": 0.2}, 0.06),
    ("wild unknown facts", {"unknown_noise": 5.0}, 0.06),
    ("link .5", {"link": 0.5}, None),
    ("link 1", {"link": 1.0}, -0.8),
    ("link 1, 120 entities", {"link": 1.0, "n_entities": 120}, -0.95),
)


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--repeats", type=int, default=1000)
    arguments.add_argument("--permutations", type=int, default=199)
    args = arguments.parse_args()
    results = []
    for name, options, limit in SETTINGS:
        tests = [
            forgetting_test(
                simulate_runs(seed=seed, **options), n_permutations=args.permutations, seed=seed
            )
            for seed in range(args.repeats)
        ]
        alarms = float(np.mean([test.p <= 0.05 for test in tests]))
        results.append(
            measurement(
                name,
                [alarms],
                unit="share of repeats with p <= .05",
                limit=limit,
                repeats=args.repeats,
                forgotten=float(np.mean([test.n_forgotten for test in tests])),
                auroc=float(np.nanmean([test.auroc.estimate for test in tests])),
                interval_holds_half=float(
                    np.mean([test.auroc.low <= 0.5 <= test.auroc.high for test in tests])
                ),
            )
        )
    return report("link", results, args.out)


if __name__ == "__main__":
    raise SystemExit(main())
