"""An API server of Kubernetes for tests: real TLS, real HTTP/1.1, what is sent chunk by chunk as a test says."""

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BOUND_S = 60


class Pair:
    """A certificate and its key."""

    def __init__(self, name, issuer=None, address="127.0.0.1"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(
                x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]),
                critical=False,
            )
        )
        self.certificate = builder.sign(self.key if issuer is None else issuer.key, hashes.SHA256())

    @property
    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def write(self, path):
        path.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self.pem
        )
        return path


class Request:
    """One request that has arrived; the test answers it."""

    def __init__(self, target, headers, writer):
        parts = urlsplit(target)
        self.path = parts.path
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        self.headers = headers
        self._writer = writer
        self.done = asyncio.Event()
        self.keep = True

    @property
    def watch(self):
        return self.query.get("watch") == "1"

    @property
    def version(self):
        return self.query.get("resourceVersion")

    async def answer(self, body, status=200, headers=()):
        """A whole answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(data)}", *headers]
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        await self._flush()
        self.done.set()

    async def begin(self):
        """The head of an answer in chunks."""
        self._writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await self._flush()

    async def send(self, *events):
        """One chunk: events as lines, or bytes as they are."""
        data = b"".join(
            each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n"
            for each in events
        )
        self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self._flush()

    async def end(self):
        """End the chunks in good order."""
        self._writer.write(b"0\r\n\r\n")
        await self._flush()
        self.done.set()

    def cut(self):
        """End the connection."""
        self.keep = False
        self._writer.transport.abort()
        self.done.set()

    async def _flush(self):
        try:
            await self._writer.drain()
        except ConnectionError:
            self.cut()


class ApiServer:
    """Takes requests; a test gets each with `next` and answers it."""

    def __init__(self, pair_file):
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair_file)
        self._requests = asyncio.Queue()
        self._writers = set()
        self.gone = asyncio.Semaphore(0)
        """Released for each connection that the client has ended."""

    async def start(self):
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, ssl=self._context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self):
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def next(self):
        return await asyncio.wait_for(self._requests.get(), BOUND_S)

    async def list(self):
        request = await self.next()
        assert not request.watch, request.query
        return request

    async def watch(self):
        request = await self.next()
        assert request.watch, request.query
        return request

    async def _connected(self, reader, writer):
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines)
                request = Request(first.split(" ")[1], headers, writer)
                self._requests.put_nowait(request)
                ended = asyncio.ensure_future(request.done.wait())
                # A client that goes away is seen, too.
                more = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({ended, more}, return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                if not request.keep or more.done():
                    break
                more.cancel()
                await asyncio.wait([more])
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.gone.release()
            writer.transport.abort()


def endpoint(address, *, pod=None, ready=True, serving=None, terminating=None, **more):
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    target = {"kind": "Pod", "name": pod, "uid": f"uid-{pod}", "namespace": "ml"}
    return {
        "addresses": [address],
        "conditions": {key: value for key, value in conditions.items() if value is not None},
        **({} if pod is None else {"targetRef": target}),
        "nodeName": "node-1",
        "zone": "a",
        **more,
    }


def endpoint_slice(name, *endpoints, version="1", kind="IPv4", ports=None):
    if ports is None:
        ports = [{"name": "grpc", "protocol": "TCP", "port": 8001}]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "ml",
            "resourceVersion": version,
            "labels": {"kubernetes.io/service-name": "ranker"},
            "managedFields": [{"manager": "kube-controller-manager"}],
        },
        "addressType": kind,
        "endpoints": list(endpoints) or None,
        "ports": ports,
    }


def listed(*slices, version="10", more=""):
    metadata = {"resourceVersion": version, **({"continue": more} if more else {})}
    # The items of a list of one kind do not repeat it.
    items = [{k: v for k, v in each.items() if k not in {"kind", "apiVersion"}} for each in slices]
    return {
        "kind": "EndpointSliceList",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata,
        "items": items,
    }


def event(kind, thing):
    return {"type": kind, "object": thing}


def bookmark(version):
    return event(
        "BOOKMARK",
        {
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"resourceVersion": version, "creationTimestamp": None},
            "addressType": "",
            "endpoints": None,
            "ports": None,
        },
    )


def status(code, reason, message):
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


ONE = endpoint_slice("a", endpoint("10.0.0.1", pod="p1"))
TWO = endpoint_slice("b", endpoint("10.0.0.2", pod="p2"), version="11")


def addresses(found):
    """Those of the replicas, which are known."""
    assert found.ok, found.error
    return [each.address for each in found.endpoints]


def unknown(found):
    """Why it is not known which replicas there are."""
    assert not found.ok, found
    assert not found.endpoints
    return found.error
