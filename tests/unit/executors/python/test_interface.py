"""Inputs, outputs and parameters: from annotations, from the configuration, and what does not fit."""

import numpy as np
import pytest

from batcher.errors import ModelLoadError
from batcher.executor import Capabilities, TensorSpec
from batcher.runtime.interface.row_axis import with_row_axes

X = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
Y = {"name": "y", "datatype": "FP32", "shape": [-1, 2]}


def specs(loaded):
    return loaded.metadata.inputs, loaded.metadata.outputs


def test_types_of_python_are_columns_of_values(load):
    loaded = load("def f(a: str, b: bytes, c: bool, d: int, e: float) -> tuple[str, int]: ...")
    inputs, outputs = specs(loaded)
    assert [(s.name, s.datatype, s.shape) for s in inputs] == [
        ("a", "BYTES", (-1,)), ("b", "BYTES", (-1,)), ("c", "BOOL", (-1,)), ("d", "INT64", (-1,)), ("e", "FP64", (-1,)),
    ]  # fmt: skip
    assert [(s.name, s.datatype) for s in outputs] == [("output0", "BYTES"), ("output1", "INT64")]
    assert loaded.metadata.properties == {"target": "f", "called": "for each row"}


def test_markers_say_datatype_axes_and_name(load):
    loaded = load("""
    from numpy.typing import NDArray
    def f(
        x: Annotated[NDArray[np.float32], Rows("FP32", "seq", 4)],
        mask: Annotated[np.ndarray, Rows("BOOL", "seq", name="MASK")] | None = None,
        ids: Annotated[list[int], Rows("INT32")] = (),
    ) -> Annotated[np.ndarray, Rows("FP16", -1, name="Y")]: ...
    """)
    assert specs(loaded) == (
        (
            TensorSpec("x", "FP32", (-1, -1, 4), dims=(None, "seq", None)),
            TensorSpec("MASK", "BOOL", (-1, -1), optional=True, dims=(None, "seq")),
            TensorSpec("ids", "INT32", (-1,), optional=True),
        ),
        (TensorSpec("Y", "FP16", (-1, -1)),),
    )


@pytest.mark.parametrize(
    "answer",
    [
        "class A(TypedDict):",
        "class A(NamedTuple):",
        "@dataclass\nclass A:",
    ],
)
def test_outputs_of_a_class_have_the_names_of_its_fields(load, answer):
    loaded = load(
        f"{answer}\n    label: str\n    score: Annotated[float, Row('FP32', name='SCORE')]\n"
        "def f(x: float) -> A: return A(label='a', score=x)"
    )
    assert [(s.name, s.datatype) for s in loaded.metadata.outputs] == [
        ("label", "BYTES"),
        ("SCORE", "FP32"),
    ]
    outputs = loaded.run({"x": np.array([1.0, 2.0])}).outputs
    assert outputs["label"].tolist() == [b"a", b"a"]
    assert outputs["SCORE"].tolist() == [1, 2]
    assert outputs["SCORE"].dtype == np.float32


def test_the_configuration_declares_what_annotations_do_not(load):
    loaded = load("def f(x): return x[:, :2]", inputs=[X], outputs=[Y])
    assert specs(loaded) == (
        (TensorSpec("x", "FP32", (-1, 4)),),
        (TensorSpec("y", "FP32", (-1, 2)),),
    )
    row = load("def f(x): return {'y': x[:2]}", inputs=[X], outputs=[Y], per_row=True)
    given = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
    for each in (loaded, row):
        assert each.run(given).outputs["y"].tolist() == [[0, 1], [4, 5]]
    named = load("def f(**tensors): return tensors['x'][:, 2:]", inputs=[X], outputs=[Y])
    assert named.run(given).outputs["y"].tolist() == [[2, 3], [6, 7]]


def test_the_configuration_replaces_annotations(load):
    source = "def f(x: Annotated[np.ndarray, Rows('INT8', 9)]) -> Annotated[np.ndarray, Rows('INT8', 9)]: ..."
    loaded = load(source, inputs=[X], outputs=[Y])
    assert specs(loaded) == (
        (TensorSpec("x", "FP32", (-1, 4)),),
        (TensorSpec("y", "FP32", (-1, 2)),),
    )


def test_an_input_without_rows_is_shared(load, tmp_path):
    source = """
    def f(
        x: Annotated[np.ndarray, Rows("FP32", 2)], b: Annotated[np.ndarray, {}("FP32", 2)]
    ) -> Annotated[np.ndarray, Rows("FP32", 2)]: return x + b
    """
    declared = load(source.format("Rows"), batched={"b": False})
    for loaded in (load(source.format("Shared")), declared):
        assert loaded.metadata.inputs[1] == TensorSpec("b", "FP32", (2,), batched=False)
        given = {"x": np.ones((3, 2), np.float32), "b": np.array([1, 2], np.float32)}
        assert loaded.run(given).outputs["output"].tolist() == [[2, 3]] * 3


