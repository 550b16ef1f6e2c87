import math

import pytest

from batcher.config.document import MOST_DEPTH, read_document


@pytest.fixture
def read():
    """The value of a text that has no problems."""

    def call(text, **environ):
        document = read_document(text, environ)
        assert document.problems == []
        return document.value

    return call


@pytest.fixture
def wrong():
    """The problems of a text: (path, message) pairs."""

    def call(text, **environ):
        document = read_document(text, environ)
        assert document.problems
        return document.problems

    return call


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        ("1_000", "1_000"),
        ("true", True),
        ("False", False),
        ("12", 12),
        ("-12", -12),
        ("007", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("~", None),
        ("null", None),
        ('"12"', "12"),
        ("!!str 12", "12"),
        ("", None),
        ("[1, [a]]", [1, ["a"]]),
    ],
)
def test_scalars_follow_the_core_schema(read, text, expected):
    assert read(text) == expected


def test_lines_are_those_of_keys_and_items():
    document = read_document("a:\n  - x\n  - b:\n      c\n", {})
    assert document.line(("a",)) == 1
    assert document.line(("a", 0)) == 2
    assert document.line(("a", 1, "b")) == 3
    assert document.line(("a", 1, "missing", "below")) == 3


def test_merge_keys_give_way_to_written_ones_and_earlier_ones(read):
    text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz: {<<: [*x, *y], a: 0}\nw: {<<: *y}"
    assert read(text)["z"] == {"a": 0, "b": 1, "c": 2}
    assert read(text)["w"] == {"b": 2, "c": 2}


def test_a_merge_of_something_else_is_refused(wrong):
    assert wrong("a: {<<: 3}") == [(("a",), "<< merges mappings only")]


def test_a_key_given_twice_names_both_lines(wrong):
    document = read_document("a: 1\nb: {c: 1,\n  c: 2}\n", {})
    assert document.problems == [(("b", "c"), "given twice, again on line 3; allowed: once")]
    assert document.line(("b", "c")) == 2


@pytest.mark.parametrize(
    ("text", "named"), [("1: x", "the key 1"), ("null: x", "the key null"), ("[a]: x", "the key")]
)
def test_keys_are_text(wrong, text, named):
    ((path, message),) = wrong(text)
    assert path == ()
    assert message.startswith(f"{named} on line 1 is not text")


@pytest.mark.parametrize(
    "text", ["!!python/object:os.system x", "!local {a: 1}", "!!set {a}", "!!binary eA=="]
)
def test_tags_are_refused(wrong, text):
    ((_, message),) = wrong(text)
    assert message.startswith("got the tag !")


def test_a_number_tag_on_text_is_refused(wrong):
    assert wrong("a: !!int x") == [(("a",), "got x; allowed: a number")]
    assert wrong("a: !!float x") == [(("a",), "got x; allowed: a number")]


def test_broken_yaml_names_its_line(wrong):
    document = read_document("a: 1\nb: [1,\n", {})
    ((path, message),) = document.problems
    assert path == ()
    assert message.startswith("not valid YAML: while parsing a flow")
    assert document.line(()) == 3


def test_a_reference_in_a_flow_list_is_reported_to_use_quotes(wrong):
    ((_, message),) = wrong("a: [${A}]")
    assert 'write "${NAME}" in quotes' in message


def test_tabs_are_named(wrong):
    ((_, message),) = wrong("a:\n\tb: 1")
    assert "spaces, not tabs" in message


def test_two_documents_and_control_characters_are_refused(wrong):
    assert "single document" in wrong("a: 1\n---\nb: 2")[0][1]
    assert "not valid YAML" in wrong("a: \x00")[0][1]


def test_a_text_that_would_explode_is_refused(wrong):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 8)
    )
    assert "more than 100000 values" in wrong(bomb)[0][1]


def test_a_text_that_never_ends_is_refused(wrong):
    assert "nested too deeply" in wrong("a: &a [*a]")[0][1]
    assert "nested too deeply" in wrong("- " * 1500 + "x")[0][1]


def test_brackets_are_bounded_because_the_parser_is_slow_with_many(read, wrong):
    assert read(MOST_DEPTH * "[" + MOST_DEPTH * "]")
    for bracket in "[{":
        assert "allowed: 64 open brackets" in wrong(10_000 * bracket)[0][1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "one"),
        ("x${A}y${A}", "xoneyone"),
        ("${N}", 8),
        ('"${N}"', "8"),
        ("'${N}'", "8"),
        ("${NOTHING:-null}", None),
        ("${NOTHING:-}", None),
        ('"${NOTHING:-}"', ""),
        ("${EMPTY:-fallback}", "fallback"),
        ('"${EMPTY}"', ""),
        ("${A:-fallback}", "one"),
        ("${NOTHING:-a:-b}", "a:-b"),
        ("$${A}", "${A}"),
        ("cost $5", "cost $5"),
        ("${TREE}", "{a: 1}"),
        ("${MERGE}", "<<"),
    ],
)
def test_references_read_the_environment(read, text, expected):
    environ = {"A": "one", "N": "8", "EMPTY": "", "TREE": "{a: 1}", "MERGE": "<<"}
    assert read(text, **environ) == expected


def test_an_unset_variable_is_named(wrong):
    assert wrong("a: [1, '${NOPE}/x']") == [
        (("a", 1), "NOPE is not set in the environment; set it or write ${NOPE:-default}")
    ]


@pytest.mark.parametrize("text", ["${1A}", "${A-b}", "${", "${}", "x ${A"])
def test_a_malformed_reference_is_reported_the_forms(wrong, text):
    ((path, message),) = wrong(f"a: '{text}'", A="1")
    assert path == ("a",)
    assert "allowed: ${NAME}, ${NAME:-default}, or $${" in message
