"""Is motion taken apart from content? Measured where motion of A is given to B.

    pip install opencv-python-headless
    python tests/benchmarks/motion_transfer.py --workdir=runs/quickstart --sheet=out.png

For pairs (A, B) of held-out clips, a trained stage `mcd_vae` decodes A's motion with
B's first frame. Of the video that comes out:

PSNR of frame 0   to B's first frame, and to A's: appearance is B's where the first is
                  larger by far, 10 dB or more.
colours           of all later frames, pooled: how far from B's clip, and from A's (half
                  the L1 distance of histograms of 8x8x8 bins: 0 the same, 1 apart). The
                  first frame can be copied; what moves later shows whether the latent
                  carries A's appearance.
flow correlation  with A: Pearson's, over all pixels, pairs of neighbouring frames and
                  both components of the optical flow; a still video counts 0. Beside
                  it, that of A's own reconstruction and of B's own clip, which moves
                  otherwise.

Moving shapes have a second kind of pair: B has the shapes and trajectories of A, and
other colours and another background. There the motion fits the picture and what should
come out is known: the clip B. Its flow, and its reconstruction from its own motion,
say what can be reached; the still of its first frame, what is reached without motion.

Flow is OpenCV's DIS (medium preset) on grey frames enlarged to 128 pixels or more:
between moving shapes at 32x32 and the same in other colours it correlates 0.91.
A model that writes appearance into its latent, as one trained without the KL term may,
is told from one that does not by the same command on its work folder.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib

import cv2  # Of opencv-python-headless.
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm

from lamd_jax.data import media, shapes, sources
from lamd_jax.experiment import batches, trained, workdir
from lamd_jax.experiment.run import make_run
from lamd_jax.metrics import image
from lamd_jax.systems import pixels
from lamd_jax.systems.lamd import motion as lamd_motion

FLOW_SIDE = 128
BATCH = 8
SHEET_PAIRS = 4

MEASURES = {
  "PSNR of frame 0 to B's, dB": "{:.1f}",
  "to A's, dB": "{:.1f}",
  "difference, dB": "{:.1f}",
  "colours of later frames from B": "{:.2f}",
  "from A": "{:.2f}",
  "flow correlation with A": "{:.2f}",
  "of A's reconstruction": "{:.2f}",
  "of B's own clip": "{:.2f}",
}
KNOWN_MEASURES = {
  "PSNR to the true clip, dB": "{:.1f}",
  "of its reconstruction, dB": "{:.1f}",
  "of its still, dB": "{:.1f}",
}


def disguised(scenes, number):
  """A scene in the colours of other scenes, on the background of the next one."""
  following = [scenes[(number + i) % len(scenes)] for i in range(1, len(scenes))]
  used, coloured = {following[0].background_name}, []
  for shape in scenes[number].shapes:
    other = next(
      x
      for scene in following
      for x in scene.shapes
      if x.color_name not in {*used, shape.color_name}
    )
    used.add(other.color_name)
    look = dict(color_name=other.color_name, color=other.color)
    coloured.append(dataclasses.replace(shape, **look))
  return dataclasses.replace(following[0], shapes=tuple(coloured))


def optical_flow(clip):
  """Displacements from each frame to the next, in pixels of the enlarged frames."""
  factor = max(1, -(-FLOW_SIDE // clip.shape[1]))
  grey = [
    cv2.cvtColor(
      cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC),
      cv2.COLOR_RGB2GRAY,
    )
    for frame in clip
  ]
  dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
  return np.stack([dis.calc(a, b, None) for a, b in itertools.pairwise(grey)])


def flow_correlations(clips, flows):
  """Pearson's correlation of each clip's flow with the flow given for it."""
  found = []
  for clip, expected in zip(clips, flows, strict=True):
    flow = optical_flow(clip)
    is_still = flow.std() == 0.0 or expected.std() == 0.0
    found.append(0.0 if is_still else np.corrcoef(flow.ravel(), expected.ravel())[0, 1])
  return found


def colour_distances(clips, others):
  """Half the L1 distance of the colour histograms of two clips, in [0, 1]."""

  def histogram(clip):
    bins = (clip.reshape(-1, 3) // 32) @ np.array([64, 8, 1])
    return np.bincount(bins, minlength=512) / len(bins)

  both = zip(clips, others, strict=True)
  return [0.5 * np.abs(histogram(a) - histogram(b)).sum() for a, b in both]


class Model:
  """The trained stage: clips to motion, motion and pictures to clips; uint8."""

  def __init__(self, experiment):
    stage, params, *_ = trained.load(experiment, "mcd_vae")
    vae = stage.model

    def run(clips, images):
      z = lamd_motion.encode_motion(vae, params, pixels.from_uint8(clips))
      video = lamd_motion.decode_motion(vae, params, z, pixels.from_uint8(images))
      return pixels.to_uint8(video)

    self._run = jax.jit(run)

  def __call__(self, clips, images):
    """The motion of clips given to pictures."""
    starts = tqdm.trange(0, len(clips), BATCH, disable=None)
    parts = [slice(start, start + BATCH) for start in starts]
    return np.concatenate(
      [np.asarray(self._run(jnp.array(clips[x]), jnp.array(images[x]))) for x in parts]
    )


def measure(model, a, b, *, is_known):
  """Means over pairs of clips, in the order of the tables, and what came out."""
  made, again = model(a, b[:, 0]), model(a, a[:, 0])
  flows = [optical_flow(clip) for clip in a]
  to_b, to_a = (image.frame_psnr(made[:, 0], x[:, 0]).mean() for x in (b, a))
  found = [
    *(to_b, to_a, to_b - to_a),
    *(np.mean(colour_distances(made[:, 1:], x[:, 1:])) for x in (b, a)),
    *(np.mean(flow_correlations(x, flows)) for x in (made, again, b)),
  ]
  if is_known:
    candidates = (made, model(b, b[:, 0]), b[:, :1])
    found += [image.frame_psnr(x, b).mean() for x in candidates]
  return found, made


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--pairs", type=int, default=64)
  parser.add_argument("--sheet", type=pathlib.Path, default=None)
  args = parser.parse_args()
  text = (args.workdir / workdir.CONFIG).read_text(encoding="utf-8")
  config = ml_collections.ConfigDict(json.loads(text))
  experiment = make_run(config, args.workdir)
  model = Model(experiment)
  source = sources.make_source(experiment.data("mcd_vae"), "eval")
  clips = batches.eval_batch(experiment, "mcd_vae", source, args.pairs)[0]["video"]
  kinds = {"other clips": (np.roll(clips, -1, axis=0), False)}
  if isinstance(source, shapes.ShapesSource):
    frames, side, stride = clips.shape[1], clips.shape[2], config.data.frame_stride
    scenes = [source.scene(i) for i in range(len(source))]
    twins = [
      disguised(scenes, i).render(frames, side, stride=stride)
      for i in range(len(clips))
    ]
    kinds["same motion, other colours"] = (np.stack(twins), True)

  columns, rows = {}, []
  for kind, (others, is_known) in kinds.items():
    columns[kind], made = measure(model, clips, others, is_known=is_known)
    for triple in zip(clips, others, made, strict=True):
      rows += triple if len(rows) < 3 * SHEET_PAIRS * len(columns) else ()
  print(f"{args.workdir}: means over {len(clips)} pairs\n")
  print(f"| | {' | '.join(columns)} |")
  print("| --- |" + " --- |" * len(columns))
  for i, (name, form) in enumerate((MEASURES | KNOWN_MEASURES).items()):
    cells = [form.format(x[i]) if i < len(x) else "" for x in columns.values()]
    if any(cells):
      print(f"| {name} | {' | '.join(cells)} |")
  if args.sheet:
    media.contact_sheet(rows, args.sheet)
    print(f"\n{args.sheet}: rows of A, B and what came out, pair after pair")


if __name__ == "__main__":
  main()
