"""Metrics on disk: what a kill leaves, what going on from a checkpoint leaves, and the events."""

import math
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from kdjax.report.writers import MetricWriter, read_metrics

ROOT = Path(__file__).parents[3]


def keys(workdir):
    lines = read_metrics(workdir / "metrics.jsonl")
    return [(line["row"], line["split"], line["step"]) for line in lines]


def crc32c(data):
    """Castagnoli's CRC, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def events(path):
    """The events of one file, every checksum verified."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12]) == (masked(data[:8]),)
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length]) == (masked(body),)
        yield Event.FromString(body)
        data = data[16 + length :]


def shown(run):
    """What TensorBoard shows of a run's folder: {(metric, step): value}.

    It reads the files by name; from the second start of a session on, a start drops what it has
    from that step on.
    """
    points, started = {}, False
    for path in sorted(run.iterdir()):
        assert "tfevents" in path.name
        for i, event in enumerate(events(path)):
            assert event.wall_time > 1e9
            if i == 0:
                assert event.file_version == "brain.Event:2"
            if event.session_log.status == SessionLog.START:
                points = {k: v for k, v in points.items() if not started or k[1] < event.step}
                started = True
            for value in event.summary.value:
                assert (value.tag, event.step) not in points, "drawn twice"
                points[value.tag, event.step] = value.simple_value
    return points


def logged(workdir, row, split, seed):
    """The same from metrics.jsonl."""
    return {
        (name, line["step"]): np.float32(np.atleast_1d(value)[seed])
        for line in read_metrics(workdir / "metrics.jsonl")
        if (line["row"], line["split"]) == (row, split)
        for name, value in line.items()
        if name not in ("row", "split", "step")
    }


def assert_events_agree(workdir, row, split, seeds):
    runs = sorted((workdir / "events" / row).glob(f"seed_*/{split}"))
    assert [run.parent.name for run in runs] == [f"seed_{k}" for k in range(seeds)]
    for seed, run in enumerate(runs):
        expected = logged(workdir, row, split, seed)
        points = shown(run)
        assert points.keys() == expected.keys() and expected
        for key, value in expected.items():
            np.testing.assert_array_equal(np.float32(points[key]), value)


def write_some(writer, row, steps):
    for step in steps:
        writer.write(row, step, {"labels": np.array([0.5, 1.0 / step]), "kd": [1.0, 2.0]})
        if step % 20 == 0:
            writer.write(row, step, {"accuracy": [0.1 * step, 0.9]}, split="validation")


def test_lines_come_back_with_what_is_not_finite(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write("inf", 3, {"labels": math.nan, "kd": [math.inf, -math.inf]}, split="nan")
    writer.write("inf", np.int64(4), {"labels": np.float32(0.5)})
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(first.pop("labels"))
    assert first == {"row": "inf", "step": 3, "split": "nan", "kd": [math.inf, -math.inf]}
    assert second == {"row": "inf", "step": 4, "split": "train", "labels": 0.5}
    points = shown(tmp_path / "events" / "inf" / "seed_1" / "nan")
    assert points == {("kd", 3): -math.inf}


@pytest.mark.parametrize("name", ["row", "step", "split"])
def test_a_metric_that_would_hide_a_key_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"cannot be named '{name}'"):
        MetricWriter(tmp_path).write("kd", 1, {"labels": 1.0, name: 2.0})
    assert list(tmp_path.iterdir()) == []


def test_events_hold_every_scalar_of_every_seed(tmp_path):
    writer = MetricWriter(tmp_path)
    write_some(writer, "kd", range(10, 60, 10))
    writer.write("teacher", 10, {"labels": 0.25})
    for split in ("train", "validation"):
        assert_events_agree(tmp_path, "kd", split, seeds=2)
    assert_events_agree(tmp_path, "teacher", "train", seeds=1)


