"""The virtual-time shell: the production scheduler, with the hands of the clock turned by us.

`Driver` stands where `runtime` stands in production: it feeds the same events and carries out the
same commands, but instances are a service-time function and nobody waits.
"""

from batcher.simulation.driver import Driver, LoggedStep

__all__ = ["Driver", "LoggedStep"]
