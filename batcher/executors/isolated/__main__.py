"""`python -m batcher.executors.isolated`: a child, which the server starts."""

from batcher.executors.isolated.child import main

if __name__ == "__main__":
    main()
