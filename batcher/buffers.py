"""One bound for the bytes of requests and answers that the process holds for callers.

Every listener charges what it holds to one `Buffers`, once, and releases it however a call ends:

- bytes of a request as they come, until it is answered;
- the window of a large message before it comes, because its bytes come for certain then. Of these
  claims only three quarters of the bound may be taken, so that small requests find room beside them,
  and of each connection a quarter; what finds no room waits in turns, one connection after another;
- a connection whose calls hold more than a quarter in all gives way where another finds no room;
- answers that the other side has not taken; large ones leave a quarter of the bound as well.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path

SHARE = 4
"""One part in so many of the memory that the process may use is for buffers. A request is also held as
arrays: its batch's inputs, its batch's outputs and the answer made of them, each about as large."""

LEAST_MESSAGES = 2
"""So many of the largest messages fit, a request and an answer."""

LARGE_ANSWER = 2**16
"""For a larger answer room is sought before it is sent, and it leaves at once."""


class Claim:
    """The window of a message, which waits for room."""

    __slots__ = ("granted", "size", "waits")

    def __init__(self, size: int, granted: Callable[[int], None]) -> None:
        self.size = size
        self.granted = granted
        self.waits = True


class Buffers:
    """What is held of `limit` bytes. Every method is called on the event loop's thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._peak = self._high = 0
        self.refused = 0
        """Calls that ended because there was no room."""
        self._most_claimed = limit - limit // 4
        self.most_of_one = limit // 4
        """What one connection may hold without having to give way to others."""
        self._waiting: OrderedDict[Account, None] = OrderedDict()
        """Accounts with claims that wait, whose turn is next first."""

    def reserve(self, size: int) -> bool:
        """Charge these bytes if there is room for them."""
        used = self.used + size
        if used > self.limit:
            return False
        self.used = used
        if used > self._high:  # noqa: PLR1730  # for each message; `max` costs as much as the rest
            self._high = used
        return True

    def charge(self, size: int) -> None:
        """Charge bytes that are held already; the caller ends something where `over` says so."""
        self.used += size
        self._high = max(self._high, self.used)

    @property
    def peak(self) -> int:
        """The most that was ever used."""
        return max(self._peak, self._high)

    def take_high(self) -> int:
        """The most that was used since this was last asked."""
        self._peak, high = self.peak, self._high
        self._high = self.used
        return high

    @property
    def over(self) -> bool:
        """Whether more is held than is allowed."""
        return self.used > self.limit

    def has_room(self, size: int) -> bool:
        """Whether `reserve` would charge these bytes."""
        return self.used + size <= self.limit

    def has_room_for_large(self, size: int, freed: int = 0) -> bool:
        """The same for what is large, which leaves room for what is small; alone it always fits.

        `freed` are charged bytes that are released first.
        """
        return self.used - freed + size <= max(self._most_claimed, min(self.limit, 2 * size))

    def release(self, size: int) -> None:
        """So many of the charged bytes are held no more."""
        self.used -= size
        if self._waiting:
            self.serve()

    def wait(self, account: Account) -> None:
        """An account has claims that wait."""
        self._waiting.setdefault(account, None)

    def leave(self, account: Account) -> None:
        """It has none any more."""
        self._waiting.pop(account, None)

    def serve(self) -> None:
        """Grant what there is room for, in turns, the oldest claim of each account first."""
        turns = len(self._waiting)
        while turns:
            account, _ = self._waiting.popitem(last=False)
            claim = account.claims[0]
            if account.ahead and account.ahead + claim.size > self.most_of_one:
                self._waiting[account] = None  # it has to wait for itself
                turns -= 1
                continue
            if self.used + claim.size > self._most_claimed:
                self._waiting[account] = None
                self._waiting.move_to_end(account, last=False)
                return
            self.charge(claim.size)
            account.ahead += claim.size
            account.claims.popleft()
            if account.claims:
                self._waiting[account] = None
            claim.waits = False
            claim.granted(claim.size)
            turns = len(self._waiting)


class Account:
    """What one connection has claimed ahead of what comes, and what it has to send."""

    __slots__ = ("_buffers", "ahead", "claims", "held")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self.ahead = 0
        """Bytes that were granted and have not come."""
        self.claims: deque[Claim] = deque()
        self.held = 0
        """Bytes of answers that the other side has not taken."""

    def claim(self, size: int, granted: Callable[[int], None]) -> Claim:
        """Have `granted` called with `size` when as many were charged ahead: now, or when there is room.

        The caller releases them, by what it says to `came` and to `Buffers.release`.
        """
        claim = Claim(size, granted)
        self.claims.append(claim)
        self._buffers.wait(self)
        self._buffers.serve()
        return claim

    def hold(self, size: int) -> None:
        """So many bytes of answers are not taken now: charge them instead of those of last time."""
        more = size - self.held
        self.held = size
        if more > 0:
            self._buffers.charge(more)
        elif more:
            self._buffers.release(-more)

    def withdraw(self, claim: Claim) -> None:
        """It waits no longer; does nothing where it was granted."""
        if claim in self.claims:
            self.claims.remove(claim)
            if not self.claims:
                self._buffers.leave(self)
            self._buffers.serve()

    def came(self, size: int) -> None:
        """So many of the bytes ahead have come, or will not."""
        self.ahead -= size
        if self.claims:
            self._buffers.serve()


def default_limit(max_message: int) -> int:
    """Bytes for buffers: a share of the memory that the process may use, room for two messages."""
    return max(memory_limit() // SHARE, LEAST_MESSAGES * max_message)


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that the process may use: the least of its cgroups' limits and the machine's memory."""
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
        # In a container the path is that of the host, and its own group is what is mounted.
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
