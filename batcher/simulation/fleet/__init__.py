"""Many replicas in one virtual time: the production scheduler in each, behind load balancers, under a controller.

A run is `simulate_fleet(settings, load, controller)`. Requests arrive and are routed to replicas that clients know
to be ready; a controller is called at its period with readings as old as a scrape makes them, and what it decides
starts and stops replicas. docs/fleet-simulation.md has what is simulated and what is not.

| module | what is in it |
|---|---|
| `settings` | what a fleet is: start-up, drain, readiness, clients, scrapes, faults |
| `balancers`, `weighted` | how a client chooses a replica |
| `controller` | what a controller sees, and what it decides |
| `signals` | what can be read of a replica |
| `replica`, `devices` | one replica: the scheduler, its devices, its readings |
| `router` | requests on their way to replicas, and those that find none |
| `replicas` | replicas that start, become known, drain, die and end |
| `syncs` | readings on their way to the controller, and its decisions |
| `fleet` | a run; `plans` has what is to happen in it |
| `result` | what became of every request and replica, and what was decided |
"""

from batcher.simulation.fleet.balancers import (
    Balancer,
    LeastRequest,
    Orca,
    RoundRobin,
    parse_balancer,
)
from batcher.simulation.fleet.controller import (
    Controller,
    FleetView,
    ReplicaView,
    Scale,
    Scripted,
)
from batcher.simulation.fleet.fleet import requests_at, simulate_fleet
from batcher.simulation.fleet.result import FLAP_NS, End, FleetRun, ReplicaRecord, Step, flaps
from batcher.simulation.fleet.settings import (
    Clients,
    Drain,
    Fault,
    FaultKind,
    FleetSettings,
    Processor,
    Readiness,
    Scrape,
    Span,
    StartUp,
)
from batcher.simulation.fleet.signals import Sample, Signal

__all__ = [
    "FLAP_NS",
    "Balancer",
    "Clients",
    "Controller",
    "Drain",
    "End",
    "Fault",
    "FaultKind",
    "FleetRun",
    "FleetSettings",
    "FleetView",
    "LeastRequest",
    "Orca",
    "Processor",
    "Readiness",
    "ReplicaRecord",
    "ReplicaView",
    "RoundRobin",
    "Sample",
    "Scale",
    "Scrape",
    "Scripted",
    "Signal",
    "Span",
    "StartUp",
    "Step",
    "flaps",
    "parse_balancer",
    "requests_at",
    "simulate_fleet",
]
