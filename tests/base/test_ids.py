import os
import threading
import uuid

from hypothesis import given
from hypothesis import strategies as st

from qwill.base import ids
from qwill.base.ids import uuid7, uuid7_ms

moments = st.integers(0, 2**48 - 2)


@given(moments)
def test_it_is_a_version_7_uuid_of_its_moment(moment: int) -> None:
    ids._last = 0
    identity = uuid7(moment)
    parsed = uuid.UUID(identity)
    assert str(parsed) == identity and parsed.version == 7 and parsed.variant == uuid.RFC_4122
    assert uuid7_ms(identity) == moment


def test_the_moment_of_the_rfcs_example() -> None:
    # RFC 9562, appendix A.6: Tuesday, February 22, 2022 2:22:22.00 PM GMT-05:00.
    assert uuid7_ms("017F22E2-79B0-7CC3-98C4-DC0C0C07398F") == 1645557742000


@given(st.lists(moments, min_size=2, max_size=50))
def test_ids_grow_whatever_the_clock_does(clock: list[int]) -> None:
    made = [uuid7(moment) for moment in clock]
    assert made == sorted(set(made))


def test_threads_get_different_ids_in_their_own_order() -> None:
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda own=own: own.extend(uuid7() for _ in range(2000))) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(own == sorted(own) for own in made)
    assert len({identity for own in made for identity in own}) == 8000


def test_a_forked_child_goes_its_own_way() -> None:
    ids._last = (2**48 - 2) << 74  # far ahead, as after the clock was put back
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, uuid7().encode())
        os._exit(0)
    os.waitpid(child, 0)
    own = uuid7()
    assert own.startswith("ffffffff-fffe") and not os.read(read, 36).decode().startswith("ffffffff")
    ids._last = 0
