"""Studies in their tiny form, with one traced step in place of each training: what it measures is there."""

import importlib

import numpy as np
import pytest

from experiments import setup, study, train_teacher, training, tuning

# Some of each kind: closed forms, images, texts whose networks come from one another, retrieval.
STUDIES = [
    ("logits", "empsel"),
    ("features", "teacher_class"),
    ("features", "auto_transfer"),
    ("multi_teacher", "recon"),
    ("multi_teacher", "sak"),
    ("augmentation", "hard"),
    ("online", "comd"),
    ("privacy", "swing_distillation"),
    ("lm", "rapid"),
    ("lm", "context_aware_ctc"),
    ("lm", "gecturk"),
    ("retrieval", "lead"),
]


class Traced(study.Bench):
    """A bench whose networks stay as they were drawn; their steps are traced, not compiled."""

    def fit(self, name, method, nets, inputs, data, **settings):
        found = []

        def one_step(run, stage, frozen, seeds, digests, validate):
            tuning.training_flops(stage, seeds, frozen)  # traces a step
            state, _ = stage.init(frozen)
            for values in validate(state).values():
                assert np.shape(values) == (len(seeds),)
            found.append(state)
            return training.Trained(state, 0.0, {})

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(training, "train_row", one_step)
            patched.setattr(tuning, "tune", lambda run, name, build, frozen, score: {})
            return super().fit(name, method, nets, inputs, data, **settings)


@pytest.mark.full
@pytest.mark.parametrize("file, name", STUDIES)
def test_what_a_study_claims_is_measured_for_every_seed(file, name, tmp_path):
    config = importlib.import_module(f"configs.{file}").get_config(f"{name},tiny")
    tuning.check_measurement(config)
    source = None
    if "manual_dir" in config.run.data:
        config.run.data.data_dir = str(tmp_path / "data")
        source = train_teacher.load_source(config.run.data)
    run = setup.open_run(config, tmp_path / "run", "")
    found = study.named_studies()[config.run.study](Traced(run, source, {}))
    assert set(config.run.rows) <= set(found)
    for claim in config.run.claims.values():
        for row in (claim.row, *claim.over):
            values = study.by_metric(found[row], config.run.seeds)
            assert len(values[claim.metric]) == config.run.seeds, (row, claim.metric)
