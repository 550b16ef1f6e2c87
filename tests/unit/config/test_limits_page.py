"""The page of limits says what the configuration says."""

import re
from pathlib import Path

import pytest

from batcher.app import LAST_WRITES_S
from batcher.cli.files import OTHER_FILES
from batcher.clock import SECOND
from batcher.config import (
    BatchingConfig,
    ModelConfig,
    ModelRepositoryConfig,
    QueueConfig,
    RestartConfig,
    SequenceConfig,
    ServerConfig,
    TracingConfig,
    format_duration,
    format_size,
)
from batcher.config.batching import MOST_BATCH_ROWS
from batcher.config.document import MOST_DEPTH, MOST_VALUES
from batcher.config.padding import MOST_BUCKETS
from batcher.config.units import LARGEST_BYTES, LONGEST_NS
from batcher.core.bucket_times import MOST_SHAPES
from batcher.core.loads import MOST_FLOWS
from batcher.core.queueing.padding import MOST_KNOWN
from batcher.core.scale import offered
from batcher.errors import MAX_DESCRIPTION, MAX_NAME
from batcher.executor import MAX_RETRY_AFTER_NS
from batcher.executors.isolated.frames import MAX_MESSAGE
from batcher.executors.isolated.hosted import SHARED_MEMORY
from batcher.executors.isolated.link import MAX_UNSENT
from batcher.executors.isolated.messages import INLINE
from batcher.executors.kserve.answer import MAX_OUTPUTS
from batcher.executors.kserve.executor import MAX_IN_FLIGHT
from batcher.executors.kserve.shared_memory import ASIDE_S, MAX_ASIDE
from batcher.executors.remote.channel import LARGEST_MESSAGE, RECONNECT_MS, UNACKNOWLEDGED_MS
from batcher.executors.remote.deadlines import DEADLINE_SLACK_S
from batcher.executors.remote.headers import MAX_FILE
from batcher.http2.connection_lifetime import EVICT_IDLE_NS, EVICT_SILENT_NS, PROBE_CONNECTION_NS
from batcher.http2.decompression import MAX_MEMBERS
from batcher.http2.listener import PROBE_CONNECTIONS
from batcher.http2.sansio.budget import (
    FRAMES_PER_SECOND,
    MIN_DATA_BYTES,
    MIN_RESETS,
    SETTINGS_PER_SECOND,
)
from batcher.http2.sansio.connection import MAX_REASON_BYTES
from batcher.http2.sansio.hpack import CACHED_BLOCKS, CACHED_FIELDS, TABLE_BYTES
from batcher.http2.sansio.sending import MAX_FRAMED_BYTES
from batcher.http2.sansio.streams import HEADER_READ_FACTOR, MAX_HEADER_FRAMES, UNFINISHED_FACTOR
from batcher.http2.server import GOAWAY_ACK_S, STREAM_WINDOW
from batcher.http2.server_connection import LINGER_S, MAX_DISCARDED_BYTES, PREFACE_TIMEOUT_S
from batcher.http2.socket_options import DEAD_PEER_S
from batcher.journal.segment_files import CLOSE_TIMEOUT_S as LOG_CLOSE_S
from batcher.lifecycle.repository import files
from batcher.lifecycle.repository.described import MAX_OVERRIDES_BYTES
from batcher.lifecycle.repository.served import RETRY_UNAVAILABLE_S
from batcher.lifecycle.repository.source import SCAN_TIMEOUT_S
from batcher.live_settings.file_watch import MAX_READS
from batcher.live_settings.settings import MAX_CHANGE_BYTES
from batcher.protocol import MAX_CONTROL_BYTES
from batcher.runtime.execution.child_batches import IDLE_S
from batcher.runtime.instances import watching
from batcher.runtime.instances.children import BURST_LINES, LINES_PER_SECOND
from batcher.runtime.instances.turns import HELD_S, LONGEST_PAUSE_S, SHARE
from batcher.runtime.instances.warmup import BUCKETS_NS
from batcher.runtime.interface.forwarded import MAX_FORWARDED
from batcher.runtime.interface.labels import MAX_LABELS_BYTES
from batcher.runtime.interface.padding import MAX_WARMUP_BUCKETS
from batcher.runtime.interface.signature import MAX_SHARED_INPUT_BYTES
from batcher.runtime.models.model import CLOSE_TIMEOUT_S
from batcher.runtime.sequences.interface import MAX_STATE_BYTES
from batcher.runtime.sequences.table import REMEMBERED_ENDS
from batcher.server.listeners import MAX_METADATA_BYTES
from batcher.server.messages.classification import MAX_CLASSES, MAX_WIDTH
from batcher.server.messages.parameters import MAX_SEQUENCE_ID_BYTES, MAX_TENANT, MAX_WAIT_NS
from batcher.server.messages.requests import (
    MAX_BYTES_ELEMENTS,
    MAX_RANK,
    REMEMBERED_HEADER_BYTES,
    REMEMBERED_HEADERS,
)
from batcher.server.messages.wire import (
    LARGE_MESSAGE,
    MAX_FIELDS,
    MAX_NESTED,
    MAX_PARAMETERS,
    MAX_TEXT,
)
from batcher.telemetry import log_limits
from batcher.telemetry.live import HISTORY_S
from batcher.telemetry.live.changes import MAX_CHANGE_CHARACTERS, MAX_CHANGES
from batcher.telemetry.model import DEVICES
from batcher.telemetry.tracing import context as tracing_context
from batcher.telemetry.tracing import sender as tracing_sender
from batcher.telemetry.tracing.exporters import MAX_HEADER_FILE
from batcher.telemetry.tracing.records import MAX_ID, MAX_LINKS
from batcher.telemetry.tracing.tracer import MOST_BATCHES
from batcher.telemetry.watchdog import LOG_INTERVAL_NS, STALL_NS
from batcher.triton_models.reading import MAX_CONFIG_BYTES
from batcher.web.app import MAX_WAITING_SCRAPES
from batcher.web.connection import CLIENT_TIMEOUT_S, MAX_HEADER_BYTES, MAX_UNREAD_BYTES
from batcher.web.exposition import IDLE_RATIO
from batcher.web.live.feed import MAX_VIEWERS
from batcher.web.live.stream import MAX_VIEW_S
from batcher.web.server import MAX_CONNECTIONS, STOP_TIMEOUT_S

