"""What README promises runs as it stands."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_notebook_path_runs_and_the_loss_is_finite():
    text = (ROOT / "README.md").read_text()
    (block,) = (
        b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "train.place" in b
    )
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = ast.literal_eval(done.stdout)
    assert set(printed) == {"labels", "kd"} and all(0 < v < 10 for v in printed.values())


def test_the_files_and_commands_that_it_names_exist():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:configs|kdjax|tools|experiments)/[\w/.]+)", text):
        assert (ROOT / path.rstrip(".")).exists(), path
    for module in re.findall(r"python -m ([\w.]+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
