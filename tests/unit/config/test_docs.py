import json
import re
from pathlib import Path

import pytest

from batcher.config import (
    BatchingConfig,
    ControlConfig,
    ControlsConfig,
    DeviceConfig,
    FlightRecorderConfig,
    HeaderFile,
    HealthConfig,
    InputConfig,
    JournalConfig,
    LikeConfig,
    MetricsConfig,
    ModelConfig,
    ModelRepositoryConfig,
    OutputConfig,
    PaddingConfig,
    QueueConfig,
    SequenceConfig,
    ServerConfig,
    StateConfig,
    TlsConfig,
    TracingConfig,
    TracingTlsConfig,
    WarmupConfig,
    json_schema,
    load_config,
    parse_config,
)

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
SECTIONS = {
    "server": ServerConfig,
    "server.tls": TlsConfig,
    "model_repository": ModelRepositoryConfig,
    "models[]": ModelConfig,
    "models[].batching": BatchingConfig,
    "models[].sequence": SequenceConfig,
    "models[].sequence.state[]": StateConfig,
    "models[].sequence.controls": ControlsConfig,
    "models[].sequence.controls.*": ControlConfig,
    "models[].queue": QueueConfig,
    "models[].padding[]": PaddingConfig,
    "models[].inputs[]": InputConfig,
    "models[].outputs[]": OutputConfig,
    "models[].outputs[].like": LikeConfig,
    "models[].warmup": WarmupConfig,
    "models[].health": HealthConfig,
    "devices": DeviceConfig,
    "journal": JournalConfig,
    "flight_recorder": FlightRecorderConfig,
    "tracing": TracingConfig,
    "tracing.headers.*": HeaderFile,
    "tracing.tls": TracingTlsConfig,
    "metrics": MetricsConfig,
}


def keys_of_the_page(section):
    """Key -> (default, meaning), from the table below the section's heading."""
    (body,) = re.findall(
        rf"^##+ `{re.escape(section)}`\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    rows = re.findall(r"^\| `(\w+)` \| .+? \| (.+?) \| (.+) \|$", body, re.MULTILINE)
    return {key: (default, meaning) for key, default, meaning in rows}


def keys_of_the_models(section):
    schema = SECTIONS[section].model_json_schema(mode="serialization")
    rows = {}
    for key, field in SECTIONS[section].model_fields.items():
        default = schema["properties"][key].get("default")
        if field.is_required():
            shown = "required"
        elif field.default_factory is not None:
            shown = "`{}`"
        elif isinstance(default, dict):
            shown = "see below"
        else:
            text = default if isinstance(default, str) and key != "version" else json.dumps(default)
            shown = f"`{text}`"
        rows[key] = (shown, " ".join(field.description.split()))
    return rows


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_describes_every_key_as_the_models_do(section):
    assert keys_of_the_page(section) == keys_of_the_models(section)


def test_the_examples_of_the_page_are_right():
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        parse_config(example, "docs/configuration.md", {})


def test_the_example_file_is_right():
    assert load_config(ROOT / "examples/hello.yaml", {}).models[0].name == "hello"


def test_the_exported_schema_is_current():
    """Make it again with `batcher schema > docs/config.schema.json`."""
    exported = json.loads((ROOT / "docs/config.schema.json").read_text(encoding="utf-8"))
    assert exported == json_schema()
