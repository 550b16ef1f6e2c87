"""A gRPC sidecar that batches inference requests inside windows that a latency target bounds."""

__version__ = "0.1.0"
