"""`batcher`, but for instances that get a batch only when they are done with the last."""

import sys

from batcher.__main__ import main
from batcher.runtime.execution.thread_worker import ThreadWorker

ThreadWorker.queues = False

if __name__ == "__main__":
    sys.exit(main())
