"""The policies that a simulation can run, by the names that `--policy` takes, and baselines."""
