"""One of two processes of four CPU devices: port, process number, file for the parameters."""

import sys

import jax
import numpy as np


def main(port, number, path):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(number))
    import small

    from kdjax.train import make_mesh

    assert len(jax.devices()) == 8 and len(jax.local_devices()) == 4
    params, _ = small.trained(make_mesh(), "pjit")
    if int(number) == 0:
        flat = {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(params)}
        np.savez(path, **flat)


if __name__ == "__main__":
    main(*sys.argv[1:])
