"""The command line: a file for each command, which parses options, calls another package and prints.

`exits` turns errors into exit codes, `configuration` a path into a checked `Config`. Imports that take
long happen inside the commands, so that `--help` answers at once. Nothing here decides anything: what
a command computes belongs to the package that it calls.
"""
