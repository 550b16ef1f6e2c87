"""Every exported family beside what is known of it from the outside.

A scene (`scene.py`) starts a server, a real Prometheus that scrapes it, and a process that sends
requests at moments fixed in advance (`generator.py`). The model (`model.py`) takes known times and
writes down by itself what it executed. From both logs and no number of the server's follows what was
true at every moment (`world.py`), and `statements/` says for each family how that is compared.
All clocks are this machine's.
"""
