"""Any configuration is read as it was written, in every form of protobuf's text and as JSON."""

import hypothesis.strategies as st
from google.protobuf import json_format, text_format
from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import given, settings

from batcher.errors import ConfigError
from batcher.protocol import model_config
from batcher.triton_models import model_of, parse_json, parse_text

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
SCALARS = {
    Field.TYPE_STRING: TEXTS,
    Field.TYPE_BOOL: st.booleans(),
    Field.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    Field.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    Field.TYPE_UINT32: st.integers(0, 2**32 - 1),
    Field.TYPE_UINT64: st.integers(0, 2**64 - 1),
    Field.TYPE_FLOAT: st.floats(width=32, allow_nan=False, allow_infinity=False),
    Field.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
}


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def scalar_of(field):
    if field.enum_type is not None:
        return st.sampled_from([each.number for each in field.enum_type.values])
    return SCALARS[field.type]


def fill_map(draw, field, value, depth):
    key, values = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    for each in draw(st.lists(SCALARS[key.type], max_size=2, unique=True)):
        if values.message_type is not None:
            fill(draw, value[each], depth)
        else:
            value[each] = draw(SCALARS[values.type])


def fill(draw, message, depth):
    """Set some fields of a message to anything that fits."""
    fields = list(message.DESCRIPTOR.fields)
    if not fields or depth == 0:
        return message
    for field in draw(st.lists(st.sampled_from(fields), max_size=4, unique_by=lambda f: f.name)):
        if field.containing_oneof and message.WhichOneof(field.containing_oneof.name):
            continue
        value = getattr(message, field.name)
        if is_map(field):
            fill_map(draw, field, value, depth - 1)
        elif field.message_type is not None:
            several = draw(st.integers(0, 2)) if field.is_repeated else 1
            for _ in range(several):
                each = value.add() if field.is_repeated else value
                each.SetInParent()
                fill(draw, each, depth - 1)
        elif field.is_repeated:
            value.extend(draw(st.lists(scalar_of(field), max_size=3)))
        else:
            setattr(message, field.name, draw(scalar_of(field)))
    return message


@st.composite
def configurations(draw):
    return fill(draw, model_config.ModelConfig(), 5)


def paths_of(message, path=()):
    """The path of every field that is set."""
    for field, value in message.ListFields():
        here = (*path, field.name)
        yield here
        if is_map(field):
            continue
        if field.message_type is not None:
            for place, each in enumerate(value) if field.is_repeated else [(None, value)]:
                yield from paths_of(each, here if place is None else (*here, place))
        elif field.is_repeated:
            yield from ((*here, place) for place in range(len(value)))


@settings(max_examples=200, deadline=None)
@given(
    configurations(),
    st.fixed_dictionaries(
        {
            "as_one_line": st.booleans(),
            "use_short_repeated_primitives": st.booleans(),
            "pointy_brackets": st.booleans(),
            "as_utf8": st.booleans(),
        }
    ),
)
def test_text_is_read_as_it_was_written(message, form):
    text = text_format.MessageToString(message, **form)
    found = parse_text(text)
    assert found.message == message
    assert found.unknown == ()
    lines = text.split("\n")
    for path in paths_of(message):
        assert found.lines[path] >= 1
        if isinstance(path[-1], str):
            assert path[-1] in lines[found.lines[path] - 1]


@settings(max_examples=200, deadline=None)
@given(configurations(), st.booleans())
def test_json_is_read_as_it_was_written(message, names):
    text = json_format.MessageToJson(message, preserving_proto_field_name=names)
    found = parse_json(text)
    assert found.message == message
    assert found.unknown == ()


def problems(call):
    try:
        call()
    except ConfigError as error:
        return error.problems
    return None


@settings(max_examples=200, deadline=None)
@given(configurations())
def test_what_is_read_is_a_model_or_says_what_is_allowed(message):
    config = parse_text(text_format.MessageToString(message))
    found = problems(lambda: model_of(config))
    assert found is None or all("allowed: " in each or "needed: " in each for each in found), found


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("nameinput{}[]<>:,;\"'\\ #\n-0123456789_.")))
def test_any_text_is_read_or_refused(text):
    assert problems(lambda: parse_text(text)) != []
