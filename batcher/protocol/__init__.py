"""The protobuf messages of the public API, and the gRPC services that they belong to.

Each module below is one file of `protos/`. Their classes live in a descriptor pool of this package:
other packages register the same message names in protobuf's default pool, and a process with both (a
`tritonclient` inside a Python executor, for example) could not import the second. So a message of this
package is never an instance of another package's class of the same name: pass serialized bytes between them.

Servers use `handlers`, clients `Stub`; `methods` is the table of methods that both are made from.
"""

from batcher.protocol._generated import batcher_admin_v1_admin as admin
from batcher.protocol._generated import batcher_load_v1_load as load
from batcher.protocol._generated import batcher_scaler_v1_scaler as scaler
from batcher.protocol._generated import google_rpc_error_details as error_details
from batcher.protocol._generated import google_rpc_status as status
from batcher.protocol._generated import grpc_health_v1_health as health
from batcher.protocol._generated import grpc_reflection_v1_reflection as reflection
from batcher.protocol._generated import grpc_reflection_v1alpha_reflection as reflection_v1alpha
from batcher.protocol._generated import inference_model_config as model_config
from batcher.protocol._generated import inference_service as inference
from batcher.protocol._generated import keda_externalscaler as keda
from batcher.protocol._generated import torchserve_inference, torchserve_management
from batcher.protocol._generated import xds_data_orca_v3_orca_load_report as orca
from batcher.protocol._generated import xds_service_orca_v3_orca as orca_service
from batcher.protocol.descriptors import file_and_imports, file_containing
from batcher.protocol.services import (
    ADMIN,
    FLEETS,
    HEALTH,
    INFERENCE,
    KEDA,
    LOAD_REPORTS,
    MAX_CONTROL_BYTES,
    OPEN_RCA,
    TORCHSERVE_INFERENCE,
    TORCHSERVE_MANAGEMENT,
    Method,
    Stub,
    handlers,
    methods,
)

__all__ = [
    "ADMIN",
    "FLEETS",
    "HEALTH",
    "INFERENCE",
    "KEDA",
    "LOAD_REPORTS",
    "MAX_CONTROL_BYTES",
    "OPEN_RCA",
    "TORCHSERVE_INFERENCE",
    "TORCHSERVE_MANAGEMENT",
    "Method",
    "Stub",
    "admin",
    "error_details",
    "file_and_imports",
    "file_containing",
    "handlers",
    "health",
    "inference",
    "keda",
    "load",
    "methods",
    "model_config",
    "orca",
    "orca_service",
    "reflection",
    "reflection_v1alpha",
    "scaler",
    "status",
    "torchserve_inference",
    "torchserve_management",
]
