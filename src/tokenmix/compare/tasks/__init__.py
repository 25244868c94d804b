"""The tasks of comparisons, one file each."""

from tokenmix.compare.tasks.digits import Digits
from tokenmix.compare.tasks.induction import Induction
from tokenmix.compare.tasks.listops import ListOps
from tokenmix.compare.tasks.majority import Majority
from tokenmix.compare.tasks.parity import Parity
from tokenmix.compare.tasks.recall import Recall
from tokenmix.compare.tasks.regression import Regression
from tokenmix.compare.tasks.selective_copying import SelectiveCopying
from tokenmix.compare.tasks.sorting import Sorting
from tokenmix.compare.tasks.text import Text

__all__ = [
    "Digits",
    "Induction",
    "ListOps",
    "Majority",
    "Parity",
    "Recall",
    "Regression",
    "SelectiveCopying",
    "Sorting",
    "Text",
]
