"""The models of kdjax restated in PyTorch, eager and functional, on the same weights.

`weights` turns a Linen tree into `{path: tensor}` in PyTorch's layouts; every model here is
`apply(weights, images [B, C, H, W], ...) -> logits`. Nothing imports torch before it is called.
"""

import jax
import numpy as np


def weights(params, *, trained=False):
    """{path: tensor} of a Linen tree: kernels as PyTorch lays them out, projections of heads joined."""
    import torch

    tensors = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        names = [part.key for part in path]
        x = laid_out(names, np.asarray(leaf))
        tensors["/".join(names)] = torch.tensor(x).requires_grad_(trained)
    return tensors


def laid_out(names, x):
    """One leaf: HWIO -> OIHW, [I, O] -> [O, I], [D, H, K] -> [H K, D], [H, K, D] -> [D, H K]."""
    if names[-1] != "kernel":
        return x.reshape(-1) if names[-2:-1] and names[-2] in ("query", "key", "value") else x
    if x.ndim == 4:
        return np.ascontiguousarray(x.transpose(3, 2, 0, 1))
    if x.ndim == 3:
        x = x.reshape(-1, x.shape[-1]) if names[-2] == "out" else x.reshape(x.shape[0], -1)
    return np.ascontiguousarray(x.T)


def images(x):
    """[B, H, W, C] -> [B, C, H, W]."""
    import torch

    return torch.tensor(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def mlp(w, x, layers):
    import torch.nn.functional as F

    x = x.permute(0, 2, 3, 1).flatten(1)  # kdjax flattens channels last
    for i in range(1, layers + 1):
        x = F.relu(_dense(w, f"dense{i}", x))
    return _dense(w, "head", x)


def cnn(w, x, stages):
    import torch.nn.functional as F

    for i in range(1, stages + 1):
        x = F.conv2d(x, w[f"conv{i}/kernel"], w[f"conv{i}/bias"], padding=1)
        x = F.max_pool2d(F.relu(x), 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    return _dense(w, "head", F.relu(_dense(w, "dense", x)))


def resnet(w, x, depth, *, statistics=None):
    """With `statistics` (`{path: tensor}`) by running statistics, else by those of the batch."""
    import torch.nn.functional as F

    def norm(x, name):
        scale, bias = w[f"{name}/scale"], w[f"{name}/bias"]
        if statistics is None:
            mean, var = x.new_zeros(len(scale)), x.new_ones(len(scale))
            return F.batch_norm(x, mean, var, scale, bias, training=True, eps=1e-5)
        mean, var = statistics[f"{name}/mean"], statistics[f"{name}/var"]
        return F.batch_norm(x, mean, var, scale, bias, eps=1e-5)

    def convolve(x, name, stride=1, padding=1):
        return F.conv2d(x, w[f"{name}/kernel"], stride=stride, padding=padding)

    x = F.relu(norm(convolve(x, "stem"), "stem_norm"))
    for stage in (1, 2, 3):
        for number in range(1, (depth - 2) // 6 + 1):
            name, stride = f"stage{stage}_block{number}", 2 if stage > 1 and number == 1 else 1
            shortcut = x
            if f"{name}/shortcut/kernel" in w:
                shortcut = convolve(x, f"{name}/shortcut", stride, padding=0)
                shortcut = norm(shortcut, f"{name}/shortcut_norm")
            y = F.relu(norm(convolve(x, f"{name}/conv1", stride), f"{name}/norm1"))
            x = F.relu(norm(convolve(y, f"{name}/conv2"), f"{name}/norm2") + shortcut)
    return _dense(w, "head", x.mean((2, 3)))


def vit(w, x, depth, heads, patch):
    import torch
    import torch.nn.functional as F

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}/scale"], w[f"{name}/bias"], 1e-6)

    x = F.conv2d(x, w["patches/kernel"], w["patches/bias"], stride=patch).flatten(2).transpose(1, 2)
    token = w["class_token"].expand(len(x), -1, -1)
    x = torch.cat([token, x], dim=1) + w["positions"]
    for number in range(1, depth + 1):
        name = f"block{number}"
        y = norm(x, f"{name}/norm1")
        three = (
            _dense(w, f"{name}/attention/{each}", y).unflatten(-1, (heads, -1)).transpose(1, 2)
            for each in ("query", "key", "value")
        )
        y = F.scaled_dot_product_attention(*three).transpose(1, 2).flatten(2)
        x = x + _dense(w, f"{name}/attention/out", y)
        y = F.gelu(_dense(w, f"{name}/dense1", norm(x, f"{name}/norm2")))
        x = x + _dense(w, f"{name}/dense2", y)
    return _dense(w, "head", norm(x, "norm")[:, 0])


def distillation_loss(student, teacher, labels, *, temperature, weight):
    """(1 - weight) · cross-entropy + weight · T² KL(teacher ‖ student), means over the batch."""
    import torch.nn.functional as F

    kl = F.kl_div(
        F.log_softmax(student / temperature, -1),
        F.log_softmax(teacher / temperature, -1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - weight) * F.cross_entropy(student, labels) + weight * temperature**2 * kl


def _dense(w, name, x):
    import torch.nn.functional as F

    return F.linear(x, w[f"{name}/kernel"], w[f"{name}/bias"])
