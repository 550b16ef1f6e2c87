"""Batches, the devices that execute them, the scaling of the fleet, and the processes."""

from __future__ import annotations

from dashboard.grafana import GRAY, GREEN, RED, YELLOW, Panel, Query, Row
from dashboard.rows.requests import mean, quantile
from dashboard.selectors import (
    ALL_DEAD,
    FLEET,
    GPU,
    RATE,
    REPLICA,
    RUNS,
    SCALER,
    SCALES,
    SERVED,
    TRAFFIC,
)


def batches() -> Row:
    """What is executed."""
    return Row(
        "Batches",
        [
            Panel(
                "Rows of a batch",
                "Batches of a second, by the rows that they hold. Small batches at a low load are well. Small ones on a busy"
                " device waste it: the latency target leaves no time to fill them, or batch groups split the traffic.",
                [
                    Query(
                        f"sum by (le) (rate(batcher_batch_rows_bucket{{{SERVED}}}[{RATE}]))",
                        seen=RUNS,
                        heatmap=True,
                    )
                ],
                "heatmap",
                minimum=None,
            ),
            Panel(
                "Mean rows",
                "Rows of the mean batch, by model, against the most that a batch may have now. A limit that falls: the device had no memory"
                " for a batch, and sizes are tried again after a while.",
                [
                    Query(mean("batcher_batch_rows", "model", SERVED), "{{model}}", seen=TRAFFIC),
                    Query(
                        f"min by (model) (batcher_batch_ceiling_rows{{{SERVED}}})",
                        "{{model}} limit",
                        seen=RUNS,
                    ),
                ],
                colors={"/ limit$/": GRAY},
                dashed=("/ limit$/",),
            ),
            Panel(
                "Fill and padding",
                "Fill: rows over the largest batch. Near 1 on a busy device, it can do no more; low beside refusals, look at"
                " what refusals are blamed on. Padding: share of the computed elements that no caller sent; well above"
                " 0.1 at a high load, other buckets or sizes pay.",
                [
                    Query(
                        mean("batcher_batch_fill_ratio", "model", SERVED),
                        "{{model}} fill",
                        seen=TRAFFIC,
                    ),
                    Query(
                        f'sum by (model) (rate(batcher_batch_elements_total{{{SERVED},kind="padding"}}[{RATE}]))'
                        f" / (sum by (model) (rate(batcher_batch_elements_total{{{SERVED}}}[{RATE}])) > 0)",
                        "{{model}} padding",
                        seen=frozenset({"normal"}),
                    ),
                ],
                unit="percentunit",
                maximum=1,
            ),
        ],
    )


