"""The Grafana dashboard of a fleet: its panels as a description, and as the JSON that Grafana imports.

`panels.py` puts the rows together, each of a module of `rows`; `grafana.py` has what a panel is and what becomes of
it. `tools/generate_dashboard.py` writes the file.
"""