def test_rewind_drops_the_later_lines_of_one_row(tmp_path):
    writer = MetricWriter(tmp_path)
    write_some(writer, "alone", [10, 20, 30])
    write_some(writer, "kd", [10, 20, 30, 40])
    writer.rewind("kd", 20)
    alone = [("alone", "train", 10), ("alone", "train", 20), ("alone", "validation", 20),
             ("alone", "train", 30)]  # fmt: skip
    assert keys(tmp_path) == [
        *alone, ("kd", "train", 10), ("kd", "train", 20), ("kd", "validation", 20),
    ]  # fmt: skip
    writer.rewind("kd", 19, split="validation")
    assert keys(tmp_path) == [*alone, ("kd", "train", 10), ("kd", "train", 20)]
    writer.rewind("kd", 0)
    assert keys(tmp_path) == alone


def test_rewind_of_nothing_leaves_nothing(tmp_path):
    MetricWriter(tmp_path).rewind("kd", 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("again", [False, True], ids=["same process", "next process"])
def test_events_after_going_on_show_every_step_once(again, tmp_path):
    writer = MetricWriter(tmp_path)
    write_some(writer, "kd", [10, 20, 30, 40])
    write_some(writer, "alone", [10, 20])
    writer = MetricWriter(tmp_path) if again else writer
    writer.rewind("kd", 20)
    write_some(writer, "kd", [30, 40])
    writer.rewind("kd", 39, split="validation")
    writer.write("kd", 40, {"accuracy": [0.7, 0.8]}, split="validation")
    for row in ("kd", "alone"):
        for split in ("train", "validation"):
            assert_events_agree(tmp_path, row, split, seeds=2)


def test_a_run_that_goes_on_at_once_drops_its_events_too(tmp_path):
    write_some(MetricWriter(tmp_path), "kd", [10, 20, 30])
    MetricWriter(tmp_path).rewind("kd", 0)
    assert shown(tmp_path / "events" / "kd" / "seed_0" / "train") == {}
    assert keys(tmp_path) == []


def test_a_line_cut_at_any_byte_is_dropped_and_harms_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(tmp_path)
    writer.write("kd", 10, {"labels": 1.0})
    whole = path.read_bytes()
    writer.write("kd", 20, {"labels": [2.0, math.nan]})
    both = path.read_bytes()
    for cut in range(len(whole) + 1, len(both) - 1):
        path.write_bytes(both[:cut])
        assert keys(tmp_path) == [("kd", "train", 10)]
        writer.rewind("kd", 10)
        assert path.read_bytes() == whole
    path.write_bytes(both[:-1])
    writer.rewind("kd", 20)
    assert path.read_bytes() == both

    path.write_bytes(both[:-5])
    writer.write("kd", 30, {"labels": 3.0})
    assert keys(tmp_path) == [("kd", "train", 10), ("kd", "train", 30)]


def test_events_of_the_next_process_stand_apart_from_a_torn_record(tmp_path):
    write_some(MetricWriter(tmp_path), "kd", [10, 20])
    run = tmp_path / "events" / "kd" / "seed_0" / "train"
    (torn,) = run.iterdir()
    torn.write_bytes(torn.read_bytes()[:-3])
    writer = MetricWriter(tmp_path)
    writer.rewind("kd", 10)
    write_some(writer, "kd", [20, 30])
    files = sorted(run.iterdir())
    assert files[0] == torn and len(files) == 2
    steps = [event.step for event in events(files[1]) if event.summary.value]
    assert steps == [20, 30]
    start = next(event for event in events(files[1]) if event.session_log.status)
    assert start.session_log.status == SessionLog.START and start.step == 11


def test_a_killed_process_leaves_all_it_wrote(tmp_path):
    script = """
import os, signal, sys
from kdjax.report.writers import MetricWriter
writer = MetricWriter(sys.argv[1])
for step in range(1, 26):
    writer.write("kd", step, {"labels": [1.0 / step, 2.0]})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert keys(tmp_path) == [("kd", "train", step) for step in range(1, 26)]
    assert_events_agree(tmp_path, "kd", "train", seeds=2)
