"""The bound on bytes of requests and answers that the process keeps for callers (`server.max_buffered`).

One `Buffers` is shared by all listeners. Each charges a byte once and releases it however the call ends:

- bytes of a request as they come, until it is answered;
- the receive window of a large message before its bytes come, since bytes that a window allows will
  come. Such grants may take three quarters of the bound together, so that small requests find room, and a
  quarter for each connection. A claim that does not fit waits, connections taking turns;
- answers that the client has not taken yet. Large ones leave a quarter of the bound free as well.

A connection whose calls take more than a quarter of the bound loses its latest calls when another one
finds no room.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path

MEMORY_FRACTION = 4
"""The default bound is this fraction of the memory that the process may use: a quarter. A request is also
kept as arrays (its batch's inputs, its batch's outputs and the answer), each about as large."""

MIN_MESSAGES = 2
"""Messages of the largest size that the default bound has room for: a request and its answer."""

LARGE_ANSWER = 2**16
"""Bytes. For a larger answer room is sought before it is sent, and it is written at once."""


class Claim:
    """A receive window for a large message, which may have to wait for room."""

    __slots__ = ("on_granted", "size", "waiting")

    def __init__(self, size: int, on_granted: Callable[[int], None]) -> None:
        self.size = size
        self.on_granted = on_granted
        self.waiting = True


class Buffers:
    """Counts charged bytes against `limit`. Every method is called on the event loop's thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        """Bytes that are charged now."""
        self._peak = self._high = 0
        self.refused = 0
        """Calls that ended because there was no room."""
        self._max_claimed = limit - limit // 4
        self.max_per_connection = limit // 4
        """Bytes that the calls of one connection may take without losing them to others."""
        self._waiting: OrderedDict[Account, None] = OrderedDict()
        """Accounts with claims that wait, the next one first."""

    def reserve(self, size: int) -> bool:
        """Charge bytes if there is room for them; returns whether there was."""
        used = self.used + size
        if used > self.limit:
            return False
        self.used = used
        if used > self._high:  # noqa: PLR1730  # for each message; `max` costs as much as the rest
            self._high = used
        return True

    def charge(self, size: int) -> None:
        """Charge bytes that are in memory already; the caller ends a call where `over` is true then."""
        self.used += size
        self._high = max(self._high, self.used)

    @property
    def peak(self) -> int:
        """The most bytes that were ever charged."""
        return max(self._peak, self._high)

    def take_high_water_mark(self) -> int:
        """The most bytes that were charged since the last call of this method."""
        self._peak, high = self.peak, self._high
        self._high = self.used
        return high

    @property
    def over(self) -> bool:
        """Whether more than `limit` bytes are charged."""
        return self.used > self.limit

    def has_room(self, size: int) -> bool:
        """Whether `reserve` would charge these bytes."""
        return self.used + size <= self.limit

    def has_room_for_large(self, size: int, freed: int = 0) -> bool:
        """Whether a large answer of that size may be kept, which leaves room for small messages.

        A single one always fits. `freed` are charged bytes that will be released first.
        """
        return self.used - freed + size <= max(self._max_claimed, min(self.limit, 2 * size))

    def release(self, size: int) -> None:
        """Take back a charge, and grant the claims that fit now."""
        self.used -= size
        if self._waiting:
            self.grant_claims()

    def add_waiting(self, account: Account) -> None:
        """Note that an account has claims."""
        self._waiting.setdefault(account, None)

    def remove_waiting(self, account: Account) -> None:
        """Note that an account has no claims."""
        self._waiting.pop(account, None)

    def grant_claims(self) -> None:
        """Grant the claims that there is room for: accounts in turn, each its oldest claim first."""
        to_try = len(self._waiting)
        while to_try:
            account, _ = self._waiting.popitem(last=False)
            claim = account.claims[0]
            if account.granted and account.granted + claim.size > self.max_per_connection:
                self._waiting[account] = None  # it waits for what it was granted before
                to_try -= 1
                continue
            if self.used + claim.size > self._max_claimed:
                self._waiting[account] = None
                self._waiting.move_to_end(account, last=False)
                return
            self.charge(claim.size)
            account.granted += claim.size
            account.claims.popleft()
            if account.claims:
                self._waiting[account] = None
            claim.waiting = False
            claim.on_granted(claim.size)
            to_try = len(self._waiting)


class Account:
    """One connection's claims on receive windows, and its answers that the client has not taken."""

    __slots__ = ("_buffers", "claims", "granted", "unsent")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self.granted = 0
        """Bytes that were granted and have not come yet."""
        self.claims: deque[Claim] = deque()
        self.unsent = 0
        """Bytes of answers that the client has not taken, and that are charged."""

    def claim(self, size: int, on_granted: Callable[[int], None]) -> Claim:
        """Charge bytes that will come, now or when there is room; `on_granted` is called with `size` then.

        The caller releases them: it calls `arrived` as they come, and `Buffers.release` at the end.
        """
        claim = Claim(size, on_granted)
        self.claims.append(claim)
        self._buffers.add_waiting(self)
        self._buffers.grant_claims()
        return claim

    def set_unsent(self, size: int) -> None:
        """Charge the answers that the client has not taken by now, instead of those of the last call."""
        more = size - self.unsent
        self.unsent = size
        if more > 0:
            self._buffers.charge(more)
        elif more:
            self._buffers.release(-more)

    def withdraw(self, claim: Claim) -> None:
        """Give up a claim that waits; does nothing where it was granted."""
        if claim in self.claims:
            self.claims.remove(claim)
            if not self.claims:
                self._buffers.remove_waiting(self)
            self._buffers.grant_claims()

    def arrived(self, size: int) -> None:
        """Note that granted bytes have come, or will not. They stay charged."""
        self.granted -= size
        if self.claims:
            self._buffers.grant_claims()


def default_limit(max_message: int) -> int:
    """The default bound in bytes: a quarter of the memory that the process may use, two messages at least."""
    return max(memory_limit() // MEMORY_FRACTION, MIN_MESSAGES * max_message)


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that the process may use: the lowest of its cgroups' limits and of the machine's memory."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> Iterator[int]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path is the host's, and what is mounted at `top` is the container's group.
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            text = _text(folder / name).strip()
            if text.isdecimal():
                yield int(text)
            if folder == top:
                break


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