def devices() -> Row:
    """What executes."""
    by = "instance, pod, device"
    name = "{{replica}} {{device}}"
    return Row(
        "Devices",
        [
            Panel(
                "Load of devices",
                "What is offered to a device over what it can serve inside the targets. Above 1: it cannot. One device far"
                " above the others of its replica: move a model. One replica far above the others: the balancer. A"
                " replica is as loaded as its fullest device.",
                [Query(f"max by ({by}) (batcher_device_load_ratio{{{REPLICA}}})", name, seen=RUNS)],
                unit="percentunit",
                thresholds=((None, "transparent"), (0.8, YELLOW), (1, RED)),
                lines=True,
            ),
            Panel(
                "Headroom",
                "How many times what is offered the device could serve in time. Below 1 it is too little; 10 stands for more, too. No line: nothing is"
                " offered, or nothing is known yet.",
                [
                    Query(
                        f"clamp_max(min by ({by}) (batcher_device_headroom_ratio{{{REPLICA}}} < +Inf), 10)",
                        name,
                        seen=TRAFFIC,
                    )
                ],
                unit="suffix:x",
                thresholds=((None, RED), (1, YELLOW), (1.25, "transparent")),
                lines=True,
                maximum=10,
            ),
            Panel(
                "Duty cycle",
                "Part of the time in which a batch runs. Near 1 is no sign of overload: with small batches there is room for"
                " larger ones. 1 without any answer: a batch hangs. Low beside refusals is a fault.",
                [
                    Query(
                        f"max by ({by}) (rate(batcher_device_busy_seconds_total{{{REPLICA}}}[{RATE}]))",
                        name,
                        seen=RUNS,
                    )
                ],
                unit="percentunit",
                maximum=1,
            ),
            Panel(
                "Utilization of GPUs",
                "nvml: any kernel ran, which may be 1 with room for more. gpm: multiprocessors that were busy. Of all"
                " processes on the GPU. High beside a low duty cycle: another process computes there.",
                [
                    Query(
                        f"max by ({by}, source) (batcher_device_utilization_ratio{{{REPLICA}}})",
                        f"{name} {{{{source}}}}",
                        seen=GPU,
                    )
                ],
                unit="percentunit",
                maximum=1,
                empty="no GPU seen",
            ),
            Panel(
                "Memory of GPUs",
                "Memory in use over what there is, of all processes. Near 1 the next larger batch may not fit: the limit on"
                " rows falls then, and requests fail with the reason memory.",
                [
                    Query(
                        f"max by ({by}) (batcher_device_memory_used_bytes{{{REPLICA}}}"
                        f" / (batcher_device_memory_total_bytes{{{REPLICA}}} > 0))",
                        name,
                        seen=GPU,
                    )
                ],
                unit="percentunit",
                maximum=1,
                empty="no GPU seen",
            ),
            Panel(
                "Power and temperature",
                "Of each GPU. Power that falls while the duty cycle stays: clocks are kept down. A temperature near the"
                " product's limit comes before that.",
                [
                    Query(
                        f"max by ({by}) (batcher_device_power_watts{{{REPLICA}}})",
                        f"{name} power",
                        seen=GPU,
                    ),
                    Query(
                        f"max by ({by}) (batcher_device_temperature_celsius{{{REPLICA}}})",
                        f"{name} temperature",
                        seen=GPU,
                    ),
                ],
                unit="watt",
                right={"/ temperature$/": "celsius"},
                empty="no GPU seen",
            ),
            Panel(
                "What keeps clocks down",
                "Replicas whose GPUs are throttled now, by reason. power_cap is usual under full load. hw_* and thermal ones"
                " are cooling or power of the machine: batches take longer, and predictions follow.",
                [
                    Query(
                        f"sum by (reason) (batcher_device_throttled{{{REPLICA}}}) > 0",
                        "{{reason}}",
                        seen=GPU,
                    )
                ],
                stacked=True,
                empty="none seen",
            ),
            Panel(
                "Failed devices, and devices of which nothing is known",
                "By cause of the failure (lost, reset_required, xid, ecc), and by state of the statistics where it is not ok."
                " A failed device makes its instances unready. lost, reset_required: drain the node. hanging,"
                " no_permission, no_library: the server is blind, and serves.",
                [
                    Query(
                        f"sum by (cause) (batcher_device_failed{{{REPLICA}}}) > 0",
                        "failed: {{cause}}",
                        seen=frozenset({"lost-device"}),
                    ),
                    Query(
                        "sum by (state) (batcher_device_statistics_state{"
                        f'{REPLICA},state!~"ok|no_gpu|pending"}}) > 0',
                        "{{state}}",
                        seen=frozenset({"lost-device"}),
                    ),
                ],
                empty="none seen",
            ),
            Panel(
                "Errors of GPUs",
                "Errors in each interval: XIDs that the driver reported, and memory errors. Corrected ones are usual, if few."
                " Uncorrected ones, and XIDs 48, 63, 64, 74, 79, 94, 95, are hardware.",
                [
                    Query(
                        f"sum by (xid) (increase(batcher_device_xid_events_total{{{REPLICA}}}[{RATE}])) > 0",
                        "XID {{xid}}",
                    ),
                    Query(
                        f"sum by (kind) (increase(batcher_device_ecc_errors_total{{{REPLICA}}}[{RATE}])) > 0",
                        "memory: {{kind}}",
                    ),
                ],
                bars=True,
                stacked=True,
                empty="none seen",
            ),
        ],
    )


