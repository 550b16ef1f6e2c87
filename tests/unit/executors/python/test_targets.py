"""What is wrong with a target is named: the module, the file, the name, what its code raised and where."""

import sys

import pytest

from batcher import plugins
from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.executor import option_problems
from batcher.executors.python import AsyncPythonExecutor, PythonExecutor
from batcher.executors.python.options import PythonOptions

ANY = "def f(x: float) -> float: return x"


@pytest.fixture
def refusal(context):
    def refusal(target, **options):
        with pytest.raises(ModelLoadError) as caught:
            plugins.for_model(PythonExecutor, context(target=target, **options))
        message = str(caught.value)
        assert message.startswith("model 'm': option ")
        assert "\n" not in message
        return message.removeprefix("model 'm': option ")

    return refusal


@pytest.mark.parametrize("target", ["rules", "rules:", ":f", "a b:f", "rules:f()", "rules:f.", 3])
def test_a_target_has_a_place_and_a_name(target, tmp_path):
    ((path, text),) = option_problems(PythonOptions, {"target": target}, tmp_path, files=False)
    assert path == ("target",)
    assert "got" in text


def test_a_missing_module_is_named(refusal):
    assert "target: there is no module 'no_such_module'; allowed: " in refusal(
        "no_such_module.sub:f"
    )
    assert "there is no module 'email.no_such'" in refusal("email.no_such:f")


def test_a_module_that_a_module_lacks_is_no_missing_target(refusal, write, tmp_path):
    write("import no_such_dependency", "lacking.py")
    message = refusal("lacking:f", python_path=[str(tmp_path)])
    assert (
        "the import of lacking failed: ModuleNotFoundError: No module named 'no_such_dependency'"
        in message
    )
    assert "(lacking.py, line 8, in <module>)" in message


def test_a_missing_file_is_named(refusal, tmp_path):
    assert f"cannot read the file {tmp_path}/rules.py: no such file" in refusal("rules.py:f")
    (tmp_path / "folder.py").mkdir()
    assert "is a directory" in refusal("folder.py:f")


def test_a_missing_name_comes_with_the_nearest(refusal, write):
    write("class Score:\n    def predict(self): ...\ndef score(): ...")
    assert "given.py has no 'scorre' (did you mean 'score'?)" in refusal("given.py:scorre")
    assert "given.py.Score has no 'predicted' (did you mean 'predict'?)" in refusal(
        "given.py:Score.predicted"
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (given.py, line 8, in <module>)"),
        ("raise SystemExit('bye')", "SystemExit: bye (given.py, line 8, in <module>)"),
        ("def f(:", "SyntaxError: invalid syntax (given.py, line 8)"),
        ("raise ValueError('x' * 10_000_000)", "xxx..."),
    ],
)
def test_an_import_that_fails_says_why_and_where(refusal, write, source, said):
    write(source)
    message = refusal("given.py:f")
    assert "the import of " in message
    assert said in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("f = 3", "given.py:f is of type int; allowed: a function or a class"),
        ("class f: ...", "the class f has no method __call__; allowed: "),
        ("def f(x: float) -> float:\n    yield x", "f is a generator; allowed: "),
        ("async def f(x: float) -> float:\n    yield x", "f is a generator; allowed: "),
        ("class f:\n  async def load(self): ...\n  def __call__(self, x: float) -> float: ...", "load is a coroutine"),
        ("f = print", "f has no inputs; allowed: "),
        ("f = max", "f has no signature; allowed: a function of Python"),
        ("def f(x, /): ...", "f takes 'x' by position; allowed: "),
        ("def f(x: 'Missing') -> float: ...", "annotations that cannot be read: NameError"),
    ],
)  # fmt: skip
def test_what_cannot_be_called_is_refused(refusal, write, source, said):
    write(source)
    assert said in refusal("given.py:f")


def test_a_class_that_raises_says_what_and_where(load):
    source = """
    class f:
        def __init__(self, path):
            raise {}
        def __call__(self, x: float) -> float: ...
    """
    with pytest.raises(ModelLoadError) as caught:
        load(source.format("OSError(2, 'missing', path)"), args={"path": "rules.json"})
    said = "option target: __init__ of f raised FileNotFoundError: [Errno 2] missing: 'rules.json'"
    assert f"{said} (given.py, line 11, in __init__)" in str(caught.value)
    with pytest.raises(ModelLoadError, match="raised SystemExit: 3"):
        load(source.format("SystemExit(3)"), args={"path": ""})


