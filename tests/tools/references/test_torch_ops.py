"""The network pieces of recorded losses against loops."""

import numpy as np

from tools.references import torch_ops

RNG = np.random.default_rng(15)
MAPS = RNG.standard_normal((2, 4, 5, 3)).astype(np.float32)


def test_convolution_correlates_with_weights_out_in_height_width():
    weight, bias = RNG.standard_normal((2, 3, 3, 3)).astype(np.float32), np.float32([1, -2])
    padded = np.pad(MAPS, ((0, 0), (1, 1), (1, 1), (0, 0)))
    wanted = np.zeros((2, 4, 5, 2))
    for i in range(4):
        for j in range(5):
            window = padded[:, i : i + 3, j : j + 3]
            wanted[:, i, j] = np.einsum("bhwc,ochw->bo", window, weight) + bias
    np.testing.assert_allclose(torch_ops.convolve(MAPS, weight, bias), wanted, rtol=1e-4, atol=1e-5)


def test_batch_norm_uses_running_statistics_or_the_batch():
    mean, variance = np.float32([1, 2, 3]), np.float32([1, 4, 9])
    weight, bias = np.float32([1, 2, 3]), np.float32([0, 1, 0])
    ours = torch_ops.batch_norm(MAPS, weight, bias, mean, variance, eps=0.0, num_batches_tracked=0)
    np.testing.assert_allclose(ours, (MAPS - mean) / np.sqrt(variance) * weight + bias, rtol=1e-5)
    trained = torch_ops.batch_norm_in_training(MAPS, running_mean=mean, eps=0.0)
    wanted = (MAPS - MAPS.mean((0, 1, 2))) / MAPS.std((0, 1, 2))
    np.testing.assert_allclose(trained, wanted, rtol=1e-4, atol=1e-5)


def test_max_pool_takes_windows_that_may_overlap():
    pooled = torch_ops.adaptive_max_pool(MAPS, 3, 2)
    rows, columns = [(0, 2), (1, 3), (2, 4)], [(0, 3), (2, 5)]
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            wanted = MAPS[:, top:bottom, left:right].max((1, 2))
            np.testing.assert_array_equal(pooled[:, i, j], wanted)


def test_nearest_resize_repeats_and_skips_rows():
    larger = torch_ops.resize_nearest(MAPS, 8, 5)
    np.testing.assert_array_equal(larger, np.repeat(MAPS, 2, axis=1))
    np.testing.assert_array_equal(torch_ops.resize_nearest(MAPS, 2, 5), MAPS[:, ::2])


def test_bilinear_resize_has_half_pixel_centres():
    line = np.float32([0, 4]).reshape(1, 1, 2, 1)
    resized = torch_ops.resize_bilinear(line, 1, 4)[0, 0, :, 0]
    np.testing.assert_allclose(resized, [0, 1, 3, 4], atol=1e-6)


def test_weights_are_those_of_one_module_alone():
    x = {"param/a.0.weight": 1, "param/a.0.bias": 2, "param/a.0.1.weight": 3, "param/b.weight": 4}
    assert torch_ops.weights(x, "a.0") == {"weight": 1, "bias": 2}