PAGE = (Path(__file__).parents[3] / "docs" / "limits.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `?([^|`]+(?:\(`builtin`\))?)`? \| ([^|]+) \|", PAGE, re.MULTILINE)
SECTIONS = {
    "server": ServerConfig,
    "model_repository": ModelRepositoryConfig,
    "models[]": ModelConfig,
    "models[].batching": BatchingConfig,
    "models[].queue": QueueConfig,
    "models[].sequence": SequenceConfig,
    "models[].restart": RestartConfig,
}
DERIVED = {"server.max_buffered": "a quarter of memory"}
"""What the page says of a key whose default `null` stands for a value that is worked out at the start."""


def shown(default: object) -> set[str]:
    if default is None:
        return {"none"}
    assert isinstance(default, int)
    return {str(default), format_duration(default), format_size(default)}


def test_every_key_of_the_page_has_its_default() -> None:
    checked = 0
    for name, default in ROWS:
        section, _, key = name.rpartition(".")
        if section in SECTIONS:
            expected = shown(SECTIONS[section].model_fields[key].default)
            if name in DERIVED:
                assert expected == {"none"}
                expected = {DERIVED[name]}
            assert default in expected, name
            checked += 1
    assert checked >= 12


@pytest.mark.parametrize("section", SECTIONS)
def test_every_bound_of_the_configuration_is_on_the_page(section: str) -> None:
    bounds = re.compile(r"max_(?!queue_delay)|.*timeout$")
    keys = [key for key in SECTIONS[section].model_fields if bounds.match(key)]
    assert [key for key in keys if f"`{section}.{key}`" not in PAGE] == []


