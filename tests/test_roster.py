import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstyle.config import Server
from fedstyle.errors import ConfigError
from fedstyle.roster import Role, Roster
from fedstyle.training import derive


def server(**keys):
    return Server(**{"rounds": 10, "min_replies": 0.5, **keys})


def test_without_roles_everyone_is_there_in_every_round():
    roster = Roster.of(server(), 4, 7)
    assert roster == Roster(seed=7, late_round=2, flaky_rate=0.5)
    for partition in range(4):
        assert roster.role(partition) is Role.SEEN
        assert roster.there(partition, 1)
        assert roster.fate(partition, 1) is None


def test_roles_by_hand():
    # The order of sha256("3\0" "role\0" "<partition>"), the bytes from which `derive` makes its seeds
    order = sorted(range(6), key=lambda partition: derive(3, "role", partition))
    roster = Roster.of(server(unseen=1, late=2, late_round=4, flaky=2), 6, 3)
    assert [roster.role(partition) for partition in order] == ["unseen", "late", "late", "flaky", "flaky", "seen"]
    assert order == [2, 4, 3, 5, 0, 1]


def test_who_is_there_depends_on_the_round():
    roster = Roster(unseen=frozenset([0]), late=frozenset([1]), flaky=frozenset([2]), late_round=4, flaky_rate=1.0)
    assert [[p for p in range(4) if roster.there(p, number)] for number in (1, 3, 4, 9)] == [[2, 3], [2, 3], [1, 2, 3], [1, 2, 3]]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(1, 30), st.integers(0, 99))
def test_roles_are_as_many_as_asked_for_and_nobody_has_two(unseen, late, flaky, more, seed):
    clients = unseen + late + flaky + more
    wish = server(unseen=unseen, late=late, flaky=flaky)
    roster = Roster.of(wish, clients, seed)
    roles = [roster.role(partition) for partition in range(clients)]
    assert [roles.count(role) for role in ("unseen", "late", "flaky", "seen")] == [unseen, late, flaky, more]
    assert sum(map(len, (roster.unseen, roster.late, roster.flaky))) == unseen + late + flaky
    assert roster == Roster.of(wish, clients, seed)


def test_fates_come_as_often_as_the_rate_says_and_both_kinds_alike():
    roster = Roster(flaky=frozenset([0]), flaky_rate=0.4, seed=5)
    fates = [roster.fate(0, number) for number in range(1, 4001)]
    # 800 of either expected; the standard deviation of a binomial of 4000 at 0.2 is 25
    assert fates.count("lost") == pytest.approx(800, abs=125)
    assert fates.count("late") == pytest.approx(800, abs=125)
    assert fates == [roster.fate(0, number) for number in range(1, 4001)]
    other = Roster(flaky=frozenset([0]), flaky_rate=0.4, seed=6)
    assert fates != [other.fate(0, number) for number in range(1, 4001)]
    always, never = (Roster(flaky=frozenset([0]), flaky_rate=rate) for rate in (1.0, 0.0))
    assert all(always.fate(0, number) for number in range(1, 50))
    assert not any(never.fate(0, number) for number in range(1, 50))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"unseen": 4}, "server.unseen = 4: none of the 4 clients is left for round 1"),
        ({"unseen": 2, "late": 2}, "server.late = 2: none of the 4 clients is left for round 1"),
        ({"unseen": 1, "late": 1, "flaky": 3}, "server.flaky = 3: of the 4 clients, 2 are unseen or late"),
    ],
)
def test_more_roles_than_clients_are_an_error(keys, words):
    with pytest.raises(ConfigError, match=words):
        Roster.of(server(**keys), 4, 0)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"unseen": -1}, "server.unseen = -1: give 0 or more"),
        ({"late": 1, "late_round": 1}, "server.late_round = 1: give a round from 2 on"),
        ({"late": 1, "late_round": 11}, "server.late_round = 11: there are 10 rounds"),
        ({"flaky": 1, "flaky_rate": 1.5}, "server.flaky_rate = 1.5: give a chance"),
        ({"flaky": 1, "min_replies": 1.0}, "server.min_replies = 1.0: flaky clients will miss replies"),
    ],
)
def test_roles_that_cannot_be_are_an_error(keys, words):
    with pytest.raises(ConfigError, match=words):
        server(**keys)
