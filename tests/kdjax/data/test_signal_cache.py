"""The signal cache: what comes back is what was written, or an error says what is wrong."""

import dataclasses
import fcntl
import hashlib
import os
import signal as process_signals
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import written_cache
from array_record.python import array_record_module
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from kdjax.data import _signal_formats, signal_cache, streams
from kdjax.data.plans import IndexPlan
from kdjax.losses import softened_kl_divergence
from kdjax.losses.divergences import kl_of_log_probs
from kdjax.networks.network import Network, Outputs
from kdjax.signals import Dense, HiddenHead, Sampled, TopK, logits_of, sample, signal_divergence
from kdjax.signals import top_k as top_k_signal
from kdjax.train import build_train_step, init_state, scanned, term
from kdjax.train.method import Phase
from tools.bench import signal_cache as bench

HERE = Path(__file__).parent
BINDING = written_cache.BINDING


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished cache. Tests that damage one copy its files."""
    folder = tmp_path_factory.mktemp("caches") / "whole"
    assert written_cache.write(folder) == written_cache.SHARDS
    return folder


@pytest.fixture
def copied(whole, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in whole.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def shard(folder, number):
    (path,) = folder.glob(f"shard-{number:05d}-*")
    return path


def renamed(path, number=None):
    """The shard under the name that its bytes ask for, and maybe another number."""
    parts = path.name.split("-")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = "-".join(
        [parts[0], parts[1] if number is None else f"{number:05d}", *parts[2:4], digest]
    )
    return path.rename(path.with_name(name + ".array_record"))


def read_everything(folder, *, verify):
    cache = signal_cache.SignalCache(folder, BINDING, verify=verify)
    return cache.read(written_cache.EXAMPLES[:, None], np.array(written_cache.SEEDS))


def record_of(path, row=0):
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        return reader.read([row])[0]
    finally:
        reader.close()


def rewritten(path, change):
    """The shard with `change(records)` in it, well-formed and well-named."""
    reader = array_record_module.ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in change(records):
        writer.write(record)
    writer.close()
    return renamed(path)


# What comes back


def test_any_examples_and_seeds_come_back_in_any_order(whole):
    cache = signal_cache.SignalCache(whole, BINDING)
    assert len(cache) == 80
    rng = np.random.default_rng(0)
    examples, seeds = rng.choice(written_cache.EXAMPLES, (3, 5)), rng.choice([7, 0], (3, 5))
    found, where = cache.read(examples, seeds)
    assert found.log_probs.shape == (3, 5, 6, 4) and where.shape == (3, 5, 6)
    for place in np.ndindex(3, 5):
        wanted, mask = written_cache.expected(examples[place], seeds[place])
        np.testing.assert_array_equal(where[place], mask)
        for field in ("log_probs", "classes", "log_tail"):
            got, value = getattr(found, field)[place], getattr(wanted, field)
            np.testing.assert_array_equal(got[mask], value[mask])
            assert not got[~mask].any()


def test_a_seed_is_part_of_the_key(whole):
    cache = signal_cache.SignalCache(whole, BINDING)
    assert (cache.read([3], 7)[0].log_probs != cache.read([3], 0)[0].log_probs).any()
    with pytest.raises(KeyError, match="no augmentation seed 1 in the cache"):
        cache.read([3], 1)
    with pytest.raises(KeyError, match="no example 4 in the cache"):
        cache.read([3, 4], 0)
    with pytest.raises(KeyError, match="no example 1000"):
        cache.read([1000], 0)


# Writing


def run(folder, part, parts, threads, calls):
    return subprocess.Popen(
        [sys.executable, HERE / "written_cache.py", folder, *map(str, (part, parts, threads, calls))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
    )  # fmt: skip


def test_killed_while_writing_it_goes_on_and_ends_with_the_same_bytes(whole, tmp_path):
    # Three batches a shard: the twentieth call is in the middle of one.
    killed = run(tmp_path, 0, 1, 2, 20)
    killed.communicate()
    assert killed.returncode == -process_signals.SIGKILL
    finished = {p.name: p.stat() for p in tmp_path.glob("shard-*")}
    assert 3 <= len(finished) <= 6 and list(tmp_path.glob(".shard-*.tmp"))
    with pytest.raises(
        FileNotFoundError, match=r"of 16 shards are missing, the first is shard \d+"
    ):
        signal_cache.SignalCache(tmp_path, BINDING)
    both = [run(tmp_path, part, 2, 1, 0) for part in range(2)]
    printed = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert sum(int(out) for out, _ in printed) == written_cache.SHARDS - len(finished)
    assert contents(tmp_path) == contents(whole)
    for name, before in finished.items():
        after = (tmp_path / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_threads_and_parts_in_any_order_write_the_same_bytes(whole, tmp_path):
    for part in (2, 0, 1):
        written_cache.write(tmp_path, part=(part, 3), threads=1 + part)
    assert contents(tmp_path) == contents(whole)
    assert written_cache.write(tmp_path, signal_of=None) == 0


def test_two_calls_do_not_write_one_shard(tmp_path):
    with open(tmp_path / ".shard-00002.tmp", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="another call is writing shard 2"):
            written_cache.write(tmp_path)


def test_a_shard_that_another_call_finishes_meanwhile_is_left_alone(whole, tmp_path):
    def meanwhile(examples, seeds):
        if not list(tmp_path.glob("shard-*")):
            assert written_cache.write(tmp_path, part=(1, written_cache.SHARDS)) == 1
        return written_cache.signal_of(examples, seeds)

    assert written_cache.write(tmp_path, meanwhile) == written_cache.SHARDS - 1
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("teacher", {"binding": dataclasses.replace(BINDING, teacher="x")}),
        ("tokenizer", {"binding": dataclasses.replace(BINDING, tokenizer=None)}),
        ("data", {"binding": dataclasses.replace(BINDING, data="x")}),
        ("seeds", {"seeds": (7,)}),
        ("length", {"length": 7}),
        ("batch_size", {"batch_size": 5}),
        ("shard_size", {"shard_size": 10}),
    ],
)
def test_going_on_with_something_else_is_refused(whole, name, changes):
    before = contents(whole)
    with pytest.raises(ValueError, match=f"signals of another {name}: wanted"):
        written_cache.write(whole, **changes)
    assert contents(whole) == before


def test_an_error_of_the_teacher_leaves_no_shard(tmp_path):
    def fails(examples, seeds):
        raise OSError("the teacher is gone")

    with pytest.raises(OSError, match="the teacher is gone"):
        written_cache.write(tmp_path, fails, threads=2)
    assert not list(tmp_path.glob("shard-*"))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda s: dataclasses.replace(s, temperature=2.0), ValueError, "temperature 1.0, got 2.0"),
        (lambda s: Dense(s.log_probs), TypeError, "must give TopK, got Dense"),
        (
            lambda s: dataclasses.replace(s, log_tail=s.log_tail[:, 1:]),
            ValueError,
            r"signal.log_tail must have shape \(2, 6\), got \(2, 5\)",
        ),
        (
            lambda s: dataclasses.replace(s, log_probs=s.log_probs * np.nan),
            ValueError,
            "example 117 under augmentation seed 7: log_probs and log_tail must be logs",
        ),
        (lambda s: dataclasses.replace(s, classes=s.classes + 50), ValueError, "from 0 to 49"),
        (lambda s: dataclasses.replace(s, classes=s.classes * 0), ValueError, "must be distinct"),
    ],
)
def test_signals_that_do_not_fit_are_refused(tmp_path, change, error, message):
    def changed(examples, seeds):
        found, _ = written_cache.signal_of(examples, seeds)
        return change(found), None

    with pytest.raises(error, match=message):
        written_cache.write(tmp_path, changed)


# Damage


@pytest.mark.parametrize("name", ["teacher", "tokenizer", "data"])
def test_another_teacher_tokenizer_or_data_is_refused_by_name(whole, name):
    other = dataclasses.replace(BINDING, **{name: "other"})
    with pytest.raises(ValueError, match=f"signals of another {name}: wanted 'other', got"):
        signal_cache.SignalCache(whole, other)


@pytest.mark.parametrize("verify", [True, False])
def test_a_flipped_bit_is_found_wherever_it_is(copied, verify):
    path = shard(copied, 3)
    content = path.read_bytes()
    expected = read_everything(copied, verify=True)
    first = content.index(record_of(path))
    # In the first record, and anywhere: most of a file so small is padding, which nothing reads.
    places = [*range(first, first + 60, 3), *range(0, len(content), len(content) // 20)]
    found = 0
    for at in places:
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        try:
            got = read_everything(copied, verify=verify)
        except ValueError as error:
            found += 1
            assert path.name in str(error)
        else:
            assert not verify
            jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert found == len(places) if verify else found >= 20


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("left", [0, 100, 65536, -1000, -1])
def test_a_truncated_shard_is_an_error(copied, left, verify):
    path = shard(copied, 3)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        read_everything(copied, verify=verify)


def test_swapped_records_are_an_error_that_names_both(copied):
    rewritten(shard(copied, 0), lambda r: [r[2], r[1], r[0], *r[3:]])
    message = (
        "shard-00000-.*: in the place of example 117 under augmentation seed 7 is the record of "
        "example 114 under augmentation seed 7"
    )
    with pytest.raises(ValueError, match=message):
        read_everything(copied, verify=True)


def test_a_record_less_or_more_is_an_error(copied):
    for change in (lambda r: r[:-1], lambda r: [*r, r[0], r[0]]):
        rewritten(shard(copied, 0), change)
        with pytest.raises(ValueError, match="must hold 5 records, got"):
            read_everything(copied, verify=True)


def test_swapped_shards_are_an_error(copied):
    first, second = shard(copied, 0), shard(copied, 1)
    renamed(first, 99)
    renamed(second, 0)
    renamed(shard(copied, 99), 1)
    with pytest.raises(ValueError, match="in the place of example 117 .* of example 111"):
        read_everything(copied, verify=True)


def test_a_shard_of_another_cache_is_an_error(copied, tmp_path):
    other = dataclasses.replace(BINDING, teacher="other")
    written_cache.write(tmp_path / "other", binding=other)
    shard(copied, 2).unlink()
    foreign = shard(tmp_path / "other", 2)
    foreign.rename(copied / foreign.name)
    message = f"{foreign.name}: the record of example 102 .* is damaged, or of another cache"
    with pytest.raises(ValueError, match=message):
        read_everything(copied, verify=True)


def test_a_forged_description_does_not_make_another_cache_of_it(copied):
    path = copied / "cache.json"
    path.write_text(path.read_text().replace('"aaa"', '"zzz"'))
    cache = signal_cache.SignalCache(copied, dataclasses.replace(BINDING, teacher="zzz"))
    with pytest.raises(ValueError, match="is damaged, or of another cache"):
        cache.read([3])
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match="cache.json is damaged"):
        signal_cache.SignalCache(copied, BINDING)


def test_missing_and_doubled_files_are_errors(copied, tmp_path):
    path = shard(copied, 3)
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="1 of 16 shards are missing, the first is shard 3"):
        signal_cache.SignalCache(copied, BINDING)
    path.write_bytes(content)
    (copied / path.name.replace(path.stem[-4:], "0000")).write_bytes(content)
    with pytest.raises(ValueError, match="shard 3 is there twice"):
        signal_cache.SignalCache(copied, BINDING)
    with pytest.raises(FileNotFoundError, match="holds no signal cache"):
        signal_cache.SignalCache(tmp_path, BINDING)
    arrays = copied / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:-1])
    with pytest.raises(ValueError, match="arrays.npz is damaged"):
        signal_cache.SignalCache(copied, BINDING)


# Formats


@settings(max_examples=60, deadline=None)
@given(
    numpy_st.arrays(np.int64, st.integers(0, 60), elements=st.integers(0, 3000)),
    st.binary(max_size=5),
    st.binary(max_size=5),
)
def test_packed_integers_come_back_from_between_other_bytes(values, before, after):
    packed = before + _signal_formats.pack_integers(values) + after
    found, end = _signal_formats.unpack_integers(packed, len(values), len(before))
    np.testing.assert_array_equal(found, values)
    assert packed[end:] == after


def test_packed_integers_are_near_their_entropy():
    values = np.random.default_rng(0).geometric(1 / 700, 20_000) - 1
    p = 1 / 700
    entropy = (-p * np.log2(p) - (1 - p) * np.log2(1 - p)) / p
    assert 8 * len(_signal_formats.pack_integers(values)) / 20_000 < entropy + 0.1


def encoded_and_back(format, **arrays):
    content = format.encode(**arrays)
    (n,) = {len(x) for x in arrays.values()}
    return content, format.decode(content, n)


CASES = [(kind, v, k) for kind in bench.LOGITS for v in (128_256, 32_768) for k in (128, 50)]


@pytest.mark.parametrize("kind, classes, k", CASES)
def test_top_k_is_smaller_than_the_published_format_at_no_more_error(kind, classes, k):
    log_probs, ids, tail = bench.best_classes(bench.LOGITS[kind](24, classes, 0), k)
    published, published_error = bench.polynomial(log_probs, classes)
    for step in (1 / 32, 1 / 16) if k == 128 else (1 / 8,):
        format = signal_cache.TopKFormat(classes, k, step=step)
        content, got = encoded_and_back(format, log_probs=log_probs, classes=ids, log_tail=tail)
        order = np.argsort(ids, axis=1)
        np.testing.assert_array_equal(got["classes"], np.take_along_axis(ids, order, 1))
        error = np.abs(got["log_probs"] - np.take_along_axis(log_probs, order, 1))
        assert error.max() <= step / 2 + 1e-5 and error.mean() < 0.26 * step
        np.testing.assert_allclose(got["log_tail"], tail, rtol=2**-11)
        assert len(content) / 24 < published
        assert error.mean() < published_error


def test_the_published_figures():
    # 328 bytes at k = 128 and 121 at k = 50, measured on V = 128,256.
    log_probs, _, _ = bench.best_classes(bench.LOGITS["normal"](4, 128_256, 0), 128)
    assert bench.polynomial(log_probs, 128_256)[0] == 328
    assert 120 < bench.polynomial(log_probs[:, :50], 128_256)[0] <= 121


def test_the_suite_measures_what_the_formats_promise():
    (row,) = bench.rows("top_k/normal/V=32768/k=50/1/8")
    assert 0.85 < row["ratio"] < 0.95 and row["ratio"] == pytest.approx(
        row["bytes"] / 108, rel=0.02
    )
    assert 0.03 < row["error"] < 0.033 and 0.06 < row["worst"] <= 0.0626
    assert 0 < row["kl"] < 1e-3 and row["encoded"] > 0 and row["decoded"] > 0


def test_top_k_keeps_unused_slots_and_tokens_of_all_mass():
    none = -np.inf
    log_probs = np.array([[-1.0, none, -2.0], [none, none, none], [0.0, -900.0, -40.0]], np.float32)
    ids = np.array([[9, 2, 0], [0, 0, 0], [1, 0, 2]], np.int32)
    tail = np.array([-0.7, 0.0, none], np.float32)
    for step in (1 / 32, None):
        format = signal_cache.TopKFormat(10, 3, step=step)
        _, got = encoded_and_back(format, log_probs=log_probs, classes=ids, log_tail=tail)
        sorted_by_class = [[-2.0, -1.0, none], [none, none, none], [-900.0, 0.0, -40.0]]
        np.testing.assert_array_equal(got["log_probs"], sorted_by_class)
        np.testing.assert_array_equal(got["classes"], [[0, 9, 0], [0, 0, 0], [0, 1, 2]])
        np.testing.assert_allclose(got["log_tail"], tail, rtol=2**-11)
    log_probs[0, 0] = -1e9
    with pytest.raises(ValueError, match="must be above -1000"):
        signal_cache.TopKFormat(10, 3).encode(log_probs, ids, tail)


@pytest.mark.parametrize("exponent", [1.0, 0.7])
def test_sampled_targets_come_back_exactly(exponent):
    logits = bench.LOGITS["normal"](30, 1000, 0)
    drawn = sample(jax.random.key(0), jnp.asarray(logits, jnp.float32), 12, exponent=exponent)
    arrays = {name: np.asarray(getattr(drawn, name)) for name in ("classes", "weights", "entropy")}
    content, got = encoded_and_back(signal_cache.SampledFormat(1000, 12), **arrays)
    order = np.argsort(arrays["classes"], axis=1)
    np.testing.assert_array_equal(
        got["classes"], np.take_along_axis(arrays["classes"], order, axis=1)
    )
    for token in range(30):  # the draws of one class are equal, so their order is no matter
        pairs = [
            sorted(zip(x["classes"][token], x["weights"][token], strict=True))
            for x in (arrays, got)
        ]
        np.testing.assert_allclose(*pairs, rtol=1e-5 if exponent == 1 else 0)
    np.testing.assert_array_equal(got["entropy"], arrays["entropy"])
    assert (len(content) / 30 < 25) == (exponent == 1)
    values = [
        signal_divergence(kl_of_log_probs, jnp.zeros((30, 1000)), Sampled(**x))
        for x in (arrays, got)
    ]
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_dense_and_hidden_formats():
    x = np.random.default_rng(0).normal(size=(9, 40)).astype(np.float32) * 5
    x[3] = 0
    for kind, name in ((signal_cache.DenseFormat, "logits"), (signal_cache.HiddenFormat, "hidden")):
        for dtype in ("float32", "bfloat16", "float16"):
            content, got = encoded_and_back(kind(40, dtype), **{name: x})
            np.testing.assert_array_equal(got[name], x.astype(jnp.dtype(dtype)))
            assert len(content) == 9 * 40 * jnp.dtype(dtype).itemsize
        content, got = encoded_and_back(kind(40, "int8"), **{name: x})
        assert len(content) == 9 * 44 and got[name].dtype == np.float32
        bound = np.abs(x).max(axis=1, keepdims=True) / 254
        assert (np.abs(got[name] - x) <= bound * 1.0001).all()
    masked = np.where(x > 0, x, -np.inf)
    np.testing.assert_array_equal(
        encoded_and_back(signal_cache.DenseFormat(40), logits=masked)[1]["logits"], masked
    )
    for dtype, value, message in [
        ("float16", 1e6, "fit in float16"), ("int8", np.inf, "finite"), ("float32", np.nan, "nan")
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            signal_cache.DenseFormat(40, dtype).encode(np.full((1, 40), value))
    with pytest.raises(ValueError, match="dtype must be one of .*, got 'int4'"):
        signal_cache.HiddenFormat(40, "int4")


def test_hidden_states_come_back_with_the_teachers_head(tmp_path):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(6, 3, 8)).astype(jnp.bfloat16)
    constants = {"head": rng.normal(size=(8, 20)).astype(jnp.bfloat16), "softcap": 4.0}
    format = signal_cache.HiddenFormat(8)

    def signal_of(examples, seeds):
        return HiddenHead(hidden[examples], **constants), None

    given = {"binding": BINDING, "length": 3, "batch_size": 4}
    for wrong in (None, {"head": np.zeros((9, 20))}, {**constants, "weight": 1.0}):
        with pytest.raises(ValueError, match="constants .*must"):
            signal_cache.write(tmp_path, signal_of, range(6), format, constants=wrong, **given)
    signal_cache.write(tmp_path, signal_of, range(6), format, constants=constants, **given)
    cache = signal_cache.SignalCache(tmp_path, BINDING)
    found, where = cache.read([4, 1])
    assert where.all() and found.head is None
    complete = dataclasses.replace(found, **cache.constants)
    live = HiddenHead(jnp.asarray(hidden[[4, 1]]), jnp.asarray(constants["head"]), softcap=4.0)
    np.testing.assert_allclose(logits_of(complete), logits_of(live), rtol=1e-5, atol=1e-6)
    student = jnp.asarray(rng.normal(size=(2, 3, 20)), jnp.float32)
    values = [signal_divergence(kl_of_log_probs, student, x) for x in (complete, live)]
    np.testing.assert_allclose(*values, rtol=1e-5)


# In a step


CLASSES, WIDTH = 11, 5


def network(seed):
    def init(key, inputs):
        weight = np.random.default_rng(seed).normal(size=(WIDTH, CLASSES)).astype(np.float32)
        return {"params": {"w": jnp.asarray(weight)}, "model": {}}

    def apply(variables, inputs, *, train, rngs):
        return Outputs(inputs @ variables["params"]["w"], {}), variables["model"]

    return Network(init, apply)


def trained(objective, stream, frozen):
    """Parameters after three steps of the loop's own scan."""
    optimisers = {"student": optax.sgd(0.5)}
    nets = {"student": network(1), "teacher": network(2)}
    state = init_state(jax.random.key(0), nets, {"student": jnp.zeros((1, WIDTH))}, optimisers)

    def builder(axis):
        return build_train_step(nets, (Phase(objective, ("student",)),), optimisers, axis=axis)

    shared = {"frozen": frozen, "resident": {"text": dict(stream.resident)}}
    chunk = jax.jit(scanned(builder, {"text": stream})(None))
    return chunk(state, shared, {"text": stream.xs(0, 0, 3)})[0].params["student"]["w"]