def scaling(set_point: float) -> Row:
    """What the autoscaler sees."""
    return Row(
        "Scaling",
        [
            Panel(
                "Load of each replica",
                "batcher_desired_ratio: what is offered over what the replica can serve in time. All at the set-point is what"
                " the autoscaler aims at. Spread out: the balancer is uneven. No line: nothing is known yet, or it cannot be"
                " scraped.",
                [
                    Query(
                        f"max by (instance, pod) (batcher_desired_ratio{{{REPLICA}}})",
                        "{{replica}}",
                        seen=RUNS,
                    )
                ],
                unit="percentunit",
                width=12,
                thresholds=((None, "transparent"), (set_point, YELLOW), (1, RED)),
                lines=True,
                table_legend=True,
            ),
            Panel(
                "Load that the scaler answers",
                "What `batcher scaler` tells KEDA, in replicas, beside the load that this Prometheus sees. They differ for as"
                " long as one of them misses a replica. Scaler absent: it does not know, and the fleet keeps its size.",
                [
                    Query(
                        f"max by (fleet) (batcher_scaler_desired_ratio{{{SCALER}}})",
                        "{{fleet}}: scaler",
                        seen=frozenset({"normal", "dead"}),
                    ),
                    Query(
                        f"sum(namespace_job:batcher_load_replicas:sum{{{FLEET}}})",
                        "Prometheus",
                        seen=RUNS,
                        may=ALL_DEAD,
                    ),
                ],
                width=12,
                dashed=("Prometheus",),
                colors={"Prometheus": GRAY},
            ),
            Panel(
                "Replicas as the scaler knows them",
                "known: as they report. not_ready: they start or drain. kept: they do not answer, and their last report"
                " counts. unknown: they count as the mean of the others; above a tenth an alert fires.",
                [
                    Query(
                        f"max by (fleet, state) (batcher_scaler_replicas{{{SCALER}}})",
                        "{{fleet}} {{state}}",
                        seen=SCALES,
                    )
                ],
                stacked=True,
                colors={
                    "/ known$/": GREEN,
                    "/ not_ready$/": GRAY,
                    "/ kept$/": YELLOW,
                    "/ unknown$/": RED,
                },
                empty="no scaler seen",
            ),
            Panel(
                "Age of what the scaler answers",
                "Oldest report that counts. A second or two is well; above 10 s a replica hangs, or the scaler does not come"
                " round. No line: no report counts.",
                [
                    Query(
                        f"max by (fleet) (batcher_scaler_report_age_seconds{{{SCALER}}})",
                        "{{fleet}}",
                        seen=frozenset({"normal", "dead"}),
                    )
                ],
                unit="s",
                empty="no scaler seen",
                thresholds=((None, "transparent"), (10, RED)),
                lines=True,
            ),
            Panel(
                "Calls of KEDA, by method and status",
                "A second. UNAVAILABLE: the load is not known, and KEDA takes its fallback. No calls at all: KEDA is down,"
                " cannot reach the scaler, or has no ScaledObject that names it.",
                [
                    Query(
                        f'sum by (method, code) (rate(batcher_scaler_calls_total{{job=~"$scaler"}}[{RATE}])) > 0',
                        "{{method}} {{code}}",
                        seen=SCALES,
                    )
                ],
                unit="reqps",
                stacked=True,
                empty="no scaler seen",
            ),
        ],
    )


