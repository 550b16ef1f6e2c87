"""The model repository."""

from __future__ import annotations

from batcher.telemetry.families.family import Family, one_of

REPOSITORY_READABLE = Family(
    "batcher_model_repository_readable",
    "gauge",
    "",
    (),
    "1 if the last scan of the directory of the model repository could read it, else 0: what was served "
    "before is served on. Absent without a model repository.",
)
REPOSITORY_MODELS = Family(
    "batcher_model_repository_models",
    "gauge",
    "models",
    (),
    "Models in the directory, served or not.",
)
REPOSITORY_BROKEN = Family(
    "batcher_model_repository_broken_models",
    "gauge",
    "models",
    (),
    "Models that are not served as their files say: a wrong configuration, a load that failed. The "
    "repository index and the log have the reason.",
)
REPOSITORY_SCANS = Family(
    "batcher_model_repository_scans",
    "counter",
    "scans",
    ("result",),
    "Scans of the directory, by result: ok, or failed (it could not be read, or did not answer).",
    values={"result": one_of("ok", "failed")},
)

FAMILIES = (
    REPOSITORY_READABLE,
    REPOSITORY_MODELS,
    REPOSITORY_BROKEN,
    REPOSITORY_SCANS,
)
