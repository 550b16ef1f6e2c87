"""The bound of what is held for callers."""

import pytest

from batcher.buffers import (
    MEMORY_FRACTION,
    MIN_MESSAGES,
    Account,
    Buffers,
    default_limit,
    memory_limit,
)

MIB = 2**20


@pytest.fixture
def buffers():
    return Buffers(100)


def test_what_is_reserved_has_room_until_it_is_released(buffers):
    assert buffers.reserve(60)
    assert not buffers.reserve(41)
    assert buffers.reserve(40)
    buffers.release(60)
    assert buffers.reserve(1)
    assert (buffers.used, buffers.peak) == (41, 100)


def test_what_is_held_already_counts_beyond_the_limit(buffers):
    buffers.charge(101)
    assert buffers.over
    assert not buffers.has_room(0)
    buffers.release(101)
    assert not buffers.over


def test_what_is_large_leaves_a_quarter(buffers):
    assert buffers.reserve(60)
    assert buffers.has_room_for_large(15)
    assert not buffers.has_room_for_large(16)
    assert buffers.has_room(40)


def test_the_largest_answer_fits_beside_its_request(buffers):
    assert buffers.reserve(50)
    assert buffers.has_room_for_large(50)
    assert not buffers.has_room_for_large(51)
    assert buffers.has_room_for_large(51, freed=1)


def test_the_most_since_it_was_asked(buffers):
    assert buffers.reserve(60)
    buffers.release(50)
    assert [buffers.take_high_water_mark(), buffers.take_high_water_mark(), buffers.peak] == [
        60,
        10,
        60,
    ]


class TestClaims:
    @pytest.fixture
    def granted(self):
        return []

    @pytest.fixture
    def claim(self, granted):
        def claim(account, name, size):
            return account.claim(size, lambda _: granted.append(name))

        return claim

    def test_leave_a_quarter_for_small_requests(self, buffers, claim, granted):
        accounts = [Account(buffers) for _ in range(4)]
        for number, account in enumerate(accounts):
            claim(account, number, 25)
        assert granted == [0, 1, 2]
        assert buffers.used == 75
        assert buffers.reserve(25)
        buffers.release(25)
        buffers.release(25)
        assert granted == [0, 1, 2, 3]

    def test_of_one_connection_take_a_quarter(self, buffers, claim, granted):
        greedy, other = Account(buffers), Account(buffers)
        for name in "abc":
            claim(greedy, name, 20)
        claim(other, "other", 20)
        assert granted == ["a", "other"]
        greedy.arrived(20)  # still charged, as it is being served
        assert granted == ["a", "other", "b"]
        buffers.release(20)
        assert granted == ["a", "other", "b"]

    def test_one_that_is_larger_than_that_is_granted_alone(self, buffers, claim, granted):
        account = Account(buffers)
        claim(account, "large", 70)
        claim(account, "small", 1)
        assert granted == ["large"]
        account.arrived(70)
        assert granted == ["large", "small"]

    def test_connections_take_turns(self, buffers, claim, granted):
        assert buffers.reserve(75)
        one, two = Account(buffers), Account(buffers)
        for name in ("one 1", "one 2"):
            claim(one, name, 10)
        claim(two, "two 1", 10)
        for _ in range(3):
            buffers.release(10)
        assert granted == ["one 1", "two 1", "one 2"]

    def test_a_small_one_does_not_overtake(self, buffers, claim, granted):
        assert buffers.reserve(60)
        claim(Account(buffers), "large", 20)
        claim(Account(buffers), "small", 1)
        assert granted == []
        buffers.release(60)
        assert granted == ["large", "small"]

    def test_that_are_withdrawn_make_way(self, buffers, claim, granted):
        assert buffers.reserve(60)
        first, second = Account(buffers), Account(buffers)
        large = claim(first, "large", 20)
        claim(second, "small", 1)
        first.withdraw(large)
        first.withdraw(large)
        assert granted == ["small"]
        assert buffers.used == 61


class TestMemoryLimit:
    @pytest.fixture
    def machine(self, tmp_path):
        def write(path, text):
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

        return tmp_path, write

    def test_version_2_counts_every_group_above(self, machine):
        root, write = machine
        write("proc/self/cgroup", "0::/a/b\n")
        write("sys/fs/cgroup/a/b/memory.max", "max\n")
        write("sys/fs/cgroup/a/memory.max", f"{64 * MIB}\n")
        assert memory_limit(root) == 64 * MIB

    def test_version_1(self, machine):
        root, write = machine
        write("proc/self/cgroup", "4:cpu,cpuacct:/\n3:memory:/docker/x\n")
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{32 * MIB}\n")
        assert memory_limit(root) == 32 * MIB

    def test_without_any_it_is_the_machines(self, tmp_path):
        assert memory_limit(tmp_path) > 128 * MIB

    def test_the_default_is_a_share_with_room_for_two_messages(self):
        memory = memory_limit()
        assert default_limit(1) == memory // MEMORY_FRACTION
        assert default_limit(memory) == MIN_MESSAGES * memory
