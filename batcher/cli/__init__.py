"""The command line: one file a command, each a thin layer that parses, calls and reports.

`exits` is the one place where errors become exit codes, `configuration` the one way from a path to
a checked `Config`. Heavy imports happen inside the commands, so that `--help` answers at once.
"""
