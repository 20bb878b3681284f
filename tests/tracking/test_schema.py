"""The names of tags, metrics and files."""

import pickle

import pytest

from lenet_study.tracking.schema import File, Metric, Tag, names


@pytest.mark.parametrize("section", [Tag, Metric, File])
def test_names_reach_other_processes_whole(section):
    for name in names(section):
        copy = pickle.loads(pickle.dumps(name))
        assert copy == name
        assert vars(copy) == vars(name)