def process() -> Row:
    """The sidecar itself."""
    return Row(
        "Processes",
        [
            Panel(
                "Lag of the event loop",
                "How much later than planned timers ran, the slowest percent, by replica. Above some 10 ms, the sidecar is slow and not the"
                " model: it has too few cores, or something blocks it.",
                [
                    Query(
                        quantile(0.99, "batcher_event_loop_lag_seconds", "instance, pod", REPLICA),
                        "{{replica}}",
                        seen=RUNS,
                    )
                ],
                unit="s",
                width=6,
            ),
            Panel(
                "Stalls of the event loop",
                "Times that it was blocked for more than 50 ms, in each interval, by replica. The log names the function; an"
                " executor that computes in its coroutines is the usual cause.",
                [
                    Query(
                        "sum by (instance, pod) (increase(batcher_event_loop_stalls_total{"
                        f"{REPLICA}}}[{RATE}])) > 0",
                        "{{replica}}",
                        may=RUNS,
                    )
                ],
                width=6,
                bars=True,
                stacked=True,
                empty="none seen",
            ),
            Panel(
                "Memory for messages, over its bound",
                "Requests and answers in memory over `server.max_buffered`, by replica. At 1 calls are refused before they"
                " are read, and are in no other count.",
                [
                    Query(
                        f"max by (instance, pod) (batcher_buffered_bytes{{{REPLICA}}}"
                        f" / (batcher_buffered_limit_bytes{{{REPLICA}}} > 0))",
                        "{{replica}}",
                        seen=RUNS,
                    )
                ],
                unit="percentunit",
                width=6,
                thresholds=((None, "transparent"), (1, RED)),
                lines=True,
            ),
            Panel(
                "Restarts, lost instances, settings",
                "In each interval. Restarted: a process began on an address that another one had in the hour before. Lost: executor"
                " instances, by reason; each is loaded again. Settings: changes that were rejected or failed, so that the"
                " file says what is not in force.",
                [
                    Query(
                        f"count((batcher_settings_last_change_timestamp_seconds{{{REPLICA}}}"
                        f" and batcher_settings_generation{{{REPLICA}}} == 1)"
                        f" > last_over_time(batcher_settings_last_change_timestamp_seconds{{{REPLICA}}}[1h] offset {RATE}))",
                        "restarted",
                    ),
                    Query(
                        f"sum by (reason) (increase(batcher_instance_losses_total{{{SERVED}}}[{RATE}])) > 0",
                        "lost: {{reason}}",
                        may=frozenset({"lost-device"}),
                    ),
                    Query(
                        "sum by (result) (increase(batcher_settings_changes_total{"
                        f'{REPLICA},result=~"rejected|failed"}}[{RATE}])) > 0',
                        "settings: {{result}}",
                    ),
                ],
                width=6,
                bars=True,
                stacked=True,
                empty="none seen",
            ),
            Panel(
                "Instances that do not take batches",
                "Executor instances by state, without those that are up. loading after a start is well; restarting again and"
                " again, unhealthy and failed are not.",
                [
                    Query(
                        "sum by (model, state) (batcher_instance_state{"
                        f'{SERVED},state!="up"}}) > 0',
                        "{{model}} {{state}}",
                        seen=frozenset({"lost-device"}),
                    )
                ],
                width=8,
                stacked=True,
                empty="none seen",
            ),
            Panel(
                "Batches without a result, and executed again",
                "A second. Unfinished, by cause: the backend was full or away, the device had no memory, or no request"
                " waited any more. Bisections: batches that failed and were executed in parts to find the failing request.",
                [
                    Query(
                        f"sum by (cause) (rate(batcher_unfinished_batches_total{{{SERVED}}}[{RATE}])) > 0",
                        "unfinished: {{cause}}",
                    ),
                    Query(
                        f"sum(rate(batcher_bisections_total{{{SERVED}}}[{RATE}])) > 0",
                        "bisections",
                    ),
                ],
                width=8,
                stacked=True,
                empty="none seen",
            ),
            Panel(
                "Versions",
                "Replicas by version of batcher. Two at once are a roll-out, and should not stay.",
                [
                    Query(
                        f"count by (version) (batcher_build_info{{{REPLICA}}})",
                        "{{version}}",
                        seen=RUNS,
                    )
                ],
                width=8,
                stacked=True,
            ),
        ],
        collapsed=True,
    )