def test_the_bounds_that_no_key_changes() -> None:
    rows = dict(ROWS)
    assert rows["bytes of a sequence id that is a text"] == str(MAX_SEQUENCE_ID_BYTES)
    assert rows["state of one sequence"] == f"{MAX_STATE_BYTES // 1024**2} MiB"
    assert rows["ended sequences that are remembered"] == str(REMEMBERED_ENDS)
    assert rows["metadata of a call"] == f"{MAX_METADATA_BYTES // 1024} KiB"
    headers = f"{HEADER_READ_FACTOR * MAX_METADATA_BYTES // 1024} KiB, {MAX_HEADER_FRAMES} frames"
    assert rows["headers that are read (`builtin`)"] == headers
    assert rows["HPACK table (`builtin`)"] == format_size(TABLE_BYTES).replace("KiB", " KiB")
    cached = rows["cached header blocks and fields (`builtin`)"]
    assert cached == f"{CACHED_BLOCKS} and {CACHED_FIELDS}"
    unread = rows["messages of a call that wait to be read (`builtin`)"]
    assert unread == f"{STREAM_WINDOW // 1024} KiB"
    assert rows["SETTINGS in a second (`builtin`)"] == str(SETTINGS_PER_SECOND)
    frames = rows["frames without a request (`builtin`)"]
    assert frames == f"{FRAMES_PER_SECOND} a second"
    assert f"of {MIN_DATA_BYTES} bytes or more" in PAGE
    resets = rows["calls reset, refused or malformed (`builtin`)"]
    assert resets == f"{MIN_RESETS:,} at once, or `server.max_concurrent_streams`"
    unfinished = rows["unfinished calls of one connection (`builtin`)"]
    assert unfinished == f"{UNFINISHED_FACTOR} times `server.max_concurrent_streams`"
    assert rows["the reason in a GOAWAY frame (`builtin`)"] == f"{MAX_REASON_BYTES} bytes"
    assert rows["members of a message in gzip (`builtin`)"] == str(MAX_MEMBERS)
    assert rows["idle time until a connection may be replaced (`builtin`)"] == format_duration(
        EVICT_IDLE_NS
    )
    assert rows["silent time until a connection may be replaced (`builtin`)"] == format_duration(
        EVICT_SILENT_NS
    )
    assert rows["connections for health probes only (`builtin`)"] == str(PROBE_CONNECTIONS)
    assert rows["time of a connection for health probes only (`builtin`)"] == format_duration(
        PROBE_CONNECTION_NS
    )
    assert rows["time to acknowledge GOAWAY (`builtin`)"] == f"{GOAWAY_ACK_S:g}s"
    assert rows["silence of the client's kernel (`builtin`)"] == f"{DEAD_PEER_S}s"
    assert rows["time to send the HTTP/2 preface (`builtin`)"] == f"{PREFACE_TIMEOUT_S:g}s"
    discarded = rows["bytes of a client whose connection has ended (`builtin`)"]
    assert discarded == f"{MAX_DISCARDED_BYTES // 1024**2} MiB"
    assert rows["time to read the last bytes of a connection (`builtin`)"] == f"{LINGER_S:g}s"
    assert rows["reads of a configuration file that changes meanwhile"] == str(MAX_READS)
    assert rows["paths and values of one admin call"] == f"{MAX_CHANGE_BYTES // 1024} KiB"
    assert rows["nesting of brackets in YAML"] == str(MOST_DEPTH)
    assert rows["axes of a tensor"] == str(MAX_RANK)
    levels = QueueConfig.model_fields["priority_levels"].metadata
    assert rows["levels of priority"] == str(next(m.le for m in levels if hasattr(m, "le")))
    assert rows["time to write the end of the event log"] == f"{LOG_CLOSE_S:g}s"
    assert rows["shapes whose bucket is cached"] == f"{MOST_KNOWN:,}"
    headers = f"{REMEMBERED_HEADERS:,}, of at most {REMEMBERED_HEADER_BYTES} bytes"
    assert rows["cached tensor headers"] == headers
    assert (
        rows["memory that a child process shares"] == f"{SHARED_MEMORY >> 30} GiB for each instance"
    )
    inline = f"{INLINE >> 10} KiB, a batch's inputs or outputs together"
    assert rows["tensors in a message to or from a child process"] == inline
    assert rows["a message to or from a child process"] == f"{MAX_MESSAGE >> 20} MiB"
    assert rows["bytes that wait for a child process"] == f"{MAX_UNSENT >> 20} MiB"
    assert rows["idle time of shared memory"] == f"{IDLE_S:g}s"
    written = f"{BURST_LINES}, then {LINES_PER_SECOND} a second"
    assert rows["lines of a child process in the log"] == written
    lines = f"{log_limits.BURST}, with a traceback {log_limits.TRACEBACKS}, then one every"
    interval = format_duration(log_limits.INTERVAL_NS)
    assert rows["lines of one kind in the log"] == f"{lines} {interval}"
    assert rows["kinds of lines that are told apart"] == str(log_limits.MAX_KINDS)
    printed = f"{log_limits.PRINTED_BURST} lines, then {SECOND // log_limits.PRINTED_INTERVAL_NS}"
    assert rows["what Python code prints"] == f"{printed} a second"
    assert rows["devices of one model"] == str(DEVICES)
    assert rows["values of a configuration, aliases counted"] == f"{MOST_VALUES:,}"
    days, size = LONGEST_NS / (24 * 3600 * SECOND), LARGEST_BYTES >> 50
    assert rows["a duration and a size of a configuration"] == f"{days:g} days, {size} PiB"
    assert rows["a file of labels"] == f"{MAX_LABELS_BYTES >> 20} MiB"
    assert rows["shapes whose service times are kept"] == str(MOST_SHAPES)
    assert rows["last answers as the server stops"] == f"{LAST_WRITES_S:g}s"
    held = rows["time for which a warm-up batch keeps its slot of the device"]
    assert held == f"{HELD_S:g}s"
    pause = rows["pause after a warm-up batch"]
    assert pause == f"{1 / SHARE - 1:g} times what it took, {LONGEST_PAUSE_S:g}s at most"
    close = rows["time to close an instance when nothing is left to answer"]
    assert close == f"{CLOSE_TIMEOUT_S:g}s"
    assert rows["last batches as the server stops"] == f"{CLOSE_TIMEOUT_S:g}s"
    assert rows["last HTTP answers as the server stops"] == f"{STOP_TIMEOUT_S}s"
    name = rows["a name from a request in an error message"]
    assert name == f"{MAX_NAME} characters"
    assert rows["text of an executor's error"] == f"{MAX_DESCRIPTION} characters"
    assert rows["open files of the process"].endswith(f", and {OTHER_FILES} beside")
    assert rows["HTTP connections"] == str(MAX_CONNECTIONS)
    assert rows["scrapes that wait at once"] == str(MAX_WAITING_SCRAPES)
    assert rows["viewers of the live view"] == str(MAX_VIEWERS)
    assert rows["time that a viewer's stream is open"] == f"{MAX_VIEW_S:g}s"
    assert rows["history of the live view"] == f"{HISTORY_S}s"
    assert rows["changes that the live view keeps"] == str(MAX_CHANGES)
    assert rows["text of a change in the live view"] == f"{MAX_CHANGE_CHARACTERS} characters"
    patience = rows["time to send a whole HTTP request, and to read an answer"]
    assert patience == f"{CLIENT_TIMEOUT_S:g}s"
    assert rows["headers of an HTTP request"] == f"{MAX_HEADER_BYTES // 1024} KiB"
    unread = rows["body of an HTTP request, or further requests behind it"]
    assert unread == f"{MAX_UNREAD_BYTES // 1024} KiB"
    assert IDLE_RATIO == 4, "a fifth of the loop"
    assert rows["rows of a batch that can be configured"] == f"{MOST_BATCH_ROWS:,}"
    assert rows["buckets of one axis"] == str(MOST_BUCKETS)
    offered_buckets = rows["buckets of what is offered to a model"]
    assert offered_buckets == f"{offered.MOST_BUCKETS} in a slot"
    slot = rows["a slot of the [scale signal](scaling.md#what-is-offered)"]
    assert slot == f"{offered.LONGEST_SLOT_NS // SECOND}s, ten of which are its mean"
    assert offered.SLOTS == 10, "ten of which"
    assert rows["buckets that are told apart in a model's load"] == str(MOST_FLOWS)
    assert rows["shared inputs of one request"] == f"{MAX_SHARED_INPUT_BYTES // 2**20} MiB"
    assert rows["the time to come back that a backend names"] == format_duration(MAX_RETRY_AFTER_NS)
    served = rows["time that an instance serves before its watch has the model loaded again"]
    assert served == f"{watching.SETTLED_S:g}s"
    paused = rows[
        "time between two calls of a watch that raises, and between two loads that it asks for"
    ]
    assert paused == f"{watching.FIRST_PAUSE_S:g}s, doubled up to {watching.LONGEST_PAUSE_S:g}s"
    assert rows["buckets that are warmed up"] == str(MAX_WARMUP_BUCKETS)
    assert rows["time to warm up buckets"] == format_duration(BUCKETS_NS)


