"""Who is accused: by two at least, and by each as it says last."""

# ruff: noqa: D103 -- the names are sentences

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.swarm.accusations import ACCUSERS, MAX_ACCUSERS, MAX_NAMED, Accusations


def heard(*said: tuple[str, *tuple[str, ...]]) -> Accusations:
    """What nodes say, in this order: the accuser, and whom it names."""
    accusations = Accusations()
    for accuser, *named in said:
        accusations.hear(accuser, tuple(named))
    return accusations


def test_one_node_alone_accuses_nobody_however_often_it_says_so() -> None:
    accusations = heard(("a", "x"), ("a", "x", "x"), ("a", "y", "x"), ("a", "x"))
    assert not accusations.is_accused("x")
    assert not accusations.is_accused("y")
    accusations.hear("b", ("x",))
    assert accusations.is_accused("x")
    assert not accusations.is_accused("y")


def test_nobody_counts_against_itself() -> None:
    assert not heard(("a", "x"), ("x", "x")).is_accused("x")
    assert heard(("a", "x"), ("x", "x"), ("b", "x")).is_accused("x")


def test_who_is_accused_may_accuse() -> None:
    accusations = heard(("a", "b"), ("c", "b"), ("b", "x"), ("a", "b", "x"))
    assert accusations.is_accused("b")
    assert accusations.is_accused("x")


def test_what_a_node_says_last_counts() -> None:
    accusations = heard(("a", "x", "y"), ("b", "x", "y"), ("a", "y"))
    assert not accusations.is_accused("x")
    assert accusations.is_accused("y")
    accusations.hear("b", ())
    assert not accusations.is_accused("y")
    assert len(accusations) == 1


def test_one_node_names_a_few() -> None:
    names = [f"x{i}" for i in range(2 * MAX_NAMED)]
    accusations = heard(("a", *names), ("b", *names))
    assert [name for name in names if accusations.is_accused(name)] == names[:MAX_NAMED]


def test_so_many_are_believed_and_what_these_say_still_counts() -> None:
    accusations = heard(*((f"a{i}", "x") for i in range(MAX_ACCUSERS + 9)))
    assert len(accusations) == MAX_ACCUSERS
    accusations.hear("late", ("y",))
    accusations.hear("a0", ("y",))
    assert not accusations.is_accused("y")
    accusations.hear("a1", ("y",))
    assert accusations.is_accused("y")
    accusations.hear("a1", ())
    accusations.hear("late", ("y",))
    assert accusations.is_accused("y")


@given(st.integers(0, 2**32))
def test_it_is_as_if_counted_anew(seed: int) -> None:
    random = Random(seed)
    said: dict[str, tuple[str, ...]] = {}
    accusations = Accusations()
    for _ in range(60):
        accuser = random.choice("abcde")
        said[accuser] = tuple(random.choices("abcdexyz", k=random.randrange(4)))
        accusations.hear(accuser, said[accuser])
        for node in "abcdexyz":
            by = sum(node in named for accuser, named in said.items() if accuser != node)
            assert accusations.is_accused(node) == (by >= ACCUSERS)
    assert len(accusations) == sum(bool(named) for named in said.values())
    for accuser in said:
        accusations.hear(accuser, ())
    assert accusations._accusers == {}
