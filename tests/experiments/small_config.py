"""The main job in its smallest form: an MLP teacher, two rows, few steps."""

from configs import digits


def get_config(arg=""):
    config = digits.get_config("tiny")
    run = config.run
    run.steps, run.batch = 30, 16
    run.teacher.steps = 20
    with run.unlocked():
        run.teacher.network = {"name": "multilayer_perceptron", "widths": (24,)}
        del run.rows["hint"]
        del run.rows["kd"]
    if "nan" in arg:
        run.student.optimiser.learning_rate, run.student.optimiser.warmup = 1e38, 0.0
    config.place.save_every, config.place.log_every, config.place.validate_every = 10, 5, 20
    return config
