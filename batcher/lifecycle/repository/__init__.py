"""Models from a directory in Triton's layout.

`files` lists folders and takes stamps of files, `described` reads what the files of one model say, and
`directory` scans all of them, on a thread (`threads`). `served` decides, without I/O, which versions
should be served after what became of them so far; `source` polls, and tells the manager. `uploads` keeps
files that a load call brings along.
"""

from batcher.lifecycle.repository.source import RepositorySource

__all__ = ["RepositorySource"]
