"""What was executed, on which device, and what failed."""

from __future__ import annotations

from batcher.core.events import UNTOLD
from batcher.telemetry.families.family import FILL, MODEL, ROWS, Family, one_of

BATCH_ROWS = Family(
    "batcher_batch_rows", "histogram", "rows", MODEL, "Rows of an executed batch.", ROWS
)
BATCH_REQUESTS = Family(
    "batcher_batch_requests",
    "histogram",
    "requests",
    MODEL,
    "Requests in an executed batch.",
    ROWS,
)
BATCH_FILL_RATIO = Family(
    "batcher_batch_fill_ratio",
    "histogram",
    "ratio",
    MODEL,
    "Rows of an executed batch divided by the model's maximum batch size.",
    FILL,
)
BATCH_ELEMENTS = Family(
    "batcher_batch_elements",
    "counter",
    "elements",
    (*MODEL, "kind"),
    "Elements of the padded inputs of executed batches, and of all inputs with rows where batches have "
    "certain sizes, by kind: sent by callers (request), or added to fill a bucket or the next batch "
    "size (padding); absent for a model without either.",
    values={"kind": one_of("request", "padding")},
)
EXECUTOR_BUSY = Family(
    "batcher_executor_busy_seconds",
    "counter",
    "seconds",
    (*MODEL, "device"),
    "Time during which at least one batch of the model was running on the device. Batches that "
    "overlap count once, and a running batch counts up to the scrape: the rate is the duty cycle.",
)
UNFINISHED_BATCHES = Family(
    "batcher_unfinished_batches",
    "counter",
    "batches",
    (*MODEL, "cause"),
    "Batches that ended without a result through no fault of the model, by cause: the executor's backend had "
    "no room (overloaded) or was not there (unavailable), the device had no memory for a batch of this size "
    "(memory), or no request waited for them (abandoned).",
    values={"cause": one_of(*sorted(UNTOLD))},
)
POLICY_FAILURES = Family(
    "batcher_policy_failures",
    "counter",
    "failures",
    MODEL,
    "Times that the batching policy of the model raised an error or returned an invalid decision; "
    "batches are then formed greedily.",
)
BISECTIONS = Family(
    "batcher_bisections",
    "counter",
    "batches",
    MODEL,
    "Batches that failed and were executed again in parts, to find the requests that made them fail.",
)
BISECTION_EXECUTIONS = Family(
    "batcher_bisection_executions",
    "counter",
    "executions",
    MODEL,
    "Executions of such parts: the extra load that failing requests cause.",
)
FAILURE_STORM = Family(
    "batcher_failure_storm",
    "gauge",
    "",
    MODEL,
    "1 while so many batches fail that no batch is bisected any more and all requests of a failed "
    "batch fail, else 0.",
)
BATCH_CEILING = Family(
    "batcher_batch_ceiling_rows",
    "gauge",
    "rows",
    MODEL,
    "The most rows that a batch may have now, in the bucket with the largest rows: max_batch_size, or less for "
    "a while after the device had no memory for a batch.",
)

FAMILIES = (
    BATCH_ROWS,
    BATCH_REQUESTS,
    BATCH_FILL_RATIO,
    BATCH_ELEMENTS,
    EXECUTOR_BUSY,
    UNFINISHED_BATCHES,
    POLICY_FAILURES,
    BISECTIONS,
    BISECTION_EXECUTIONS,
    FAILURE_STORM,
    BATCH_CEILING,
)
