"""The production scheduler in virtual time: simulate a deployment, or play a recorded log again.

`Driver` stands where `runtime` stands in production: it feeds the same events and carries out the
same commands, but an instance is a function that returns a service time, and time jumps from one
event to the next.

| package | what is in it |
|---|---|
| `traffic` | what arrives: arrival processes, recorded traces, mixes of requests; padding buckets |
| `policies` | the policies that `--policy` names, and baselines to compare them with |
| `engine` | a deployment with its service times, and a run of it in virtual time |
| `fleet` | many replicas behind load balancers, under a controller, in one virtual time |
| `compare` | policies side by side: runs, reports, plots, and the optimum that knows the future |
| `logs` | recorded logs: replay, and what-if runs under other settings |
"""

from batcher.simulation.engine.driver import Driver, LoggedStep

__all__ = ["Driver", "LoggedStep"]
