import pytest


def test_the_defaults_of_the_server(parse):
    server = parse("models: [{name: m, executor: emulated}]").server
    assert server.grpc == ("127.0.0.1:8001",)
    assert server.http == "127.0.0.1:8002"
    assert server.admin == ()
    assert server.tls is None
    assert server.max_message == 64 * 1024**2
    assert server.drain_timeout == 30_000_000_000
    assert server.config_poll_interval == 1_000_000_000


def test_http_can_be_turned_off_and_a_drain_can_be_instant(parse):
    server = parse(
        "server: {http: null, drain_timeout: 0, config_poll_interval: 0}\nmodels: [{name: m, executor: e}]"
    ).server
    assert server.http is None
    assert server.drain_timeout == 0
    assert server.config_poll_interval == 0


def test_every_address_of_one_kind_leaves_the_other_kind(parse):
    text = 'server: {grpc: ["0.0.0.0:1", "[::1]:1"]}\nmodels: [{name: m, executor: e}]'
    assert parse(text).server.grpc == ("0.0.0.0:1", "[::1]:1")


def test_port_0_may_be_asked_for_several_times(parse):
    text = 'server: {grpc: ["h:0", "h:0"], http: "h:0"}\nmodels: [{name: m, executor: e}]'
    assert parse(text).server.grpc == ("h:0", "h:0")


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("{grpc: 127.0.0.1:1}", 'grpc: got "127.0.0.1:1"; allowed: a list'),
        (
            "{config_poll_interval: 50ms}",
            'config_poll_interval: got "50ms"; allowed: at least 0.1s, or 0',
        ),
        ("{grpc: []}", "grpc: got []; allowed: at least one"),
        ("{grpc: [8001]}", "grpc[0]: got 8001; allowed: text (in quotes"),
        ("{grpc: [host]}", 'grpc[0]: got "host"; allowed: host:port'),
        ("{http: 'h:99999'}", 'http: got "h:99999"; allowed: a port from 0 to 65535'),
        (
            "{admin: ['unix:x']}",
            'admin[0]: got "unix:x"; allowed: unix: followed by an absolute path',
        ),
        (f"{{admin: ['unix:/{'x' * 107}']}}", 'admin[0]: got "unix:/xxx'),
        (
            "{grpc: ['h:1', 'H:1']}",
            "grpc[1]: got H:1 a second time; allowed: one listener an address",
        ),
        (
            "{grpc: ['h:1'], http: 'h:1'}",
            "http: got h:1 a second time; allowed: one listener an address",
        ),
        (
            "{grpc: ['0.0.0.0:1'], http: 'h:1'}",
            "http: got h:1, which overlaps with 0.0.0.0:1; allowed: another port",
        ),
        (
            "{grpc: ['h:1'], admin: ['[::]:1']}",
            "admin[0]: got [::]:1, which overlaps with h:1; allowed: another port",
        ),
        (
            "{grpc: ['unix:/a/b'], admin: ['unix:/a/./b']}",
            "admin[0]: got unix:/a/./b a second time; allowed: one listener an address",
        ),
        ("{status_codes: http}", "status_codes: got \"http\"; allowed: 'standard' or 'triton'"),
        ("{max_message: 64}", "max_message: got 64; allowed: a number with a unit (B, kB"),
        ("{max_message: 2GiB}", 'max_message: got "2GiB"; allowed: at most 2147483647B'),
        (
            "{max_connection_age_grace: 3s}",
            "max_connection_age_grace: no effect without max_connection_age; allowed: together",
        ),
        (
            "{transport: grpcio, write_timeout: 3s}",
            "write_timeout: no effect with transport: grpcio; allowed: leave it out",
        ),
        ("{max_connections: 0}", "max_connections: got 0; allowed: 1 or more"),
        (
            "{max_concurrent_streams: null}",
            "max_concurrent_streams: got null; allowed: a whole number",
        ),
        ("{drain_timeout: 30}", "drain_timeout: got 30; allowed: a number with a unit"),
        ("{tls: true}", "tls: got true; allowed: a mapping with the keys cert, key, client_ca"),
        ("{tls: {cert: a}}", "tls.key: missing; needed: The private key of `cert`"),
        ("{tls: {cert: a, key: ''}}", 'tls.key: got ""; allowed: the path of a file'),
        ("{tls: {cert: a, key: 3}}", "tls.key: got 3; allowed: the path of a file"),
        ("{tls: {cert: a, key: b, ca: c}}", "tls.ca: unknown key;"),
        (
            "{grpc: ['unix:/a'], admin: ['unix:/b'], tls: {cert: a, key: b}}",
            "tls: no effect: every listener is a Unix socket, and those are not encrypted; allowed: together with",
        ),
    ],
)
def test_a_wrong_value_names_path_value_and_what_is_allowed(server_problems, flow, expected):
    (found,) = server_problems(flow)
    assert found.startswith(f"server.{expected}")
