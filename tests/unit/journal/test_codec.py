import math
from dataclasses import MISSING, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.core.commands import (
    Blame,
    Dispatch,
    MissedTime,
    Outcome,
    Part,
    PolicyFailed,
    Reason,
    RefusalCause,
    Settle,
)
from batcher.core.events import (
    BatchProgress,
    Failure,
    FailureCause,
    InstanceUp,
    ModelConfigured,
    RepliesTook,
    RequestArrived,
    Timings,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, ModelSettings, NoBatching, QueueLimits
from batcher.core.state import (
    Bisection,
    SavedBatch,
    SavedInstance,
    SavedModel,
    SavedRequest,
    State,
)
from batcher.journal.codec import CodecError, Decoder, Encoder, schema, unpack
from batcher.simulation import Driver
from batcher.testing.strategies import timelines

ints = st.integers(-(2**63), 2**64 - 1)
texts = st.text()
maybe = st.none() | ints
blames = st.none() | st.builds(
    Blame, st.sampled_from(RefusalCause), st.sampled_from(MissedTime), ints
)
ids = st.lists(ints, max_size=4).map(tuple)
shapes = st.lists(st.lists(ints, max_size=3).map(tuple), max_size=3).map(tuple)
failures = st.builds(Failure, ints, st.sampled_from(FailureCause))
events = st.one_of(
    st.builds(
        RequestArrived,
        *(ints, texts, ints, ints, shapes, texts, ints, maybe, maybe, ints, texts),
        st.none() | ints | texts,
    ),
    st.builds(
        BatchProgress,
        *(ints, ids, st.lists(failures, max_size=2).map(tuple), st.booleans()),
        st.none() | st.builds(Timings, ints, ints, ints),
    ),
    st.builds(RepliesTook, texts, ints, ints),
    st.builds(ModelConfigured, texts, st.builds(ModelSettings, ints, st.just(NoBatching()))),
)
commands = st.one_of(
    st.builds(
        Dispatch,
        *(ints, texts, texts, shapes),
        st.lists(st.builds(Part, ints, ints, ints), max_size=3).map(tuple),
        ints,
    ),
    st.builds(Settle, ids, st.sampled_from(Outcome), st.sampled_from(Reason), maybe, blames),
    st.builds(PolicyFailed, texts, texts),
)


@pytest.fixture(scope="module")
def decoder():
    return Decoder(schema())


@pytest.mark.slow
@given(st.lists(events), st.lists(commands))
def test_events_and_commands_come_back_as_they_were(events, answered):
    decoder = Decoder(schema())
    read = unpack(Encoder().pack([events, answered]))
    assert decoder.events(read[0]) == events
    assert decoder.commands(read[1]) == answered


@pytest.mark.slow
@given(timelines())
def test_a_scheduler_restored_from_bytes_does_what_the_first_one_does(story):
    first = Scheduler()
    Driver(first, lambda dispatch: 2_000_000).run(story)
    state = first.snapshot()
    read = Decoder(schema()).state(unpack(Encoder().pack(state)))
    assert read == state
    assert repr(read) == repr(state)  # 1 and 1.0 are equal, and not the same
    assert Scheduler.restore(read).snapshot() == state


@pytest.mark.parametrize("number", [0.1, -0.0, 1e-320, math.inf, 1e308, 3, 3.0])
def test_floats_are_exact(decoder, number):
    settings = ModelSettings(1, Adaptive(number, 2, number), QueueLimits(tenants=(("a", number),)))
    (back,) = decoder.events(unpack(Encoder().pack([ModelConfigured("m", settings)])))
    assert repr(back.settings.policy.utilization_target) == repr(number)
    assert repr(back.settings.queue.tenants[0][1]) == repr(number)


def test_text_that_is_no_unicode_survives(decoder):
    failed = [PolicyFailed("m", "got \udcff")]
    assert decoder.commands(unpack(Encoder().pack(failed))) == failed


def test_what_is_no_record_of_the_core_cannot_be_recorded():
    encoder = Encoder()
    with pytest.raises(CodecError, match="a set cannot be recorded"):
        encoder.pack([{1}])
    with pytest.raises(CodecError, match="cannot be recorded"):
        encoder.pack(1j)
    assert unpack(encoder.pack(1)) == 1


def changed(name, fields=None, rename=None):
    """The schema, one record of it changed."""
    return tuple(
        (rename or each, names if fields is None else fields) if each == name else (each, names)
        for each, names in schema()
    )


def test_a_log_without_a_field_gets_its_default():
    fields = tuple(name for name, _ in [(n, 0) for n in dict(schema())["InstanceUp"][:-1]])
    decoder = Decoder(changed("InstanceUp", fields))
    assert decoder.lacking == ("InstanceUp.overlaps",)
    whole = unpack(Encoder().pack([InstanceUp("i", 1, "m", "d", 2, ((1, 2),))]))
    assert decoder.events([whole[0][:-1]]) == [InstanceUp("i", 1, "m", "d", 2, ((1, 2),))]


def test_fields_are_found_by_name():
    names = dict(schema())["RepliesTook"]
    decoder = Decoder(changed("RepliesTook", names[::-1]))
    code, *values = unpack(Encoder().pack(RepliesTook("m", 1, 2)))
    assert decoder.events([(code, *values[::-1])]) == [RepliesTook("m", 1, 2)]


def test_a_log_with_a_field_that_is_not_known_is_refused():
    fields = (*dict(schema())["InstanceUp"], "color")
    with pytest.raises(CodecError, match=r"it has InstanceUp\.color, which this version does not"):
        Decoder(changed("InstanceUp", fields))


def test_a_log_without_a_field_that_has_no_default_is_refused():
    with pytest.raises(CodecError, match=r"it lacks InstanceUp\.device, which has no default"):
        Decoder(changed("InstanceUp", ("instance", "incarnation", "model")))


STATE = (
    State,
    SavedModel,
    SavedRequest,
    Bisection,
    SavedInstance,
    SavedBatch,
)


@pytest.mark.parametrize(
    ("record", "field"), [(record, field) for record in STATE for field in fields(record)]
)
def test_a_state_without_a_field_gets_its_default_or_is_refused(record, field):
    name = record.__name__
    rest = tuple(each for each in dict(schema())[name] if each != field.name)
    if field.default is MISSING:
        with pytest.raises(CodecError, match=rf"it lacks {name}\.{field.name}, which has no def"):
            Decoder(changed(name, rest))
    else:
        assert Decoder(changed(name, rest)).lacking == (f"{name}.{field.name}",)


def test_settings_in_a_state_get_their_defaults():
    first = Scheduler()
    first.handle([ModelConfigured("m", ModelSettings(4, NoBatching()))], 0)
    state = first.snapshot()
    names = dict(schema())["ModelSettings"]
    assert names[-1] == "idempotent"
    decoder = Decoder(changed("ModelSettings", names[:-1]))
    assert decoder.lacking == ("ModelSettings.idempotent",)
    code = [name for name, _ in schema()].index("ModelSettings")

    def older(value):
        if not isinstance(value, tuple):
            return value
        mine = value[:-1] if value[:1] == (code,) and len(value) == len(names) + 1 else value
        return tuple(older(each) for each in mine)

    assert decoder.state(older(unpack(Encoder().pack(state)))) == state


def test_a_record_that_is_not_known_is_refused_where_it_appears():
    decoder = Decoder(changed("RepliesTook", rename="RepliesWent"))
    with pytest.raises(CodecError, match="it has a RepliesWent, which this version does not know"):
        decoder.events(unpack(Encoder().pack([RepliesTook("m", 1, 2)])))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([(999, 1)], "got 999 where a record's code belongs"),
        ([7], "got None where a record's code belongs"),
        ([Part(1, 2, 3)], "a Part has no place there"),
        ([Settle((1,), Outcome.OK)], "a Settle has no place there"),
    ],
)
def test_what_is_out_of_place_is_refused(decoder, values, message):
    with pytest.raises(CodecError, match=message):
        decoder.events(unpack(Encoder().pack(values)))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (1, "one", "RequestArrived: got 'one' where int belongs"),
        (1, True, "RequestArrived: got True where int belongs"),
        (8, 1.5, "RequestArrived: got 1.5 where NoneType or int belongs"),
        (5, 3, "RequestArrived: got 3 where an array belongs"),
    ],
)
def test_a_value_of_another_type_is_refused(decoder, field, value, message):
    (read,) = unpack(Encoder().pack([RequestArrived(1, "m", 1, 0, (), "", 0)]))
    broken = (*read[:field], value, *read[field + 1 :])
    with pytest.raises(CodecError, match=message):
        decoder.events([broken])


def test_an_unknown_reason_and_a_missing_field_are_refused(decoder):
    (read,) = unpack(Encoder().pack([Settle((1,), Outcome.OK)]))
    with pytest.raises(CodecError, match="'bored' is no Outcome that this version knows"):
        decoder.commands([(read[0], read[1], "bored", *read[3:])])
    with pytest.raises(CodecError, match="a Settle of 4 fields, not 5"):
        decoder.commands([read[:-1]])


def test_bytes_that_are_no_msgpack_are_refused():
    for data in (b"", b"\xc1", b"\x92\x01", b"\x01\x02"):
        with pytest.raises(CodecError):
            unpack(data)


def test_a_number_beyond_64_bits_is_recorded_as_the_nearest_that_fits():
    read = unpack(Encoder().pack([RepliesTook("m", 2**70, -(2**70)), RepliesTook("m", 1, 2)]))

    assert Decoder(schema()).events(read) == [
        RepliesTook("m", 2**64 - 1, -(2**63)),
        RepliesTook("m", 1, 2),
    ]