@pytest.mark.parametrize("coroutine", ["", "async "])
def test_a_load_that_raises_says_what_and_where(load, coroutine):
    source = f"""
    class f:
        {coroutine}def load(self): raise {{}}
        {coroutine}def __call__(self, x: float) -> float: ...
    """
    with pytest.raises(ModelLoadError, match=r"load of f raised KeyError: 'a' \(given.py, line 10"):
        load(source.format("KeyError('a')"))
    with pytest.raises(ModelLoadError, match="load of f raised SystemExit"):
        load(source.format("SystemExit()"))


def test_a_load_may_say_that_something_is_not_up_yet(load):
    with pytest.raises(BackendUnavailable, match="database"):
        load("""
        from batcher.executor import BackendUnavailable
        class f:
            def load(self, context): raise BackendUnavailable("database")
            def __call__(self, x: float) -> float: ...
        """)


def test_arguments_are_checked_before_an_object_is_made(load, refusal, write):
    source = "class f:\n    def __init__(self, *, size): ...\n    def __call__(self, x: float) -> float: ..."
    with pytest.raises(
        ModelLoadError, match="option args: f: got an unexpected keyword argument 'sise'"
    ):
        load(source, args={"size": 1, "sise": 1})
    with pytest.raises(ModelLoadError, match="option args: f: missing a required"):
        load(source)
    write(ANY)
    assert "args: given.py:f is no class; allowed: none" in refusal("given.py:f", args={"x": 1})


def test_functions_methods_and_objects_are_called(load):
    source = """
    class A:
        def __init__(self, by=1.0): self.by = by
        def __call__(self, x: float) -> float: return x + self.by
        def scaled(self, x: float) -> float: return x * self.by
        @staticmethod
        def negated(x: float) -> float: return -x
        @classmethod
        async def waiting(cls, x: float) -> float: return x
        class Inner:
            def __call__(self, x: float) -> float: return x / 2
    def f(x: float) -> float: return x
    import functools
    a = A(5.0)
    part = functools.partial(a.scaled)
    @functools.wraps(f)
    def wrapped(*args, **kwargs): return 100 * f(*args, **kwargs)
    """
    import numpy as np

    for target, options, answer in [
        ("f", {}, 3), ("A", {}, 4), ("A", {"args": {"by": 2.0}}, 5), ("A.scaled", {"args": {"by": 2.0}}, 6),
        ("A.negated", {}, -3), ("A.waiting", {}, 3), ("A.Inner", {}, 1.5), ("a", {}, 8), ("a.scaled", {}, 15),
        ("part", {}, 15), ("wrapped", {}, 300),
    ]:  # fmt: skip
        loaded = load(source, target, **options)
        (result,) = loaded.run({"x": np.array([3.0])}).outputs.values()
        assert result.tolist() == [answer], target
        loaded.close()


def test_a_file_imports_what_lies_beside_it_and_is_read_again_when_it_changes(load, write):
    write("FACTOR = 2.0", "beside_given.py")
    source = "from beside_given import FACTOR\ndef f(x: float) -> float: return {}"
    first = load(source.format("FACTOR * x"))
    same = load(source.format("FACTOR * x"))
    changed = load(source.format("x + 10 * FACTOR"))
    import numpy as np

    x = {"x": np.array([1.0])}
    for loaded, answer in ((first, 2), (same, 2), (changed, 21)):
        assert loaded.run(x).outputs["output"].tolist() == [answer]


def test_a_module_is_found_in_the_python_path_alone(context, write, tmp_path):
    folder = tmp_path / "modules"
    folder.mkdir()
    write(ANY, "modules/only_there.py")
    options = {"target": "only_there:f", "python_path": ["modules"]}
    before = list(sys.path)
    assert plugins.for_model(PythonExecutor, context(**options)) is PythonExecutor
    assert sys.path[: len(before)] == before, "modules of Python come first"
    problems = option_problems(
        PythonOptions, options | {"python_path": ["nowhere"]}, tmp_path, files=True
    )
    assert [path for path, _ in problems] == [("python_path", 0)]


def test_the_wrong_class_says_so(context, write):
    write("async def f(x: float) -> float: return x")
    with pytest.raises(ModelLoadError, match="f is a coroutine now"):
        PythonExecutor().load(context(target="given.py:f"))
    assert plugins.for_model(PythonExecutor, context(target="given.py:f")) is AsyncPythonExecutor