def test_the_bounds_of_tracing() -> None:
    rows = dict(ROWS)
    assert rows["records whose spans are sent at once"] == str(tracing_sender.BLOCK)
    assert rows["share of a core that the thread which sends spans takes"] == "a half"
    assert tracing_sender.IDLE_RATIO == 1
    flush = "time to send the spans that wait when the server stops"
    assert rows[flush] == f"{tracing_sender.FLUSH_S:g}s"
    assert rows["batches of which requests have not ended"] == str(MOST_BATCHES)
    assert rows["links of one span"] == str(MAX_LINKS)
    longest, most = tracing_context.MAX_STATE, tracing_context.MAX_MEMBERS
    assert rows["the tracestate of a caller"] == f"{longest} characters, {most} members"
    name = "the caller's name of a request or tenant in a span"
    assert rows[name] == f"{MAX_ID} characters"
    assert f"{MAX_HEADER_FILE // 1024} KiB" in PAGE.split("`tracing.headers`")[0].splitlines()[-1]
    assert f"| `tracing.queue_size` | {TracingConfig().queue_size} |" in PAGE


def test_the_bounds_of_a_model_repository() -> None:
    rows = dict(ROWS)
    assert rows["models of a directory"] == f"{files.MAX_MODELS:,}"
    assert rows["files of one version"] == f"{files.MAX_FILES:,}"
    assert rows["folders below each other in a version"] == str(files.MAX_DEPTH)
    config = rows["a model's configuration, in its file or a load call"]
    assert config == f"{MAX_CONFIG_BYTES >> 10} KiB"
    overrides = rows["overrides in a model's folder"]
    assert overrides == f"{MAX_OVERRIDES_BYTES >> 10} KiB"
    again = (
        "time until a model whose backend is not up is tried again, after its `load_retry_timeout`"
    )
    assert f"| {again} | {RETRY_UNAVAILABLE_S:g}s |" in PAGE
    assert rows["time of one scan"] == f"{SCAN_TIMEOUT_S:g}s"


