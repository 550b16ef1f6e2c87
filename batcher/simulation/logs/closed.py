"""Tells from a run whether its callers waited for their answers before they asked again."""

from __future__ import annotations

from typing import Final

import numpy as np

from batcher.core.commands import Outcome
from batcher.simulation.engine.simulation import OUTCOMES, Run

CLOSED_BELOW: Final = 1 / 3
"""Arrivals that come earlier than this between two answers, on average, follow the answers.

Callers that do not know of the answers come at any moment: 0.49 to 0.61 in simulations of Poisson,
gamma and MMPP arrivals at 7 to 130 % of capacity under four policies, and later where a device that
idles waits for them. Callers in a closed loop whose way back is short come at 0 to 0.26. 30 % off moves
it to 0.23 or 0.43, still apart from the open ones; it misses some of the closed ones below."""

LEAST_ARRIVALS: Final = 100
"""With fewer arrivals the mean (standard error 0.29 / sqrt(n)) could lie below by chance."""


def is_closed_loop(run: Run) -> bool:
    """Whether callers waited for their answers, so that other answers would have changed arrivals.

    Then arrivals follow the answers: soon, and at times that vary less than the gaps between arrivals.
    (Those of a clock may come just after each answer, but their gaps are even.) Callers that pause longer
    than a batch takes are not told apart from independent ones.
    """
    answered = run.outcome == OUTCOMES.index(Outcome.OK)
    answers_ns = np.unique(run.settled_ns[answered])
    at_ns = np.sort(run.workload.at_ns)
    after = np.searchsorted(answers_ns, at_ns, side="right")
    between = (after > 0) & (after < len(answers_ns))
    if between.sum() < LEAST_ARRIVALS:
        return False
    at_ns, after = at_ns[between], after[between]
    delays_ns = at_ns - answers_ns[after - 1]
    place = (delays_ns / (answers_ns[after] - answers_ns[after - 1])).mean()
    return bool(place < CLOSED_BELOW and delays_ns.std() < np.diff(at_ns).std())
