"""Runs PyTorch's VGG16, AlexNet and LPIPS and keeps some of what they give.

    pip install torch==2.13.0 torchvision==0.28.0 lpips==0.1.4
    python tests/benchmarks/lpips_reference.py

Weights and frames are random, from the seeds in tests/helpers/seeded.py, and all is
computed in float64. Writes tests/models/lpips_reference.npz: feature maps at some
places, `b h w c` flattened, and the distance of each pair; `vgg_test.py` and
`perceptual_test.py` compare with them. None of the packages is needed for that.
"""

import pathlib
import sys

import lpips
import numpy as np
import torch
import torchvision

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "helpers"))
import seeded  # noqa: E402

OUT = TESTS / "models/lpips_reference.npz"
# How many pairs, and sides that are no multiples of what the networks divide them by.
SHAPES = {"vgg": (1, 19, 34), "alex": (2, 35, 50)}


def original(name):
  """The package's distance, with the seed's weights where its own would be."""
  arrays = {k: torch.from_numpy(x) for k, x in seeded.network_arrays(name).items()}
  # That names and shapes are torchvision's is part of what is checked.
  network = {"vgg": torchvision.models.vgg16, "alex": torchvision.models.alexnet}[name]
  missing, extra = network().load_state_dict(arrays, strict=False)
  assert not extra, extra
  assert all(key.startswith("classifier.") for key in missing), missing
  distance = lpips.LPIPS(net=name, pretrained=False, pnet_rand=True, verbose=False)
  renamed = {
    key: arrays["features." + key.partition(".")[2]]
    for key in distance.net.state_dict()
  }
  distance.net.load_state_dict(renamed)
  for key, weight in seeded.head_arrays(name).items():
    distance.get_parameter(key).data = torch.from_numpy(weight)
  return distance.double().eval()


def main():
  """Writes the file."""
  out = {}
  for name, shape in SHAPES.items():
    distance = original(name)
    a, b = (
      torch.from_numpy(x / 127.5 - 1.0).permute(0, 3, 1, 2)
      for x in seeded.frame_pairs(3, *shape)
    )
    with torch.no_grad():
      out[f"{name} distances"] = distance(a, b).numpy().reshape(-1)
      maps = distance.net(a)
    for i, y in enumerate(maps):
      y = y.permute(0, 2, 3, 1).numpy().reshape(-1)
      out[f"{name} map {i}"] = y[seeded.positions(y.size)].astype(np.float32)
    print(name, out[f"{name} distances"])
  np.savez_compressed(OUT, **out)
  print(f"{len(out)} arrays in {OUT} ({OUT.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
  main()
