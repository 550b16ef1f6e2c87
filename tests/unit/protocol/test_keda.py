"""The messages of KEDA's protocol on the wire, by the numbers of its public definition."""

import struct

from batcher.protocol import KEDA, keda, methods


def text(number, value):
    return bytes([number << 3 | 2, len(value)]) + value.encode()


def nested(number, value):
    return bytes([number << 3 | 2, len(value)]) + value


def double(number, value):
    return bytes([number << 3 | 1]) + struct.pack("<d", value)


REF = (
    text(1, "ranker")
    + text(2, "ml")
    + nested(3, text(1, "fleet") + text(2, "ranker"))
    + nested(3, text(1, "target") + text(2, "0.8"))
)


def test_a_scaled_object():
    ref = keda.ScaledObjectRef.FromString(REF)
    assert (ref.name, ref.namespace) == ("ranker", "ml")
    assert dict(ref.scalerMetadata) == {"fleet": "ranker", "target": "0.8"}


def test_a_request_for_a_metric():
    request = keda.GetMetricsRequest.FromString(nested(1, REF) + text(2, "desired_ratio"))
    assert request.metricName == "desired_ratio"
    assert request.scaledObjectRef.name == "ranker"


def test_a_value():
    value = keda.MetricValue(metricName="x", metricValue=2, metricValueFloat=1.5)
    wanted = nested(1, text(1, "x") + b"\x10\x02" + double(3, 1.5))
    assert keda.GetMetricsResponse(metricValues=[value]).SerializeToString() == wanted


def test_a_specification():
    spec = keda.MetricSpec(metricName="x", targetSize=1, targetSizeFloat=0.8)
    wanted = nested(1, text(1, "x") + b"\x10\x01" + double(3, 0.8))
    assert keda.GetMetricSpecResponse(metricSpecs=[spec]).SerializeToString() == wanted


def test_whether_it_is_active():
    assert keda.IsActiveResponse(result=True).SerializeToString() == b"\x08\x01"


def test_the_methods():
    kinds = {method.path: method.kind for method in methods(KEDA).values()}
    assert kinds == {
        "/externalscaler.ExternalScaler/IsActive": "unary_unary",
        "/externalscaler.ExternalScaler/StreamIsActive": "unary_stream",
        "/externalscaler.ExternalScaler/GetMetricSpec": "unary_unary",
        "/externalscaler.ExternalScaler/GetMetrics": "unary_unary",
        "/externalscaler.ExternalScaler/StreamMetricSpec": "unary_stream",
    }
