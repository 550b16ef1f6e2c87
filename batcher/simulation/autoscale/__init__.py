"""Which signal an autoscaler should follow: the same arrivals on a fleet, for each signal and set-point.

`controller` scales a simulated fleet as Kubernetes and KEDA would, `sweep` runs all set-points of all signals,
`front` says which of them are worth having and what the same on-time fraction costs with each signal.
"""