@pytest.mark.parametrize("length", [4, None])
@pytest.mark.parametrize("kind", ["dense", "top_k"])
def test_a_step_from_the_cache_is_a_step_from_the_live_teacher(tmp_path, kind, length):
    shape = (20, WIDTH) if length is None else (20, length, WIDTH)
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    where = np.random.default_rng(1).random(shape[:-1]) < 0.7
    teacher = network(2)
    frozen = {"teacher": teacher.init(None, None)["params"]}
    variables = {"params": frozen["teacher"], "frozen": {}, "model": {}}

    def live(scope):
        batch = scope.batch["text"]
        student, _ = scope.apply("student", batch["inputs"])
        logits, _ = scope.apply("teacher", batch["inputs"])
        values = softened_kl_divergence(student.logits, logits.logits, temperature=2.0)
        return {"kd": term(values, where=batch["kept"])}, {}

    def cached(scope):
        batch = scope.batch["text"]
        student, _ = scope.apply("student", batch["inputs"])
        values = signal_divergence(
            kl_of_log_probs, student.logits, batch["teacher"],
            temperature=2.0, where=batch["teacher_where"],
        )  # fmt: skip
        return {"kd": term(values, where=batch["teacher_where"])}, {}

    @jax.jit
    def forward(x):
        logits = teacher.apply(variables, x, train=False, rngs={})[0].logits
        return Dense(logits) if kind == "dense" else top_k_signal(logits, CLASSES)

    def signal_of(examples, seeds):
        return forward(inputs[examples]), where[examples]

    format = {
        "dense": signal_cache.DenseFormat(CLASSES),
        "top_k": signal_cache.TopKFormat(CLASSES, CLASSES, step=None),
    }[kind]
    signal_cache.write(
        tmp_path, signal_of, np.arange(20), format,
        binding=BINDING, length=length, batch_size=8, shard_size=7,
    )  # fmt: skip
    read = signal_cache.SignalCache(tmp_path, BINDING).reader("teacher")
    plan = IndexPlan(np.arange(20), 8)
    columns = {"inputs": inputs, "kept": where}
    assert isinstance(read(np.arange(3))["teacher"], Dense if kind == "dense" else TopK)
    expected = trained(live, streams.Stream(plan, columns), frozen)
    found = trained(cached, streams.Stream(plan, {"inputs": inputs}, read), {})
    assert np.abs(expected - network(1).init(None, None)["params"]["w"]).max() > 0.1
    if kind == "dense":
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
