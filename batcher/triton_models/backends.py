"""Triton's backends: which executor runs their models, and why the others are not served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from batcher.config.section import KeyPath
from batcher.triton_models.model import TritonModel

_Found = list[tuple[KeyPath, str]]

FILE_NAMES: Final = {".onnx": "onnxruntime", ".plan": "tensorrt", ".pt": "pytorch", ".py": "python"}
"""Suffix of a file in a version's folder -> the backend, for a model whose configuration names none."""

_NAME_ONE: Final = "name an `executor` in the model's batcher.yaml, or in model_repository.defaults"

_WHY: Final = {
    "ensemble": "the model is an ensemble of other models, which is not supported: call its models,"
    " or forward it to a Triton with the executor kserve",
    "python": "Triton's Python backend is not there: write its model.py as an executor",
    "tensorrt": "TensorRT plans have no executor: serve the ONNX file that the plan was made of, with"
    " the provider tensorrt",
    "pytorch": "models of PyTorch are not served by their config.pbtxt alone: name the executor torch"
    " in the model's batcher.yaml, with path, inputs and outputs in its options",
    "tensorflow": "TensorFlow models have no executor: convert the model to ONNX",
}
"""Backend -> why its models are not served, and what helps."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend of Triton, by name."""

    name: str
    executor: str = ""
    """Empty if no executor runs its models."""
    filename: str = "model.onnx"

    def problems(self, model: TritonModel | None) -> _Found:
        """Why a model with this backend cannot be served by its executor."""
        if not self.executor:
            return [(("backend",), self._why())]
        if model is None:
            return []
        return _of_runtime(model)

    def options(self, model: TritonModel) -> tuple[dict[str, Any], _Found]:
        """The executor's options that the model's `parameters` stand for, and parameters that are ignored."""
        options: dict[str, Any] = {}
        ignored: _Found = []
        for place, (key, text) in enumerate(model.parameters.items()):
            setting = _onnxruntime_option(key, text)
            if setting is None:
                why = f"{key} is not known to the executor onnxruntime"
                ignored.append((("parameters", place), why))
            else:
                section, name, value = setting
                if section:
                    options.setdefault(section, {})[name] = value
                else:
                    options[name] = value
        if any(group.kind == "gpu" or group.gpus for group in model.instances):
            options["providers"] = ["cuda", "cpu"]
        return options, ignored

    def _why(self) -> str:
        if not self.name:
            return f"no backend is named, and no file of the version tells one; {_NAME_ONE}"
        why = _WHY.get(self.name, f"there is no executor for the backend {self.name}")
        return f"{why}; or {_NAME_ONE}"


def backend_of(model: TritonModel | str) -> Backend:
    """The backend of a model, or by its name."""
    name = model if isinstance(model, str) else "ensemble" if model.steps else model.backend
    if name == "onnxruntime":
        return Backend(name, "onnxruntime")
    return Backend(name)


def _of_runtime(model: TritonModel) -> _Found:
    """What a model needs of Triton itself, which a runtime in this process does not have."""
    problems: _Found = []
    if model.decoupled:
        why = "a request has one answer here; decoupled models are not supported"
        problems.append((("model_transaction_policy", "decoupled"), why))
    if model.batch_inputs:
        why = "inputs that are made of the whole batch are not supported"
        problems.append((("batch_input",), why))
    for key, tensors in (("input", model.inputs), ("output", model.outputs)):
        for place, tensor in enumerate(tensors):
            if tensor.reshape is not None:
                shape = list(tensor.reshape)
                why = f"got {shape}; allowed: none, as callers send the shape that the model takes"
                problems.append(((key, place, "reshape"), why))
    return problems


def _onnxruntime_option(key: str, text: str) -> tuple[str, str, Any] | None:
    """Section (or empty), name and value of the option that a parameter stands for."""
    if key in {"intra_op_thread_count", "inter_op_thread_count"} and text.isdecimal():
        return "threads", key.removesuffix("_thread_count"), int(text)
    return None