def test_a_model_without_a_batch_axis_gets_what_was_sent(load, context):
    source = """
    def f(x: Annotated[np.ndarray, {0}("FP32", -1)]) -> Annotated[np.ndarray, {0}("FP32", -1)]: return x[1:]
    def value(x: str) -> int: return len(x)
    def values(x: list[str]) -> int: return len(x)
    """
    for marker, shape in (("Row", (3,)), ("Rows", (3, 1))):
        loaded = load(source.format(marker), max_batch_size=0)
        metadata = with_row_axes(
            loaded.metadata, context(max_batch_size=0), Capabilities(dynamic_axes=True)
        )
        assert metadata.inputs == (TensorSpec("x", "FP32", (-1,) * len(shape), batched=False),)
        result = loaded.run({"x": np.arange(3, dtype=np.float32).reshape(shape)}, rows=1)
        assert result.outputs["output"].ravel().tolist() == [1, 2]
    for target, given, answer in (
        ("value", np.array(b"abc", object), 3),
        ("values", np.array([b"abc", b"d"], object), 2),
    ):
        loaded = load(source.format("Row"), target, max_batch_size=0)
        assert loaded.run({"x": given}, rows=1).outputs["output"].tolist() == answer


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("def f() -> float: ...", "f has no inputs"),
        ("def f(x) -> float: ...", "f does not say what 'x' is; allowed: an annotation such as"),
        ("def f(x: np.ndarray) -> float: ...", "does not say what array argument 'x' is"),
        ("def f(x: dict) -> float: ...", "has the annotation dict for argument 'x'; allowed: str, "),
        ("def f(x: list[dict]) -> float: ...", "has the annotation list[dict] for argument 'x'"),
        ("def f(x: list) -> float: ...", "for argument 'x'; allowed: str, "),
        ("def f(x: float): ...", "does not say what it returns; allowed: "),
        ("def f(x: float) -> None: ...", "does not say what it returns; allowed: "),
        ("def f(x: float) -> tuple[int, ...]: ...", "a tuple of any length; allowed: "),
        ("def f(x: float) -> list[float]: ...", "one row in argument 'x' and all rows in output 'output'"),
        ("def f(x: float, y: list[str]) -> float: ...", "one row in argument 'x' and all rows in argument 'y'"),
        ("def f(x: Annotated[float, Rows('FP32')]) -> float: ...", "has float with Rows('FP32') for argument 'x'; allowed: Row("),
        ("def f(x: Annotated[list[float], Row('FP32')]) -> float: ...", "allowed: Rows("),
        ("def f(x: Annotated[float, Row('FP32', 2)]) -> float: ...", "allowed: np.ndarray, or no axes"),
        ("def f(x: Annotated[int, Row('FP32')]) -> float: ...", "allowed: UINT8, "),
        ("def f(x: Annotated[float, Row('FP33')]) -> float: ...", "has Row('FP33') for argument 'x'; allowed: BOOL, "),
        ("def f(x: Annotated[np.ndarray, Row('FP32', 0)]) -> float: ...", "each a length from 1, -1 for any, or a name"),
        ("def f(x: Annotated[np.ndarray, Row]) -> float: ...", "with Row; allowed: Row("),
        ("def f(x: Annotated[float, Row('FP32'), Rows('FP32')]) -> float: ...", "describes argument 'x' twice"),
        ("def f(x: float) -> Annotated[float, Parameter()]: ...", "returns 'output' as Parameter("),
        ("def f(x: float) -> tuple[float, Annotated[float, Row('FP32', name='output0')]]: ...", "two outputs of the name 'output0'"),
        ("def f(x: float, p: Annotated[dict, Parameter()]) -> float: ...", "takes the parameter 'p' as dict; allowed: bool, "),
    ],
)  # fmt: skip
def test_a_signature_that_does_not_fit_is_refused(load, function, said):
    with pytest.raises(ModelLoadError) as caught:
        load(function)
    assert str(caught.value).startswith("model 'm': option target: f ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        ("def f(z): ...", {"inputs": [X], "outputs": [Y]}, "f has no argument 'x', which option inputs names; it takes 'z'"),
        ("def f(x, z): ...", {"inputs": [X], "outputs": [Y]}, "f takes 'z', and option inputs has 'x'"),
        ("def f(x): ...", {"inputs": [X | {"optional": True}], "outputs": [Y]}, "f has no default for 'x'"),
        ("def f(x): ...", {"inputs": [X]}, "does not say what it returns"),
        ("def f(x): ...", {"inputs": [X, X], "outputs": [Y]}, "option inputs: 'x' is there twice"),
        ("def f(x): ...", {"inputs": [X | {"shape": [4]}], "outputs": [Y]}, "option inputs: the shape of 'x'"),
        ("def f(x): ...", {"inputs": [X | {"datatype": "FLOAT"}], "outputs": [Y]}, "option inputs[0].datatype"),
        ("def f(x): ...", {"inputs": [X], "outputs": [Y], "parameters": ["p"]}, "no argument 'p', which option parameters names"),
        ("def f(x: list[float]) -> list[float]: ...", {"per_row": True}, "takes all rows in argument 'x', and option per_row"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_the_function_are_refused(load, function, options, said):
    with pytest.raises(ModelLoadError) as caught:
        load(function, **options)
    assert said in str(caught.value)


def test_request_parameters_are_arguments(load):
    loaded = load(
        """
        def f(
            x: list[float],
            beam: Annotated[int, Parameter()],
            scale: Annotated[float, Parameter("SCALE")] = 1.0,
            tag="none",
        ) -> list[str]: return [f"{v * beam * scale:g} {tag}" for v in x]
        """,
        parameters=["tag"],
    )
    assert loaded.metadata.parameters == ("beam", "SCALE", "tag")
    x = {"x": np.array([1.0, 2.0])}
    said = loaded.run(x, parameters={"beam": 3}).outputs["output"]
    assert said.tolist() == [b"3 none", b"6 none"]
    said = loaded.run(x, parameters={"beam": 3, "SCALE": 2, "tag": "t"}).outputs["output"]
    assert said.tolist() == [b"6 t", b"12 t"]
