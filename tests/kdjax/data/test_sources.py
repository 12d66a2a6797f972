"""Sources: arrays, JSONL, and TFDS directories written here and read back without TensorFlow."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds

from kdjax.data import sources
from kdjax.data.builders import base

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3


# Not registered: what reads the directory must not need this class.
with tfds.core.registered.skip_registration():

    class Shapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")
        name = "shapes"

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["circle", "square", "star"]),
                "id": tfds.features.Text(),
                "size": tfds.features.Scalar(np.float32),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(0, 20),
                "test": self._generate_examples(20, 30),
            }

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield (
                    i,
                    {
                        "image": PIL.Image.fromarray(IMAGES[i]),
                        "label": int(LABELS[i]),
                        "id": f"number {i}",
                        "size": i / 2,
                    },
                )

    class Ragged(Shapes):
        name = "ragged"

        def _generate_examples(self, start, stop):
            for i, example in super()._generate_examples(start, stop):
                yield i, {**example, "image": PIL.Image.fromarray(IMAGES[i][: 3 + i % 2])}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    base.prepare(Shapes, folder)
    base.prepare(Ragged, folder)
    return folder


def test_a_tfds_directory_reads_back_what_was_written(data_dir):
    source = sources.load_tfds("shapes", data_dir)
    assert set(source.columns) == {"image", "label", "size"}
    assert source.columns["image"].shape == (30, 6, 5, 3)
    assert {name: c.dtype.name for name, c in source.columns.items()} == {
        "image": "uint8",
        "label": "int32",
        "size": "float32",
    }
    assert (source.num_classes, source.class_names) == (3, ("circle", "square", "star"))
    # TFDS orders a split by hashed keys; "size" says which example it was.
    written = (2 * source.columns["size"]).astype(int)
    np.testing.assert_array_equal(source.columns["image"], IMAGES[written])
    np.testing.assert_array_equal(source.columns["label"], LABELS[written])
    np.testing.assert_array_equal(source.splits["train"], np.arange(20))
    np.testing.assert_array_equal(source.splits["test"], np.arange(20, 30))
    assert set(written[source.splits["test"]]) == set(range(20, 30))


def test_above_the_memory_limit_images_are_read_on_demand(data_dir):
    whole = sources.load_tfds("shapes", data_dir)
    lazy = sources.load_tfds("shapes", data_dir, memory_limit=1000)
    assert set(lazy.columns) == {"label", "size"} and whole.read is None
    np.testing.assert_array_equal(lazy.columns["label"], whole.columns["label"])
    index = np.array([[3, 29], [20, 3], [19, 0]])
    read = lazy.read(index)
    assert set(read) == {"image"}
    np.testing.assert_array_equal(read["image"], whole.columns["image"][index])
    assert lazy.fingerprint == sources.load_tfds("shapes", data_dir, memory_limit=1).fingerprint


def test_splits_can_be_chosen(data_dir):
    test = sources.load_tfds("shapes:1.2.0", data_dir, splits=["test"])
    assert len(test) == 10 and list(test.splits) == ["test"]
    with pytest.raises(ValueError, match="splits \\['test', 'train'\\], wanted \\['dev'\\]"):
        sources.load_tfds("shapes", data_dir, splits=["dev"])


def test_images_of_several_sizes_need_a_transform(data_dir):
    with pytest.raises(ValueError, match="image of example .* pass transform= to make them one"):
        sources.load_tfds("ragged", data_dir)

    def top(example):
        return {**example, "image": example["image"][:3]}

    whole = sources.load_tfds("ragged", data_dir, transform=top)
    assert whole.columns["image"].shape == (30, 3, 5, 3)
    lazy = sources.load_tfds("ragged", data_dir, transform=top, memory_limit=1)
    np.testing.assert_array_equal(lazy.read([4, 25])["image"], whole.columns["image"][[4, 25]])


def test_a_set_that_is_not_prepared_is_named_with_the_way_to_prepare_it(data_dir, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        sources.load_tfds("fashion_mnist", data_dir)
    for part in (
        "'fashion_mnist' is not prepared",
        str(data_dir / "fashion_mnist"),
        "prepared there: ragged, shapes",
        f"tfds build fashion_mnist --data_dir={data_dir} --file_format=array_record",
        "digits, mnist_t10k",
    ):
        assert part in str(error.value)
    with pytest.raises(sources.NotPreparedError, match="there is no such folder"):
        sources.load_tfds("fashion_mnist", tmp_path / "none")
    with pytest.raises(sources.NotPreparedError, match="mnist_t10k.*raw files.*t10k-images"):
        sources.load_tfds("mnist_t10k", tmp_path, manual_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_set_without_random_access_is_refused(tmp_path):
    folder = base.prepare(Shapes, tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(sources.NotPreparedError, match="\\['tfrecord'\\], which has no random"):
        sources.load_tfds("shapes", tmp_path)


def test_the_digits_are_those_of_scikit_learn(tmp_path):
    source = sources.load_tfds("digits", tmp_path)
    digits = sklearn.datasets.load_digits()
    assert (len(source), source.num_classes, list(source.splits)) == (1797, 10, ["train"])
    grey = np.rint(source.columns["image"][..., 0] / 255.0 * 16).astype(int)
    ours = {(tuple(g.ravel()), int(y)) for g, y in zip(grey, source.columns["label"], strict=True)}
    pairs = zip(digits.images.astype(int), digits.target, strict=True)
    assert ours == {(tuple(image.ravel()), int(y)) for image, y in pairs}
    assert source.columns["image"].max() == 255
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    # Prepared twice, the examples have the same numbers.
    again = sources.load_tfds("digits", tmp_path / "again")
    assert (
        again.fingerprint == source.fingerprint == sources.load_tfds("digits", tmp_path).fingerprint
    )


def test_tensorflow_is_not_imported_even_where_it_is_installed(tmp_path):
    trap = tmp_path / "path" / "tensorflow"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("raise AssertionError('tensorflow was imported')")
    code = (
        "import sys; from kdjax.data import sources;"
        f"print(len(sources.load_tfds('digits', {str(tmp_path)!r})), 'tensorflow' in sys.modules)"
    )
    path = os.pathsep.join([str(trap.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.strip() == "1797 False", done.stderr


def test_two_processes_and_a_killed_one_leave_one_whole_set(tmp_path):
    folder, started = tmp_path / "data", tmp_path / "started"
    script = pathlib.Path(__file__).with_name("slow_builder.py")
    command = [sys.executable, str(script), str(folder), str(started)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.Popen(command, env=environment)
    while not started.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    with pytest.raises(sources.NotPreparedError, match="prepared there: nothing"):
        sources.load_tfds("slow", folder)
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(sources.load_tfds("slow", folder)) == 30


def test_arrays():
    source = sources.load_arrays(image=IMAGES, label=LABELS)
    assert (len(source), source.num_classes) == (30, 3)
    np.testing.assert_array_equal(source.splits["train"], np.arange(30))
    assert sources.load_arrays(label=LABELS, num_classes=7).num_classes == 7
    assert sources.load_arrays(image=IMAGES).num_classes is None


def test_npz_files_with_and_without_splits(tmp_path):
    np.savez(tmp_path / "one.npz", image=IMAGES, label=LABELS)
    one = sources.load_npz(tmp_path / "one.npz")
    assert one.fingerprint == sources.load_arrays(image=IMAGES, label=LABELS).fingerprint
    parts = {"train/image": IMAGES[:20], "train/label": LABELS[:20]}
    parts |= {"test/image": IMAGES[20:], "test/label": LABELS[20:]}
    np.savez(tmp_path / "two.npz", **parts)
    two = sources.load_npz(tmp_path / "two.npz")
    np.testing.assert_array_equal(two.columns["image"], IMAGES)
    np.testing.assert_array_equal(two.splits["test"], np.arange(20, 30))
    assert two.fingerprint != one.fingerprint
    with pytest.raises(FileNotFoundError, match="none.npz does not exist: wanted a file"):
        sources.load_npz(tmp_path / "none.npz")
    np.savez(tmp_path / "pickled.npz", label=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        sources.load_npz(tmp_path / "pickled.npz")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "got none"),
        ({"image": IMAGES, "label": LABELS[:4]}, "one length, got .*'label': 4"),
        ({"label": np.array(3)}, "one length, got {'label': None}"),
        ({"label": LABELS - 1}, "labels must be from 0 to 1, got -1 to 1"),
        ({"label": LABELS, "num_classes": 2}, "labels must be from 0 to 1, got 0 to 2"),
        ({"image": IMAGES[:0]}, "no examples"),
        ({"label": LABELS, "splits": {"train": [0, 30]}}, "numbers from 0 to 29, got 0 to 30"),
        ({"label": LABELS, "splits": {"train": [0, 1], "test": [1]}}, "must be disjoint"),
    ],
)
def test_bad_arrays_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        sources.load_arrays(**columns)


def test_a_fingerprint_changes_with_anything():
    whole = np.arange(6, dtype=np.int32)
    prints = [
        sources.fingerprint(columns, splits)
        for columns, splits in [
            ({"a": whole}, {"train": whole}),
            ({"b": whole}, {"train": whole}),
            ({"a": whole}, {"test": whole}),
            ({"a": whole}, {"train": whole[:5]}),
            ({"a": whole.reshape(2, 3)}, {"train": whole}),
            ({"a": whole.astype(np.uint32)}, {"train": whole}),
            ({"a": whole[::-1]}, {"train": whole}),
            ({"a": np.array(["ab", "c"], object)}, {"train": whole}),
            ({"a": np.array(["a", "bc"], object)}, {"train": whole}),
        ]
    ]
    assert len(set(prints)) == len(prints)
    both = {"a": whole, "b": whole[::2]}
    backwards = dict(reversed(both.items()))
    assert sources.fingerprint(both, {}) == sources.fingerprint(backwards, {})
    # A view and its copy hold the same data.
    assert sources.fingerprint({"a": both["b"]}, {}) == sources.fingerprint(
        {"a": both["b"].copy()}, {}
    )


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) if not isinstance(row, str) else row for row in rows))
    return path


def test_jsonl(tmp_path):
    train = [
        {"text": "a ä\n", "label": "spam", "x": [1.5, 2], "other": None},
        {"text": "b", "label": "ham", "x": [0, 1]},
    ]
    test = [{"text": "c", "label": "news", "x": [3, 4]}]
    files = {
        "train": write_lines(tmp_path / "train.jsonl", [*train, "", ""]),
        "test": write_lines(tmp_path / "test.jsonl", test),
    }
    source = sources.load_jsonl(files, ["text", "label", "x"])
    assert source.columns["text"].tolist() == ["a ä\n", "b", "c"]
    assert (source.class_names, source.num_classes) == (("ham", "news", "spam"), 3)
    np.testing.assert_array_equal(source.columns["label"], [2, 0, 1])
    np.testing.assert_array_equal(source.columns["x"], [[1.5, 2], [0, 1], [3, 4]])
    np.testing.assert_array_equal(source.splits["test"], [2])
    alone = sources.load_jsonl(files["train"], ["x"])
    assert list(alone.columns) == ["x"] and list(alone.splits) == ["train"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": 1, "label": 0}, "{x"], "data.jsonl, line 2: not JSON"),
        ([{"x": 1, "label": 0}, "[1]"], "line 2: wanted an object with .* no \\['x', 'label'\\]"),
        ([{"x": 1, "label": 0}, {"x": 2}], "line 2: .* no \\['label'\\] in"),
        ([{"x": [1, 2], "label": 0}, {"x": [1], "label": 0}], "object 1 has shape \\(1,\\)"),
        ([{"x": [1, 2], "label": 0}, {"x": [[1], 2], "label": 0}], "object 1 has shape ragged"),
        ([{"x": 1, "label": 0}, {"x": "a", "label": 0}], "x must be all strings or all numbers"),
        ([{"x": 2**31, "label": 0}], "x holds 2147483648, more than 32 bits"),
        ([{"x": None, "label": 0}], "x must be all strings or all numbers"),
        ([{"x": 1, "label": "a"}, {"x": 1, "label": 0}], "labels are partly strings"),
        ([], "no examples"),
    ],
)
def test_bad_jsonl_is_refused_with_the_line(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        sources.load_jsonl(write_lines(tmp_path / "data.jsonl", rows), ["x", "label"])
