"""Frames and weights from a seed: the same for tests and for the originals they face.

Reference files hold seeds' results only. Of NumPy's generators just `random` is used,
which is the stream of PCG64 itself.
"""

import numpy as np

# torchvision's numbers in `features`; channels out and in, kernel size.
NETWORKS = {
  "vgg": (
    (0, 64, 3, 3),
    (2, 64, 64, 3),
    (5, 128, 64, 3),
    (7, 128, 128, 3),
    (10, 256, 128, 3),
    (12, 256, 256, 3),
    (14, 256, 256, 3),
    (17, 512, 256, 3),
    (19, 512, 512, 3),
    (21, 512, 512, 3),
    (24, 512, 512, 3),
    (26, 512, 512, 3),
    (28, 512, 512, 3),
  ),
  "alex": (
    (0, 64, 3, 11),
    (3, 192, 64, 5),
    (6, 384, 192, 3),
    (8, 256, 384, 3),
    (10, 256, 256, 3),
  ),
}
HEADS = {"vgg": (64, 128, 256, 512, 512), "alex": (64, 192, 384, 256, 256)}


def uniform(seed, shape, low=0.0, high=1.0):
  """Numbers between low and high, float64."""
  generator = np.random.Generator(np.random.PCG64(seed))
  return low + (high - low) * generator.random(shape)


def network_arrays(name, seed=0):
  """Weights under torchvision's names that keep activations near one, float32."""
  arrays = {}
  for number, out, channels, size in NETWORKS[name]:
    bound, shape = (6 / (channels * size**2)) ** 0.5, (out, channels, size, size)
    weight = uniform([seed, number, 0], shape, -bound, bound)
    bias = uniform([seed, number, 1], out, -0.2, 0.2)
    arrays[f"features.{number}.weight"] = weight.astype(np.float32)
    arrays[f"features.{number}.bias"] = bias.astype(np.float32)
  return arrays


def head_arrays(name, seed=1):
  """Heads under the names of the package `lpips`: weights in [0, 1), float32."""
  return {
    f"lin{i}.model.1.weight": uniform([seed, i], (1, c, 1, 1)).astype(np.float32)
    for i, c in enumerate(HEADS[name])
  }


def frame_pairs(seed, n, height, width):
  """Frames of blocks with a little noise, and the same with less contrast and more."""
  coarse = uniform([seed, 0], (n, height // 8 + 1, width // 8 + 1, 3), 0, 200)
  coarse = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)[:, :height, :width]
  noise = uniform([seed, 1], (2, *coarse.shape), 0, 55)
  a = coarse + noise[0]
  return a.astype(np.uint8), (0.7 * a + noise[1]).astype(np.uint8)


def positions(size, count=400):
  """Where large arrays are looked at: places in the array, flattened."""
  return (uniform([2, size], count) * size).astype(np.int64)
