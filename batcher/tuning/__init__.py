"""Settings that change while the server runs.

`tuner` holds the configuration in force and changes it: from the file, or by paths that an admin
call gives. A change is validated as a whole, then applied to every model it names in one turn of the
event loop, or not at all. `watch` notices that the file has changed; reading it happens on another
thread.
"""

from batcher.tuning.tuner import Applied, Tuner
from batcher.tuning.watch import FileFollower, FileWatch, Look

__all__ = ["Applied", "FileFollower", "FileWatch", "Look", "Tuner"]
