"""Public weights in and out.

    python -m tools.weights import DIR [--to OUT] [--dtype bfloat16]
    python -m tools.weights export ROW OUT --config config.json [--player student] [--seed 0]

`import` checks a folder with `config.json` and safetensors files, prints what it holds, and with `--to`
writes a checked copy, in one dtype, with the tokenizer: a folder that `load_pretrained` loads as a
teacher. `export` writes the parameters of a run's row, `WORKDIR/checkpoints/ROW`, as a folder that
`transformers` loads. Without `--config` it takes the decoder that the run's own `config.json` describes.
`--licence`, `--method` and `--teacher` make a model card of it.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np

from kdjax.networks import count_parameters, fingerprint
from kdjax.networks.pretrained import (
    LayoutError,
    decoder_config,
    model_card,
    open_pretrained,
    save_pretrained,
)
from kdjax.train.checkpoints import Checkpoints


def describe(opened) -> dict:
    """What an opened folder holds; reads every value once, leaf by leaf."""
    leaves = jax.tree.leaves(opened.variables)
    return {
        "folder": opened.folder.name,
        "model_type": opened.config["model_type"],
        "network": opened.architecture.name,
        "leaves": len(leaves),
        "parameters": count_parameters(opened.shapes["params"]),
        "bytes": sum(leaf.dtype.itemsize * int(np.prod(leaf.shape)) for leaf in leaves),
        "dtypes": sorted({str(leaf.dtype) for leaf in leaves}),
        "fingerprint": fingerprint(opened.variables["params"]),
    }


def import_folder(arguments) -> dict:
    opened = open_pretrained(arguments.dir, param_dtype=arguments.dtype)
    described = describe(opened)
    if arguments.to is not None:
        save_pretrained(arguments.to, opened.variables, opened.config, tokenizer=arguments.dir)
        # The copy is read again: what is handed on is what is on the disk.
        written = fingerprint(open_pretrained(arguments.to).variables["params"])
        if written != described["fingerprint"]:
            raise LayoutError(f"{arguments.to} holds {written}, not {described['fingerprint']}")
        described["copy"] = str(arguments.to)
    return described


def export_row(arguments) -> dict:
    if not arguments.row.is_dir():
        raise LayoutError(f"{arguments.row} is no folder")
    checkpoints = Checkpoints(arguments.row)
    restored = checkpoints.read()
    checkpoints.close()
    if restored is None:
        raise LayoutError(f"{arguments.row} has no readable checkpoint")
    state, record = restored
    if arguments.player not in state["params"]:
        raise LayoutError(f"no player {arguments.player!r}, there are {sorted(state['params'])}")
    model = (state.get("model") or {}).get(arguments.player) or {}
    variables = {"params": state["params"][arguments.player], "model": model}
    seeds = record.get("seeds")
    if isinstance(seeds, list):
        if arguments.seed not in seeds:
            raise LayoutError(f"no seed {arguments.seed}, there are {seeds}")
        place = seeds.index(arguments.seed)
        variables = jax.tree.map(lambda x: x[place], variables)
    config = _config(arguments, variables["params"])
    digest = fingerprint(variables["params"])
    save_pretrained(
        arguments.out,
        variables,
        config,
        dtype=arguments.dtype,
        tokenizer=arguments.tokenizer,
        card=_card(arguments, record, digest),
    )
    return {
        "folder": str(arguments.out),
        "model_type": config["model_type"],
        "step": record["step"],
        "parameters": count_parameters(variables["params"]),
        "fingerprint": digest,
    }


def _config(arguments, params):
    if arguments.config is not None:
        return json.loads(arguments.config.read_text())
    file = arguments.row.absolute().parents[1] / "config.json"
    try:
        network = json.loads(file.read_text())["run"][arguments.player]["network"]
        options = {key: value for key, value in network.items() if key != "name"}
        described = network["name"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise LayoutError(f"{file} describes no network ({error!r}): give --config") from None
    if described != "decoder_transformer":
        raise LayoutError(f"the network is a {described}, not a decoder: give --config")
    options["vocabulary"] = params["embedding"].shape[0]
    return decoder_config(options, positions=arguments.positions)


def _card(arguments, record, digest):
    if arguments.licence is None:
        return None
    teachers = record.get("teachers") or {}
    numbers = dict(number.split("=", 1) for number in arguments.number)
    return model_card(
        arguments.out.name,
        licence=arguments.licence,
        method=arguments.method,
        teacher=arguments.teacher,
        teacher_fingerprint=arguments.teacher_fingerprint or ", ".join(teachers.values()),
        numbers=numbers,
        fingerprint=digest,
    )


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    reader = verbs.add_parser(
        "import", help="check a folder of public weights, print what it holds"
    )
    reader.add_argument("dir", type=Path)
    reader.add_argument("--to", type=Path, help="write a checked copy to this folder")
    reader.set_defaults(run=import_folder)
    writer = verbs.add_parser("export", help="write a row's parameters as a folder for others")
    writer.add_argument("row", type=Path)
    writer.add_argument("out", type=Path)
    writer.add_argument("--config", type=Path, help="a config.json that describes the network")
    writer.add_argument("--player", default="student")
    writer.add_argument("--seed", type=int, default=0)
    writer.add_argument("--positions", type=int, default=2048, help="the longest text it is for")
    writer.add_argument("--tokenizer", type=Path, help="a folder whose tokenizer files are copied")
    writer.add_argument("--licence", help="write a model card with this licence")
    writer.add_argument("--method", default="", help="for the card: how it was distilled")
    writer.add_argument("--teacher", default="", help="for the card: the teacher's name")
    writer.add_argument("--teacher-fingerprint", help="for the card; else that of the checkpoint")
    writer.add_argument(
        "--number", action="append", default=[], metavar="NAME=VALUE", help="for the card"
    )
    writer.set_defaults(run=export_row)
    for verb in (reader, writer):
        verb.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
        verb.add_argument("--json", type=Path, help="write what is printed to this file")
    arguments = parser.parse_args(argv)
    try:
        described = arguments.run(arguments)
    except (FileExistsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for key, value in described.items():
        print(f"{key:12} {', '.join(value) if isinstance(value, list) else value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(described, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
