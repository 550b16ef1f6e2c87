"""A fleet whose replicas are the addresses of a DNS name, as a headless service of Kubernetes has one.

    answer of the DNS servers                                what it means
    addresses (A, or AAAA where there is no A)               these are the replicas
    no such name, no addresses; addresses were found before  the fleet is empty
    no such name, no addresses; never an address             not known: the name may be misspelled
    a failure (SERVFAIL, REFUSED), silence, no network       not known
    no addresses, from a server that names no zone (no SOA)  not known

A headless service without endpoints has no name at all, and neither has one that does not exist: only a
name that had addresses can be known to have none. `getaddrinfo` cannot be asked here. It has one code for names that do not exist and
for some servers that fail, says no time to live, and blocks a thread for as long as it likes.

Addresses of one family are taken: a service of two families has each of its pods in both.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver

from batcher.clock import SECOND, Clock, monotonic_ns
from batcher.errors import describe, on_one_line
from batcher.scaler.discovery.interface import HEARTBEAT_NS, Endpoint, Found
from batcher.scaler.discovery.looking import Backoff, DiscoveryError, Pause, Teller

log = logging.getLogger(__name__)

LOOKUP_S: Final = 4.0
"""How long looking once may take, all names, kinds of address, servers and repetitions together."""

SERVER_S: Final = 1.0
"""How long one server may take for it. Then the next one is asked, or the same again."""

LEAST_S: Final = 1.0
"""The shortest time between two questions, however short answers live."""

LONGEST_S: Final = 0.8 * HEARTBEAT_NS / SECOND
"""The longest time between two questions, however long answers live."""

Resolver = dns.asyncresolver.Resolver


class SystemResolver:
    """The resolver that `/etc/resolv.conf` describes, made again when that file has changed."""

    def __init__(self, path: Path = Path("/etc/resolv.conf")) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._made: Resolver | None = None

    def __call__(self) -> Resolver:
        """Raises `OSError` or dnspython's errors where the file cannot be used."""
        found = self._path.stat()
        stamp = found.st_mtime_ns, found.st_size, found.st_ino
        if self._made is None or stamp != self._stamp:
            made = Resolver(configure=False)
            made.read_resolv_conf(str(self._path))
            made.timeout = SERVER_S
            self._made, self._stamp = made, stamp
        return self._made


@dataclass(frozen=True, slots=True)
class _Answer:
    addresses: tuple[str, ...]
    lives_s: float
    exists: bool = True
    """Whether the name has records of other kinds, if none of this one."""
    certain: bool = True
    """Whether a server said so that knows the zone."""


class NamedReplicas:
    """Replicas at the addresses of a DNS name, all on the same port."""

    def __init__(
        self,
        name: str,
        port: int,
        *,
        clock: Clock = monotonic_ns,
        pause: Pause = asyncio.sleep,
        rng: random.Random | None = None,
        resolver: Callable[[], Resolver] | None = None,
    ) -> None:
        """`name` without an ending dot is also looked for in the search domains of `/etc/resolv.conf`.

        Once one of them had addresses, only that one counts.
        """
        self._clock = clock
        self._name = name
        self._port = port
        self._pause = pause
        self._rng = rng
        self._resolver = SystemResolver() if resolver is None else resolver
        self._known: dns.name.Name | None = None

    async def run(self, update: Callable[[Found], None]) -> None:
        """Ask whenever the last answer has expired. See `Discovery`."""
        backoff = Backoff(self._pause, self._rng)
        teller = Teller(update, self._clock)
        while True:
            try:
                answer = await self._look()
                teller.found(self._endpoint(each) for each in answer.addresses)
            except DiscoveryError as error:
                teller.failed(str(error))
                await backoff.wait()
            else:
                backoff.reset()
                await self._pause(min(LONGEST_S, max(LEAST_S, answer.lives_s)))

    async def _look(self) -> _Answer:
        """Ask once."""
        try:
            resolver = await asyncio.to_thread(self._resolver)
        except (OSError, dns.exception.DNSException) as error:
            raise DiscoveryError(f"no DNS server is configured: {describe(error)}") from error
        try:
            async with asyncio.timeout(LOOKUP_S):
                return await self._first(resolver)
        except TimeoutError:
            servers = ", ".join(str(each) for each in resolver.nameservers)
            raise DiscoveryError(
                f"no DNS server says within {LOOKUP_S:g} s what {self._name} is: {servers}"
            ) from None

    async def _first(self, resolver: Resolver) -> _Answer:
        """What the first of the names has that has addresses."""
        failure: DiscoveryError | None = None
        for name in [self._known] if self._known else candidates(self._name, resolver):
            try:
                answer = await self._addresses(resolver, name)
            except DiscoveryError as error:
                failure = failure or error
                continue
            if answer.addresses:
                self._known = name
            if self._known is not None:
                return answer
        raise failure or DiscoveryError(
            f"there is no address of the name {self._name}, and there was none since the start: the fleet"
            " is empty, or the name is not that of its headless service"
        )

    async def _addresses(self, resolver: Resolver, name: dns.name.Name) -> _Answer:
        """IPv4, else IPv6 addresses. Raises `DiscoveryError` where it is not certain that there are none."""
        four = await self._ask(resolver, name, "A")
        if four.addresses or not four.exists:
            return four
        six = await self._ask(resolver, name, "AAAA")
        if not six.addresses and not (four.certain and six.certain):
            raise DiscoveryError(
                f"a DNS server has no address of {name}, and does not say for which zone it speaks (no SOA"
                " record): it may not be the one that knows"
            )
        return six

    @staticmethod
    async def _ask(resolver: Resolver, name: dns.name.Name, kind: str) -> _Answer:
        try:
            answer = await resolver.resolve(
                name,
                kind,
                raise_on_no_answer=False,
                search=False,
                lifetime=LOOKUP_S,
                backend=dns.asyncbackend.get_backend("asyncio"),
            )
        except dns.resolver.NXDOMAIN as error:
            return _Answer((), _lives_s(error.response(name)), exists=False)  # type: ignore[no-untyped-call]
        except dns.resolver.LifetimeTimeout:
            raise TimeoutError from None
        except (dns.exception.DNSException, OSError) as error:
            raise DiscoveryError(
                f"no DNS server can say what {name} ({kind}) is: {on_one_line(str(error))}"
            ) from error
        return _Answer(
            () if answer.rrset is None else tuple(each.address for each in answer),
            _lives_s(answer.response),
            certain=any(each.rdtype is dns.rdatatype.SOA for each in answer.response.authority),
        )

    def _endpoint(self, address: str) -> Endpoint:
        host = f"[{address}]" if ":" in address else address
        return Endpoint(f"{host}:{self._port}")


def _lives_s(response: dns.message.Message) -> float:
    """How long an answer, or that there is none (RFC 2308), may be kept."""
    assert isinstance(response, dns.message.QueryMessage)  # noqa: S101 - the answer to a query is one
    try:
        return float(response.resolve_chaining().minimum_ttl)
    except dns.exception.DNSException:
        return LEAST_S


def candidates(name: str, resolver: Resolver) -> list[dns.name.Name]:
    """The names that `name` can mean, in the order in which a resolver of the C library tries them."""
    relative = dns.name.from_text(name, None)
    if relative.is_absolute():
        return [relative]
    alone = relative.concatenate(dns.name.root)
    searched = []
    for domain in resolver.search:
        try:
            searched.append(relative.concatenate(domain))
        except dns.name.NameTooLong:
            continue
    if len(relative) > (resolver.ndots or 1):
        return [alone, *searched]
    return [*searched, alone]
