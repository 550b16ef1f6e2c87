"""Settings that change while the server runs.

`LiveSettings` holds the configuration in force and changes it, from the file or by an admin call. A
change is validated as a whole, then applied to every model it names in one iteration of the event loop,
or not at all. `file_watch` notices that the file has changed; reading and parsing happen on another
thread.
"""

from batcher.live_settings.file_watch import FileFollower, FileState, FileWatch
from batcher.live_settings.settings import AppliedChange, LiveSettings

__all__ = ["AppliedChange", "FileFollower", "FileState", "FileWatch", "LiveSettings"]
