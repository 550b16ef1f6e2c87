import pytest

from batcher.clock import SECOND


def test_nothing_is_recorded_unless_it_is_asked_for(parse):
    config = parse("models: [{name: m, executor: e}]")
    assert config.journal is None
    assert config.flight_recorder is None


def test_a_folder_is_enough(parse):
    config = parse("""
        models: [{name: m, executor: e}]
        journal: {folder: /j}
        flight_recorder: {folder: /f}
    """)
    assert str(config.journal.folder) == "/j"
    assert config.journal.segment_duration == 10 * SECOND
    assert config.flight_recorder.duration == 180 * SECOND
    assert config.flight_recorder.min_on_time_ratio == 0.9


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (
            "journal: {}",
            "journal.folder (line 3): missing; needed: A folder for the files of the log alone",
        ),
        (
            "journal: {folder: j, segment_duration: 0}",
            "journal.segment_duration (line 3): got 0; allowed: longer",
        ),
        (
            "journal: {folder: j, max_size: 5KiB}",
            'journal.max_size (line 3): got "5KiB"; allowed: at least 1MiB',
        ),
        (
            "flight_recorder: {folder: f, max_memory: 3KiB}",
            'flight_recorder.max_memory (line 3): got "3KiB"; allowed: at least 1MiB',
        ),
        (
            "flight_recorder: {folder: f, min_on_time_ratio: 90}",
            "flight_recorder.min_on_time_ratio (line 3): got 90; allowed: 1.0 or less",
        ),
        (
            "flight_recorder: {folder: f, min_interval: 5m}",
            'flight_recorder.min_interval (line 3): got "5m"; allowed: at most duration, which is 3m',
        ),
    ],
)
def test_what_is_wrong_is_reported(problems, section, problem):
    (found,) = problems(f"""
        models: [{{name: m, executor: e}}]
        {section}
    """)
    assert found.startswith(problem)


def test_the_text_of_the_file_is_kept_as_it_stands(parse):
    text = 'models: [{name: m, executor: e, options: {key: "${TOKEN:-no}"}}]'
    assert parse(text).text.strip() == text


def test_equal_configurations_may_come_from_different_texts(parse):
    one, two = parse("models: [{name: m, executor: e}]"), parse("models: [{executor: e, name: m}]")
    assert one == two
