"""What a call gives, raises and returns: answers, row errors, and failures that name the output."""

import asyncio
import logging

import numpy as np
import pytest

from batcher import plugins
from batcher.executor import Batch, ExecutionError
from batcher.executors.python import PythonExecutor

FLOATS = "x: Annotated[np.ndarray, Rows('FP32', 2)]"
THREE = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}
TEXTS = {"x": np.array([b"a", b"\xff", "\u00e9".encode()], object)}


def failure(loaded, inputs, **fields):
    with pytest.raises(ExecutionError) as caught:
        loaded.run(inputs, **fields)
    assert "\n" not in str(caught.value)
    return caught.value


def test_bytes_are_bytes_and_str_is_utf_8(load):
    raw = load("def f(x: list[bytes]) -> list[bytes]: return [v[::-1] for v in x]").run(TEXTS)
    assert raw.outputs["output"].tolist() == [b"a", b"\xff", b"\xa9\xc3"]
    for source in (
        "def f(x: list[str]) -> list[str]: return [v.upper() for v in x]",
        "def f(x: str) -> str: return v(x)\ndef v(x): return x.upper()",
        "async def f(x: str) -> str: return x.upper()",
    ):
        result = load(source).run(TEXTS)
        assert result.outputs["output"].tolist() == [b"A", b"", "\u00c9".encode()]
        assert result.row_errors == {1: "input 'x' is not UTF-8"}
    array = load(
        "def f(x: Annotated[np.ndarray, Rows('BYTES')]) -> list[int]: return [len(v) for v in x]"
    )
    assert array.run(TEXTS).outputs["output"].tolist() == [1, 1, 2]


def test_inputs_cannot_be_written_to_however_they_came(load):
    loaded = load(
        f"def f({FLOATS}) -> Annotated[np.ndarray, Rows('FP32', 2)]:\n    x += 1\n    return x"
    )
    assert "read-only" in str(failure(loaded, {"x": np.zeros((2, 2), np.float32)}))


@pytest.mark.parametrize("coroutine", ["", "async "])
def test_rows_fail_alone(load, coroutine):
    loaded = load(f"""
    {coroutine}def f(x: float) -> Annotated[np.ndarray, Row("FP32", -1)]:
        if x < 0: raise RowError("x is\\nnegative")
        if x > 9: raise ValueError(x)
        return np.full(3, x, np.float32)
    """)
    result = loaded.run({"x": np.array([-1.0, 2.0, 10.0])})
    assert result.row_errors == {0: "x is negative", 2: "10.0"}
    assert result.outputs["output"].tolist() == [[0, 0, 0], [2, 2, 2], [0, 0, 0]]
    all_failed = loaded.run({"x": np.array([-1.0, 11.0])})
    assert all_failed.row_errors == {0: "x is negative", 1: "11.0"}
    assert all_failed.outputs["output"].tolist() == [[0], [0]]


@pytest.mark.parametrize("coroutine", ["", "async "])
@pytest.mark.parametrize(
    ("raised", "said", "cause"),
    [
        ("KeyError('a')", "f raised KeyError: 'a'", "unknown"),
        ("RuntimeError('x' * 10**7)", "f raised RuntimeError: xxx", "unknown"),
        ("MemoryError('9 GiB')", "f raised MemoryError: 9 GiB", "memory"),
        ("SystemExit(3)", "f raised SystemExit: 3", "unknown"),
        ("KeyboardInterrupt()", "f raised KeyboardInterrupt", "unknown"),
        ("asyncio.CancelledError()", "f raised CancelledError", "unknown"),
        ("Odd()", "f raised Odd", "unknown"),
        ("ExecutionError('no GPU', cause='device')", "no GPU", "device"),
    ],
)
def test_other_errors_fail_the_call(load, coroutine, raised, said, cause):
    odd = "class Odd(Exception):\n    def __str__(self): raise ValueError"
    for style in ("x: float) -> float", "x: list[float]) -> list[float]"):
        loaded = load(f"{odd}\n{coroutine}def f({style}: raise {raised}")
        error = failure(loaded, {"x": np.array([1.0, 2.0])})
        assert str(error).startswith(said)
        assert len(str(error)) < 500
        assert error.cause == cause


