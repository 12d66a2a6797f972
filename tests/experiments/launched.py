"""An experiment as a process of its own, which `killed.py` may kill at a named point."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def environment(home, devices=1):
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "XLA_FLAGS": "--xla_backend_optimization_level=0 "
        f"--xla_force_host_platform_device_count={devices}",
    }


def command(workdir, point="never", *flags, module="experiments.distill", config=""):
    return [
        sys.executable, HERE / "killed.py", point, module,
        f"--config={HERE / 'small_config.py'}:{config}", f"--workdir={workdir}", *flags,
    ]  # fmt: skip
