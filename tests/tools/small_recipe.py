"""A recipe of the catalogue in its smallest form: plain KD over labels alone, on the digits."""

from configs import measured


def get_config(arg=""):
    del arg
    config = measured.classification(rows={}, claims={"kd": measured.claim("kd", over=["alone"])})
    measured.shrink(config)
    run = config.run
    run.steps, run.teacher.steps = 20, 20
    run.teacher.network.widths = (16,)
    run.tune.trials = 2
    run.tune.grid.alone.rate = (0.3, 1.0)
    run.tune.grid.kd.rate, run.tune.grid.kd.weight = (1.0,), (0.5, 0.9)
    config.place.shared_rows = ()
    return config
