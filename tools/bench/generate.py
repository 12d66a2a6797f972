"""Generation: one program with a cache against `transformers`, and a draft against its teacher alone.

`transformers` rows: our time over that of its `generate` on the same small Llama, weights and prompts,
greedy, both on the CPU; `same` says that the texts are equal. They need torch and transformers, which
`requirements-parity.txt` names, and are left out without. `speculative` rows: the time of speculative
decoding over that of the teacher drawing alone, with what the draft is: `itself` is a copy of the
teacher, which is always right and as slow; `near` and `unlike` are one layer where the teacher has six,
whose head and embedding are the teacher's, whose other weights are those of the teacher's first layer or
random; `distilled` is one layer of half the width, trained here by KL to a teacher that was trained
here on the same text, and drafts from held-out text. `acceptance` is accepted / proposed and
`tokens_per_pass` the teacher's.
"""

import functools
import importlib.util
import tempfile
from pathlib import Path

import jax
import numpy as np

from configs import lm
from experiments import distill_lm, setup, train_lm
from kdjax import networks
from kdjax.generate import generate, left_padded, speculate
from kdjax.networks import pretrained
from tools.bench import _timing

ROUNDS = 5
VOCABULARY, LENGTH, DRAFTED = 512, 64, 4
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
BATCHES = (1, 8)
SHAPE = {"width": 256, "heads": 4, "key_heads": 2, "hidden": 1024}
DEPTH = 6


def rows(only=""):
    """One row a comparison whose name contains `only`."""
    found = []
    torch_is_here = all(importlib.util.find_spec(m) for m in ("torch", "transformers"))
    for batch in BATCHES:
        name = f"transformers batch {batch}"
        if only in name and torch_is_here:
            found.append({"name": name, **against_transformers(batch)})
    for draft in ("itself", "near", "unlike", "distilled"):
        name = f"speculative {draft}"
        if only in name:
            found.append({"name": name, **against_plain(draft)})
    return found


def prompts(batch):
    """Random prompts of 9 to 16 tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(9, 17, batch)
    return left_padded([rng.integers(3, VOCABULARY, n).tolist() for n in lengths], length=16)


def against_transformers(batch, rounds=ROUNDS, length=LENGTH):
    """Times and texts of both, greedy."""
    import torch
    import transformers

    torch.manual_seed(0)
    ends = {"eos_token_id": None, "pad_token_id": 0}
    config = transformers.LlamaConfig(**SIZES, **ends, initializer_range=0.2)
    model = transformers.LlamaForCausalLM(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "model")
        network, variables, _ = pretrained.load_pretrained(Path(folder) / "model")
    tokens, mask = prompts(batch)
    given = (torch.tensor(x.astype(np.int64)) for x in (tokens, mask))
    given = dict(zip(("input_ids", "attention_mask"), given, strict=True))

    def theirs():
        with torch.no_grad():
            return model.generate(**given, do_sample=False, max_new_tokens=length)

    ours = functools.partial(
        generate, network, variables, tokens, mask=mask, length=length, key=jax.random.key(0),
        temperature=0.0,
    )  # fmt: skip
    same = np.array_equal(ours().tokens, theirs().numpy()[:, tokens.shape[1] :])
    seconds = _timing.interleaved({"ours": ours, "theirs": theirs}, rounds)
    return {
        **_timing.compared(seconds["ours"], seconds["theirs"]),
        "tokens_per_second": batch * length / float(np.median(seconds["ours"])),
        "same": bool(same),
    }


def against_plain(draft, rounds=ROUNDS, length=LENGTH, batch=1):
    """Times of both, drawing at temperature 1."""
    if draft == "distilled":
        teacher, student, tokens = distilled(batch)
        mask = np.ones(tokens.shape, bool)
    else:
        teacher, student = drafting(draft)
        tokens, mask = prompts(batch)
    options = {"mask": mask, "length": length, "key": jax.random.key(0)}
    plain = functools.partial(generate, *teacher, tokens, **options)
    ours = functools.partial(speculate, *teacher, *student, tokens, drafted=DRAFTED, **options)
    drawn = ours()
    seconds = _timing.interleaved({"ours": ours, "plain": plain}, rounds)
    return {
        **_timing.compared(seconds["ours"], seconds["plain"]),
        "tokens_per_second": batch * length / float(np.median(seconds["ours"])),
        "acceptance": float(drawn.acceptance_rate),
        "tokens_per_pass": float(drawn.tokens_per_pass),
    }


def drafting(draft):
    """((teacher, its variables), (draft, its variables))."""

    def made(depth, seed):
        network = networks.decoder_transformer(VOCABULARY, depth=depth, **SHAPE)
        init = jax.jit(network.init)
        params = init(jax.random.key(seed), np.zeros((1, 2), np.int32))["params"]
        return network, {"params": {**params, "head": 3 * params["head"]}}

    teacher = made(DEPTH, 0)
    if draft == "itself":
        return teacher, teacher
    network, variables = made(1, 1)
    shared = {name: teacher[1]["params"][name] for name in ("embedding", "head")}
    params = {**variables["params"], **shared}
    if draft == "near":
        params["layers"] = jax.tree.map(lambda x: x[:1], teacher[1]["params"]["layers"])
    return teacher, (network, {"params": params})


def distilled(batch, tiny=False):
    """(teacher, draft, prompts): networks with their variables, trained as `configs/lm.py` says.

    The teacher for half of its steps, the draft for a quarter.
    """
    config = lm.get_config("default,tiny" if tiny else "default")
    run, sizes = config.run, {"query_key_norm": False, **SHAPE}
    run.seeds, run.steps, run.teacher.steps = 1, run.steps // 4, run.teacher.steps // 2
    run.rows = {"alone": run.rows.alone, "kd": run.rows.kd}
    if not tiny:
        run.teacher.network.update({**sizes, "depth": DEPTH})
        run.student.network.update({**sizes, "width": 128, "hidden": 512})
    with tempfile.TemporaryDirectory() as folder:
        data = train_lm.build_data(config)
        nets = distill_lm.build_networks(config, data)
        stages = distill_lm.build_stages(config, data, nets)
        taught = train_lm.build_stage(config, data, nets["teacher"])
        opened = setup.open_run(config, Path(folder), data.fingerprint)
        frozen, digest, _ = train_lm.obtain_teacher(config, opened, data, taught, nets["teacher"])
        ((stage, seeds),) = stages["kd"]
        _, trained, _ = distill_lm.train_student(
            config, opened, data, "kd", stage, seeds, frozen, digest
        )
    params = jax.tree.map(lambda x: x[0], trained.state.params["student"])
    held_out = data.test["student"]["tokens"].reshape(-1, run.data.length)
    variables = ({"params": each} for each in (frozen["teacher"], params))
    pairs = zip((nets["teacher"], nets["student"]), variables, strict=True)
    return *pairs, np.asarray(held_out[:batch, :16])