def test_the_bounds_of_neighbors() -> None:
    rows = dict(ROWS)
    assert rows["batches at a neighbor at once"] == str(MAX_IN_FLIGHT)
    assert rows["a message to or from a neighbor"].startswith(f"{(LARGEST_MESSAGE + 1) >> 30} GiB")
    assert rows["fields of a neighbor's answer"] == f"{MAX_OUTPUTS:,}"
    assert rows["the file of a header"] == f"{MAX_FILE >> 10} KiB"
    slack = rows["time added to a deadline that travels along"]
    assert slack == format_duration(round(DEADLINE_SLACK_S * SECOND))
    assert rows["time between two tries to connect"] == f"{RECONNECT_MS / 1000:g}s"
    assert rows["time without an acknowledgment"] == f"{UNACKNOWLEDGED_MS / 1000:g}s"
    aside = rows["regions of shared memory that are set aside"]
    assert aside == f"{MAX_ASIDE}, each for {ASIDE_S:g}s"


def test_the_bounds_of_what_a_caller_says() -> None:
    rows = dict(ROWS)
    fields = rows["inputs, outputs, raw contents and parameters of a request"]
    assert fields == f"{MAX_FIELDS:,} together"
    typed = rows["inputs beside raw contents, typed contents included"]
    assert typed == f"{MAX_NESTED >> 20} MiB in a request"
    assert rows["elements of BYTES inputs"] == f"{MAX_BYTES_ELEMENTS:,} in a request"
    parameters = rows["parameters of a request; its requested outputs"]
    assert parameters == f"{MAX_PARAMETERS >> 10} KiB each"
    texts = rows["a model's name and version, a request's id"]
    assert texts == f"{MAX_TEXT:,} bytes each"
    assert rows["a request that is not inference"] == f"{MAX_CONTROL_BYTES >> 20} MiB"
    assert rows["a tenant's name"] == f"{MAX_TENANT} characters"
    assert rows["metadata that is sent on"] == f"{MAX_FORWARDED >> 10} KiB"
    assert MAX_WAIT_NS == 365 * 24 * 3600 * SECOND, rows["a timeout or deadline of a caller"]
    assert rows["elements of a row that is classified"] == f"{MAX_WIDTH:,}"
    assert rows["classes of an answer"] == f"{MAX_CLASSES:,}, rows times classes"
    large = rows["a message that is read, or an answer that is made, on the event loop"]
    assert large == f"{LARGE_MESSAGE >> 20} MiB"
    framed = rows["bytes of large answers framed in one iteration (`builtin`)"]
    assert framed == f"{MAX_FRAMED_BYTES >> 20} MiB"
    assert rows["an iteration of the event loop"] == format_duration(STALL_NS)
    assert f"once in {LOG_INTERVAL_NS // SECOND} seconds" in PAGE
