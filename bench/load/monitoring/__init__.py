"""The rules of deploy/monitoring, in scenes with real servers and a real Prometheus that evaluates them.

`for` and ranges of minutes make such scenes long, so the rules are copied with every duration divided by
one factor (`durations.py`), and Prometheus scrapes and evaluates as much more often. `scenes.py` plays them:

    with running(folder) as scenes:
        scenes.play("normal", "overload")
        scenes["overload"].query('namespace_job:batcher_desired_ratio:avg{job="overload"}', at="fault")
"""
