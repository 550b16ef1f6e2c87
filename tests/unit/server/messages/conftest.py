"""Tests of messages share the module `infer_messages` beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
