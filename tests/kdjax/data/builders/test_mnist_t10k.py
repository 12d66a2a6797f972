"""The raw idx files of MNIST: written small here, and the real ones under --data."""

import gzip
import pathlib
import struct

import numpy as np
import pytest

from kdjax.data import sources
from kdjax.data.builders import mnist_t10k


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(header + array.tobytes())


def test_a_tiny_pair_of_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    labels = (np.arange(12) % 10).astype(np.uint8)
    images[:, 0, 0] = np.arange(12)  # the number that it was written under
    raw = tmp_path / "raw"
    raw.mkdir()
    write_idx(raw / "t10k-images-idx3-ubyte.gz", images)
    write_idx(raw / "t10k-labels-idx1-ubyte.gz", labels)
    source = sources.load_tfds("mnist_t10k", tmp_path / "data", manual_dir=raw)
    written = source.columns["image"][:, 0, 0, 0]
    assert sorted(written) == list(range(12))
    np.testing.assert_array_equal(source.columns["image"][..., 0], images[written])
    np.testing.assert_array_equal(source.columns["label"], labels[written])
    # Once prepared, the raw files are not needed.
    assert len(sources.load_tfds("mnist_t10k", tmp_path / "data")) == 12


def test_damaged_files_are_named_and_nothing_is_left(tmp_path):
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", np.zeros((3, 28, 28), np.uint8))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="t10k-images.* holds \\(3, 28, 28\\).* holds \\(2,\\)"):
        sources.load_tfds("mnist_t10k", tmp_path / "data", manual_dir=tmp_path)
    assert list((tmp_path / "data").iterdir()) == []
    with gzip.open(tmp_path / "short.gz", "wb") as file:
        file.write(struct.pack(">HBBI", 0, 8, 1, 5) + b"abc")
    with pytest.raises(ValueError, match="short.gz is cut short: 3 bytes for shape \\(5,\\)"):
        mnist_t10k.read_idx(tmp_path / "short.gz")
    with gzip.open(tmp_path / "other.gz", "wb") as file:
        file.write(b"other")
    with pytest.raises(ValueError, match="other.gz is not an idx file"):
        mnist_t10k.read_idx(tmp_path / "other.gz")


@pytest.mark.data
def test_the_real_files(tmp_path, request):
    raw = pathlib.Path(request.config.getoption("--data")) / "mnist_t10k"
    source = sources.load_tfds("mnist_t10k", tmp_path, manual_dir=raw)
    assert source.columns["image"].shape == (10_000, 28, 28, 1)
    # The published class counts of the test images.
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(source.columns["label"]), counts)
    assert 0.1 < source.columns["image"].mean() / 255 < 0.2
