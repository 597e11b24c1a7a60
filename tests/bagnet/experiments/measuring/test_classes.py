"""Classes are found by id, name or number, also where two have the same name."""

from __future__ import annotations

import pytest

from bagnet.evidence.report.inputs import Classes
from bagnet.experiments.measuring.classes import choose_class, choose_classes

CLASS_LIST = Classes(("n01", "n02", "n03", "7"), ("crane", "crane", "tench", "1"))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("n02", 1),
        ("tench", 2),
        ("2", 2),
        ("7", 3),  # an id
        ("1", 3),  # a name goes before a number
    ],
)
def test_a_class_is_named_by_its_id_its_name_or_its_number(word, expected):
    assert choose_class(word, CLASS_LIST) == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [("crane", "crane: several classes have this name; give the id"), ("4", "4: no such class")],
)
def test_what_is_no_class_or_several_is_refused(word, message):
    with pytest.raises(ValueError, match=message):
        choose_class(word, CLASS_LIST)


def test_a_class_is_shown_once_and_the_first_eight_are_if_none_is_named():
    assert choose_classes(["tench", "n01", "2"], CLASS_LIST) == [2, 0]
    assert choose_classes([], CLASS_LIST) == [0, 1, 2, 3]
    many = tuple(map(str, range(20)))
    assert choose_classes([], Classes(many, many)) == list(range(8))
