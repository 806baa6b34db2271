"""Runs the originals of Inception, CLIP and resizing, and keeps what they give.

    pip install torch==2.13.0 torchvision pytorch-fid torch-fidelity
    pip install clip-anytorch 'setuptools<81'
    python tests/benchmarks/feature_networks_reference.py

Writes the arrays that these compare with; none of the packages is needed for that:

  tests/models/inception_reference.npz        pytorch-fid, with torchvision's blocks
  tests/models/clip_reference.npz             OpenAI's package, as clip-anytorch has it
  tests/interop/clip_tokenizer_reference.npz  the same
  tests/metrics/resize_reference.npz          torch; torch-fidelity for TensorFlow 1

Weights are random: `tests/helpers/random_weights.py` makes them from the names and
shapes of the originals' state dicts, which are kept with the outputs.
"""

import pathlib
import sys
import tempfile

import numpy as np
import torch
import torchvision

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "helpers"))

from clip import clip as openai_clip  # noqa: E402
from clip import model as openai_model  # noqa: E402
from clip.simple_tokenizer import SimpleTokenizer  # noqa: E402
import clip_merges  # noqa: E402
from PIL import Image  # noqa: E402
from pytorch_fid import inception as pytorch_fid  # noqa: E402
import random_weights  # noqa: E402
from torch_fidelity import interpolate_compat_tensorflow as tf1  # noqa: E402

TEXTS = (
  "The cat's running",
  "the   cats\tCAT cat RUNNING!!! 42 times!!!!",
  "caf\N{LATIN SMALL LETTER E WITH ACUTE} &amp;amp; co., it's 3.5 &lt; 4",
  "",
)


def save(path, **arrays):
  np.savez_compressed(TESTS / path, **arrays)
  print(f"{path}: {(TESTS / path).stat().st_size / 1e3:.0f} kB")


def random_state(state):
  """Random weights like those of a state dict, and their names and shapes, packed."""
  floats = {k: list(v.shape) for k, v in state.items() if v.is_floating_point()}
  packed = random_weights.pack(floats)
  arrays = random_weights.random_weights(packed)
  return state | {k: torch.from_numpy(v) for k, v in arrays.items()}, packed


def random_frames(*shape):
  return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def inception():
  """The network on images of their own size, and on frames as the package does it."""
  state = torchvision.models.inception_v3(
    weights=None, init_weights=False, num_classes=1008, aux_logits=False
  ).state_dict()
  state, packed = random_state(state)
  pytorch_fid.load_state_dict_from_url = lambda *_, **__: state
  network = pytorch_fid.InceptionV3(resize_input=False, normalize_input=False)
  images = np.random.default_rng(0).uniform(-1, 1, (2, 107, 139, 3))
  images = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
  frames = torch.from_numpy(random_frames(2, 40, 56, 3)).permute(0, 3, 1, 2) / 255
  features, frame_features = (
    net.eval()(x)[0][:, :, 0, 0]
    for net, x in ((network, images), (pytorch_fid.InceptionV3(), frames))
  )
  kernel = state["fc.weight"].T
  save(
    "models/inception_reference.npz",
    shapes=packed,
    features=features.numpy(),
    logits=(features @ kernel).numpy(),
    frame_logits=(frame_features @ kernel).numpy(),
  )


def clip():
  """A network of small and different sizes, on frames and tokens."""
  network = openai_model.CLIP(
    embed_dim=24,
    image_resolution=24,
    vision_layers=2,
    vision_width=128,
    vision_patch_size=8,
    context_length=77,
    vocab_size=50,
    transformer_width=192,
    transformer_heads=3,
    transformer_layers=3,
  )
  state, packed = random_state(network.state_dict())
  network.load_state_dict(state)
  network.eval()
  transform = openai_clip._transform(24)
  frames = [Image.fromarray(frame) for frame in random_frames(3, 41, 58, 3)]
  images = torch.stack([transform(frame) for frame in frames])
  tokens = np.zeros((3, 77), np.int64)
  tokens[0, :6] = 48, 3, 1, 4, 1, 49
  tokens[1, :2] = 48, 49
  tokens[2, :] = np.r_[48, np.random.default_rng(2).integers(1, 48, 75), 49]
  save(
    "models/clip_reference.npz",
    shapes=packed,
    tokens=tokens.astype(np.int32),
    image_features=network.encode_image(images).numpy(),
    text_features=network.encode_text(torch.from_numpy(tokens)).numpy(),
  )


def clip_tokenizer():
  """The tokens of some texts, by merges that the test can make."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "merges.txt.gz"
    clip_merges.write(path)
    openai_clip._tokenizer = SimpleTokenizer(str(path))
  tokens = openai_clip.tokenize(TEXTS)
  save(
    "interop/clip_tokenizer_reference.npz",
    texts=np.array(TEXTS),
    tokens=tokens.numpy().astype(np.int32),
  )


def resize():
  """Smaller and larger, with sizes that divide and that do not."""
  x = np.random.default_rng(0).normal(size=(2, 6, 8, 3)).astype(np.float32)
  tensor = torch.from_numpy(x).permute(0, 3, 1, 2)
  out = {"x": x}
  for size in ((3, 11), (13, 5), (12, 8)):
    name = "{}x{}".format(*size)
    like_torch = torch.nn.functional.interpolate(
      tensor, size, mode="bilinear", align_corners=False
    )
    like_tf1 = tf1.interpolate_bilinear_2d_like_tensorflow1x(
      tensor, size, align_corners=False
    )
    out[f"half_pixel {name}"] = like_torch.permute(0, 2, 3, 1).numpy()
    out[f"tf1 {name}"] = like_tf1.permute(0, 2, 3, 1).numpy()
  save("metrics/resize_reference.npz", **out)


def main():
  """Writes the files."""
  with torch.no_grad():
    inception()
    clip()
    clip_tokenizer()
    resize()


if __name__ == "__main__":
  main()
