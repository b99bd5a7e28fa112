import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedstyle.content import cluster, describe, kmeans
from fedstyle.errors import ConfigError
from fedstyle.photos import Photos


def plain(colour):
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 4, 4)


def test_describe_by_hand():
    # Two plain photos of 4 x 4: red (90, 0, 0) has brightness 30, red - green 90, yellow - blue 45, contrast and steps 0 in each quarter;
    # grey (60, 60, 60) has 60, 0, 0. Of two values the deviation is half of their distance, so each stands at -1 and 1; what is the same
    # in all photos stands at 0. The order is that of the docstring but with contrast second.
    found = describe(torch.stack([plain((90, 0, 0)), plain((60, 60, 60))]))
    assert found.shape == (2, 24)
    assert found[0].tolist() == [-1] * 4 + [0] * 4 + [1] * 8 + [0] * 8
    assert found[1].tolist() == (-found[0]).tolist()


def test_describe_sees_contrast_and_the_direction_of_edges():
    across = torch.zeros(3, 4, 4, dtype=torch.uint8)
    across[:, :, ::2] = 100  # steps of 100 from column to column, none from row to row
    found = describe(torch.stack([plain((50, 50, 50)), across, across.transpose(1, 2)]))
    grey, first, second = found
    assert (first[4:8] > grey[4:8]).all()
    assert (first[16:20] > second[16:20]).all()
    assert (first[20:] < second[20:]).all()
    assert first[:4] == pytest.approx(grey[:4])


def test_kmeans_finds_groups_and_numbers_them_by_size():
    points = np.array([[0.0, 0], [9, 9], [0, 1], [9, 8], [1, 0], [-20, 5]])
    for seed in range(5):
        assert kmeans(points, 3, np.random.default_rng(seed)) == [0, 1, 0, 1, 0, 2]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=25), st.integers(1, 6), st.integers(0, 99))
def test_clusters_are_numbered_without_gaps_from_the_largest_on(points, clusters, seed):
    labels = kmeans(np.array(points, dtype=float), clusters, np.random.default_rng(seed))
    counts = np.bincount(labels).tolist()
    assert len(labels) == len(points)
    assert 0 < len(counts) <= clusters
    assert counts == sorted(counts, reverse=True)
    assert min(counts) > 0
    assert labels == kmeans(np.array(points, dtype=float), clusters, np.random.default_rng(seed))


def test_photos_of_a_kind_come_into_one_cluster(tmp_path):
    for seed in range(4):
        picture(seed).save(tmp_path / f"a{seed}.png")  # bright ramps of colour
        Image.fromarray(np.random.default_rng(seed).integers(0, 40, (80, 80, 3)).astype(np.uint8)).save(tmp_path / f"b{seed}.png")
    photos = Photos.open(tmp_path)
    found = cluster(photos, 2, 0)
    assert found == [0] * 4 + [1] * 4
    assert found == cluster(photos, 2, 0)
    with pytest.raises(ConfigError, match=r"clusters = 9: there are only 8 photos"):
        cluster(photos, 9, 0)