def test_a_batch_with_a_wrong_row_is_searched_for_it(load):
    error = failure(
        load("def f(x: list[float]) -> list[float]: raise RowError('negative')"), {"x": np.zeros(2)}
    )
    assert (str(error), error.cause) == ("negative", "input")
    known = load("""
    def f(x: list[float]) -> list[float]:
        return BatchResult({"output": x}, {i: "negative" for i, v in enumerate(x) if v < 0})
    """).run({"x": np.array([1.0, -1.0])})
    assert known.row_errors == {1: "negative"}
    assert known.outputs["output"].tolist() == [1, -1]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "the request parameter 'p' is missing"),
        ({"p": "3"}, "the request parameter 'p' must be a whole number"),
        ({"p": True}, "the request parameter 'p' must be a whole number"),
    ],
)
def test_a_wrong_request_parameter_is_the_callers(load, parameters, said):
    for style in ("x: float, {}) -> float", "x: list[float], {}) -> list[float]"):
        source = f"def f({style.format('p: Annotated[int, Parameter()]')}: return x"
        result = load(source).run({"x": np.zeros(2)}, parameters=parameters)
        assert result.row_errors == {0: said, 1: said}
        assert result.outputs["output"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "f returned None; allowed: a value for output y"),
        ("{'z': x}", "f returned no output 'y'"),
        ("{'y': None}", "f returned no output 'y'"),
        ("(v for v in x)", "f returned a generator; allowed: "),
        ("asyncio.sleep(0)", "f returned a coroutine; allowed: "),
        ("x[:1]", "a wrong output 'y': its shape is [1, 2]; allowed: [3, 2]"),
        ("x[0]", "its shape is [2]; allowed: [3, 2]"),
        ("x[:, :1]", "its shape is [3, 1]; allowed: [3, 2]"),
        ("x.astype(float)", "its dtype is float64, not float32"),
        ("[v.astype(float) for v in x]", "its dtype is float64, not float32"),
        ("[[1.0], [2.0, 3.0], []]", "it cannot become an array of float32"),
        ("[['a', 'b']] * 3", "its values are <U1, not float32"),
        ("object()", "its values are object, not float32"),
        ("'text'", "its values are <U4, not float32"),
    ],
)
def test_a_wrong_output_is_named(load, returned, said):
    outputs = [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
    assert said in str(failure(load(f"def f({FLOATS}): return {returned}", outputs=outputs), THREE))


@pytest.mark.parametrize(
    ("kind", "returned", "said"),
    [
        ("list[str]", "[1, 2, 3]", "it has int; allowed: str and bytes"),
        ("list[str]", "['a', 'b']", "its shape is [2]; allowed: [3]"),
        ("list[str]", "['\\ud800'] * 3", "text that UTF-8 cannot encode"),
        ("list[int]", "[1.5] * 3", "its values are float64, not int64"),
        ("list[int]", "[10**30] * 3", "not int64"),
        ("list[bool]", "[1] * 3", "its values are int64, not bool"),
        ("Annotated[list[int], Rows('UINT8')]", "[256] * 3", "outside of 0 to 255 (uint8)"),
        ("tuple[list[int], list[int]]", "([1] * 3,)", "f returned 1 values; allowed: values for output0, output1"),
        ("tuple[list[int], list[int]]", "3", "f returned int; allowed: values for output0, output1"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(load, kind, returned, said):
    assert said in str(failure(load(f"def f({FLOATS}) -> {kind}: return {returned}"), THREE))


def test_rows_of_different_shapes_are_named(load):
    source = "def f(x: float) -> Annotated[np.ndarray, Row('FP32', -1)]: return np.ones(int(x), np.float32)"
    assert "it cannot become an array of float32" in str(
        failure(load(source), {"x": np.array([1.0, 2.0])})
    )


def test_numbers_and_texts_become_the_declared_datatypes(load):
    loaded = load(f"""
    def f({FLOATS}) -> tuple[
        Annotated[np.ndarray, Rows("FP16", 1)], Annotated[list[int], Rows("UINT8")], list[float], list[bool], list[str]
    ]:
        return [[1], [2.5], [3]], (1, 2, 255), np.float64(1) * np.ones(3), [True, False, np.True_], np.array(["a", "b", "c"])
    """)
    outputs = loaded.run(THREE).outputs
    assert [array.tolist() for array in outputs.values()] == [
        [[1], [2.5], [3]], [1, 2, 255], [1, 1, 1], [True, False, True], [b"a", b"b", b"c"],
    ]  # fmt: skip
    assert [str(array.dtype) for array in outputs.values()] == [
        "float16",
        "uint8",
        "float64",
        "bool",
        "object",
    ]


def test_only_outputs_that_are_wanted_are_made(load):
    loaded = load("def f(x: float) -> tuple[float, str]: return x, 1")
    assert set(loaded.run({"x": np.zeros(2)}, outputs=frozenset({"output0"})).outputs) == {
        "output0"
    }
    assert "it has int" in str(failure(loaded, {"x": np.zeros(2)}))


def test_an_input_that_is_absent_leaves_the_default(load):
    loaded = load("def f(x: float, y: float = 5.0) -> float: return x + y")
    assert loaded.run({"x": np.zeros(2)}).outputs["output"].tolist() == [5, 5]
    assert loaded.run({"x": np.zeros(2), "y": np.ones(2)}).outputs["output"].tolist() == [1, 1]
    all_optional = load("def f(x: float = 3.0) -> float: return x")
    assert all_optional.run({}, rows=2).outputs["output"].tolist() == [3, 3]


def test_kinds_of_results_are_remembered_up_to_a_limit(load):
    loaded = load("def f(x: float) -> float: return type('Own', (dict,), {})(output=x)")
    assert loaded.run({"x": np.arange(40.0)}).outputs["output"].tolist() == list(range(40))
    assert len(loaded.executor._model.answers._readers) == 16


def test_a_function_can_have_the_batch_itself(load):
    loaded = load(
        "def f(x: list[float], batch: Batch) -> list[int]: return [batch.deadline_ns or 0] * batch.rows"
    )
    assert loaded.run({"x": np.zeros(2)}, deadline_ns=7).outputs["output"].tolist() == [7, 7]


def test_rows_of_async_code_run_at_the_same_time(load):
    loaded = load("""
    running, most = 0, 0
    async def f(x: float) -> int:
        global running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return most
    """)
    assert loaded.run({"x": np.zeros(5)}).outputs["output"].tolist() == [5] * 5


async def test_a_cancelled_call_cancels_its_rows(write, context):
    write("""
    ended = []
    async def f(x: float) -> float:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(x)
    """)
    given = context(target="given.py:f")
    executor = plugins.for_model(PythonExecutor, given)()
    await executor.load(given)
    task = asyncio.ensure_future(executor.execute(Batch({"x": np.arange(3.0)}, 3)))
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(executor._call.__globals__["ended"]) == [0, 1, 2]


def test_many_values_are_converted_on_a_thread(load):
    loaded = load("async def f(x: list[float]) -> list[float]: return [2 * v for v in x]")
    x = np.arange(20_000.0)
    assert (loaded.run({"x": x}).outputs["output"] == 2 * x).all()


def test_what_code_prints_goes_to_the_log_and_not_to_standard_output(load, caplog, capsys):
    caplog.set_level(logging.INFO)
    loaded = load("""
    import sys
    print("importing")
    class f:
        def __init__(self): print("making")
        def __call__(self, x: float) -> float:
            print("row", x, end="")
            print(" of\\nmany")
            sys.stdout.write("y" * 100_000)
            sys.stdout.flush()
            sys.stdout.close()
            return x
        def close(self): print("closing")
    """)
    loaded.run({"x": np.array([1.0])})
    loaded.close()
    print("of the server")  # noqa: T201
    assert capsys.readouterr().out == "of the server\n"
    lines = [each.getMessage() for each in caplog.records if "printed" in each.getMessage()]
    assert "m printed: making" in lines
    assert "m printed: row 1.0 of" in lines
    assert max(map(len, lines)) < 500


def test_what_code_prints_goes_to_standard_error_where_nothing_is_logged(load, capsys, monkeypatch):
    monkeypatch.setattr(
        logging.getLogger("batcher.executors.python.printing"), "hasHandlers", lambda: False
    )
    load("print('importing')\ndef f(x: float) -> float: ...")
    assert capsys.readouterr() == ("", "importing\n" * 1)


def test_what_a_function_raises_is_logged_with_its_place_now_and_then(load, caplog):
    loaded = load("def f(x: float) -> float: return 1 / x")
    for _ in range(3):
        failure(loaded, {"x": np.zeros(1)})
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert record.getMessage() == "m: f raised"
    assert record.exc_info[0] is ZeroDivisionError


def test_outputs_of_a_batch_whose_rows_all_fail_are_as_long_as_the_inputs_they_follow(load):
    loaded = load("""
    class Out(TypedDict):
        same: Annotated[np.ndarray, Row("FP32", "seq", 2)]
        own: Annotated[np.ndarray, Row("BYTES", -1)]
    def f(
        a: Annotated[np.ndarray, Row("FP32", 3, "other")], b: Annotated[np.ndarray, Row("FP32", "seq")]
    ) -> Out: raise RowError("no")
    """)
    given = {"a": np.zeros((2, 3, 4), np.float32), "b": np.zeros((2, 5), np.float32)}
    result = loaded.run(given)
    assert result.row_errors == {0: "no", 1: "no"}
    assert result.outputs["same"].shape == (2, 5, 2)
    assert result.outputs["own"].tolist() == [[b""] * 4] * 2
    assert set(loaded.run(given, outputs=frozenset({"own"})).outputs) == {"own"}
