"""Who may import whom, read from the sources; and what `import kdjax` must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVERYWHERE = set(sys.stdlib_module_names) | {"numpy", "jax", "optax"}

# DESIGN's table: beyond the standard library, numpy, jax, optax and the package itself.
ALLOWED = {
    "losses": set(),
    "signals": {"kdjax.losses"},
    "surgery": set(),
    "networks": {"flax", "safetensors"},
    "generate": {"kdjax.networks"},
    "metrics": {"kdjax.losses"},
    "data": {
        "tensorflow_datasets",
        "grain",
        "array_record",
        "PIL",
        "sklearn",
        "absl",
        "tokenizers",
    },
    "train": {
        "kdjax.losses",
        "kdjax.signals",
        "kdjax.metrics",
        "kdjax.networks.network",
        "kdjax.networks.fingerprint",
        "kdjax.data.streams",
        "orbax",
    },
    "methods": {"kdjax.losses", "kdjax.signals", "kdjax.networks", "kdjax.train"},
    "report": {"scipy", "matplotlib", "rich", "tensorboardX"},
}
ORBAX_FILE = "kdjax/train/checkpoints.py"
SIGNALS_FILE = "kdjax/data/signal_cache.py"


def imports(path):
    """The modules that a file imports, at any depth of it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            top = node.module.split(".")[0]
            if top in ("kdjax", "configs", "experiments", "tools"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [
                    n for n in names if (ROOT / n.replace(".", "/")).with_suffix(".py").exists()
                ]
                packages = [n for n in names if (ROOT / n.replace(".", "/")).is_dir()]
                yield from modules + packages or [node.module]
            else:
                yield node.module


def permitted(module, allowed):
    return any(module == name or module.startswith(name + ".") for name in allowed)


def sources(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize(
    "package",
    sorted(p.name for p in (ROOT / "kdjax").iterdir() if p.is_dir() and p.name != "__pycache__"),
)
def test_a_package_imports_only_what_the_design_allows(package):
    allowed = EVERYWHERE | ALLOWED[package] | {f"kdjax.{package}"}
    for path in sources(f"kdjax/{package}"):
        relative = path.relative_to(ROOT).as_posix()
        for module in imports(path):
            own = {"kdjax.signals"} if relative == SIGNALS_FILE else set()
            assert permitted(module, allowed | own), f"{relative} imports {module}"
            if module.split(".")[0] == "orbax":
                assert relative == ORBAX_FILE, f"{relative} imports orbax"


@pytest.mark.parametrize("path", sources("configs"), ids=lambda p: p.name)
def test_configs_import_only_ml_collections(path):
    for module in imports(path):
        assert permitted(module, EVERYWHERE - {"jax", "optax"} | {"ml_collections", "configs"}), (
            module
        )


@pytest.mark.parametrize("path", sources("experiments"), ids=lambda p: p.name)
def test_experiments_import_kdjax_configs_and_flags(path):
    allowed = EVERYWHERE | {"kdjax", "configs", "experiments", "ml_collections", "absl"}
    if path.parent.name == "studies":  # their rankers and judges
        allowed.add("sklearn")
    for module in imports(path):
        assert permitted(module, allowed), module


@pytest.mark.parametrize("path", sources("tools"), ids=lambda p: p.name)
def test_tools_import_experiments_and_torch_only_in_the_benches(path):
    allowed = EVERYWHERE | {"kdjax", "configs", "experiments", "tools", "ml_collections", "absl"}
    for module in imports(path):
        if module.split(".")[0] in ("torch", "transformers"):
            assert "tools/bench/" in path.as_posix()
        else:
            assert permitted(module, allowed), module


def test_no_config_object_flag_or_environment_below_experiments():
    for path in sources("kdjax"):
        for module in imports(path):
            assert module.split(".")[0] != "ml_collections", path
        text = path.read_text()
        assert "os.environ" not in text and "getenv" not in text, path


HEAVY = (
    "tensorflow",
    "tensorflow_datasets",
    "grain",
    "orbax",
    "matplotlib",
    "tensorboardX",
    "torch",
)


@pytest.mark.parametrize(
    "statement", ["import kdjax", "import kdjax.losses", "import kdjax.train, kdjax.methods"]
)
def test_importing_is_light_and_starts_no_backend(statement):
    code = (
        f"import sys; {statement}\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "started = 'jax' in sys.modules and bool(sys.modules['jax']._src.xla_bridge._backends)\n"
        "print(heavy, started)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.strip() == "[] False", done.stdout + done.stderr[-2000:]
