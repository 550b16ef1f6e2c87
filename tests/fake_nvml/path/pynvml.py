"""nvidia-ml-py as it is, on a machine that the file in `FAKE_NVML` describes: see `fake_nvml.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "library"))
import fake_nvml

exec(
    compile(Path(fake_nvml.real_file()).read_text(), fake_nvml.real_file(), "exec"),
    globals(),
)
fake_nvml.from_environment(os.environ).serve(sys.modules[__name__])
