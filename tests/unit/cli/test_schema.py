import json

from batcher.config import json_schema


def test_the_schema_is_printed_as_json(run):
    result = run("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json_schema()
