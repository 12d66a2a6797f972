"""One of two processes of four CPU devices: port, process number, folder for what was trained."""

import sys
from pathlib import Path

import jax
import numpy as np


def main(port, number, folder):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(number))
    import small

    from kdjax.train import fetch, make_mesh

    assert len(jax.devices()) == 8 and len(jax.local_devices()) == 4
    sharded, _ = small.trained_sharded(
        make_mesh("data=2,fsdp=4"),
        {"student": small.HIDDEN_SPLIT, "teacher": small.HIDDEN_SPLIT},
        steps=5,
    )
    trained = {
        "whole": small.trained(make_mesh(), "pjit")[0],
        "shares": small.streamed(make_mesh(), shares=True),
        "sharded": fetch(sharded.params),
    }
    for name, params in trained.items():
        flat = {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(params)}
        np.savez(Path(folder) / f"{name}{number}.npz", **flat)


if __name__ == "__main__":
    main(*sys.argv[1:])
