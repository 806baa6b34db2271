"""Measures by name: a detector that looks at clips, and a number of its rows.

Measures that share a detector share its cost: FVD and KVD run I3D once.
"""

from collections.abc import Callable, Mapping, Sequence
import difflib
import functools
import pathlib
from typing import Any, Literal, NamedTuple

import numpy as np

from lamd_jax.interop import clip_tokenizer, weights
from lamd_jax.metrics import (
  clipsim,
  frame_features,
  frechet,
  image,
  inception_score,
  lpips,
  motion,
  resize,
)
from lamd_jax.metrics.features import Detector, i3d_detector
from lamd_jax.types import UserError

# "sets" compares the real and the generated set, "alone" looks at one set, and "pairs"
# compares each generated clip with the real clip of the same number.
Kind = Literal["sets", "alone", "pairs"]
# Frames that count if a network looks at single frames: each by itself, the mean of a
# clip's features, or the first (Ho et al. 2022, arXiv:2204.03458, table 4).
Frames = Literal["all", "average", "first"]

# With fewer clips, a covariance of hundreds of features is noise.
MIN_FRECHET = 64
# Inception Scores are of 10 splits where each has enough clips for its own p(y), as
# papers give them, else of all clips at once; with fewer, it is low whatever they show.
_SPLITS = 10
_MIN_SPLIT = 1000
_MIN_SCORE = 256
# Names in the folder of weights, as the lines that convert them write them.
FILES: Mapping[str, str] = {
  "inception": "inception.safetensors",
  "clip": "clip.safetensors",
  "merges": "bpe_simple_vocab_16e6.txt.gz",
  "vgg": "vgg16.safetensors",
  "vgg_heads": "lpips_vgg.safetensors",
  "alex": "alexnet.safetensors",
  "alex_heads": "lpips_alex.safetensors",
}
_INCEPTION_FEATURES = 2048  # First columns of the detector; the rest are logits.

Rows = np.ndarray  # Output of a detector, one row per clip: `n ...`.


class Measure(NamedTuple):
  """A score of clips.

  Attributes:
    name: Name as printed, without the number of clips.
    kind: Sets that are compared.
    detector: Network or function that turns clips into rows. A pair is one clip to it:
      the frames of the real clip, then those of the generated one.
    number: Function from the rows of the real and the generated set to the score; for
      "alone" and "pairs" from one set of rows.
    view: Function from the rows of the detector and the names of the generated clips to
      the rows that `number` takes.
    min_clips: Smallest number of clips; fewer are refused.
    instead: Measure for fewer clips.
    facts: Further entries of the card.
    remark: Words that follow the number of clips where the score is printed.
    is_of_frames: Whether frames are scored one by one. Frames that the model was given
      are then left out: they would be scored as if it had made them.
  """

  name: str
  kind: Kind
  detector: Detector
  number: Callable[..., float]
  view: Callable[[Rows, Sequence[str]], Rows] = lambda rows, names: rows
  min_clips: int = 2
  instead: "Measure | None" = None
  facts: Mapping[str, Any] = {}
  remark: str = ""
  is_of_frames: bool = False


class Options(NamedTuple):
  """Options of measures.

  Attributes:
    folder: Folder with the `FILES` that the measures need.
    i3d: Weights of I3D; None takes those of the package.
    resize_rule: Resize rule of I3D; see `features.i3d_detector`.
    frames: Frames that count, for measures of single frames.
    captions: Captions of the generated clips by name, for CLIPSIM.
    image_batch: Batch size, in frames, of networks that look at single frames.
  """

  folder: pathlib.Path = pathlib.Path("weights")
  i3d: weights.Path | None = None
  resize_rule: resize.Rule = "half_pixel"
  frames: Frames = "all"
  captions: Mapping[str, str] = {}
  image_batch: int = 32


def make_measures(names: Sequence[str], options: Options) -> list[Measure]:
  """Makes measures by name and loads their networks.

  Args:
    names: Keys of `MEASURES`; some stand for several measures.
    options: Options of the measures.

  Raises:
    UserError: A name is unknown, or weights are missing.
  """
  made = []
  for name in names:
    if name not in MEASURES:
      close = difflib.get_close_matches(name, MEASURES, n=1)
      hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(MEASURES)}"
      raise UserError(f"there is no measure {name!r}; {hint}")
    made += MEASURES[name](options)
  return made


def _folder(options: Options) -> pathlib.Path:
  try:
    return options.folder.expanduser()
  except RuntimeError as e:
    raise UserError(f"{options.folder}: there is no such user") from e


def _fvd(options: Options) -> list[Measure]:
  (kvd,) = _kvd(options)
  return [_frechet("FVD", kvd)]


def _kvd(options: Options) -> list[Measure]:
  detector = i3d_detector(options.i3d, options.resize_rule)
  return [Measure("KVD", "sets", detector, frechet.kernel_distance)]


def _frechet(name: str, kernel: Measure) -> Measure:
  """Makes the Frechet counterpart of a kernel distance, on the same rows."""
  distance = lambda a, b: frechet.frechet_distance(_rows(a), _rows(b))
  facts = {**kernel.facts, "covariance": "divided by n - 1"}
  return kernel._replace(
    name=name, number=distance, min_clips=MIN_FRECHET, instead=kernel, facts=facts
  )


def _fid(options: Options) -> list[Measure]:
  (kid,) = _kid(options)
  return [_frechet(kid.name.replace("KID", "FID"), kid)]


def _kid(options: Options) -> list[Measure]:
  distance = lambda a, b: frechet.kernel_distance(_rows(a), _rows(b))
  view = lambda rows, names: _frames(rows[..., :_INCEPTION_FEATURES], options.frames)
  detector = _inception(options)
  name = f"KID{_suffix(options)}"
  facts = {"frames": options.frames}
  return [
    Measure(name, "sets", detector, distance, view, facts=facts, is_of_frames=True)
  ]


def _is(options: Options) -> list[Measure]:
  detector = _inception(options)

  def make(splits: int, min_clips: int, instead: Measure | None) -> Measure:
    score = lambda rows: inception_score.inception_score(_rows(rows), num_splits=splits)
    return Measure(
      f"IS{_suffix(options)}",
      "alone",
      detector,
      number=lambda rows: score(rows)[0],
      view=lambda rows, names: _frames(rows[..., _INCEPTION_FEATURES:], options.frames),
      min_clips=min_clips,
      instead=instead,
      facts={"frames": options.frames, "splits": splits},
      remark=f"in {splits} split{'s'[: splits - 1]}",
      is_of_frames=True,
    )

  return [make(_SPLITS, _SPLITS * _MIN_SPLIT, make(1, _MIN_SCORE, None))]


def _inception(options: Options) -> Detector:
  path = _folder(options) / FILES["inception"]
  params = frame_features.load_inception(path)

  def apply(clips):
    outputs = frame_features.inception_outputs(
      params, clips, batch_size=options.image_batch
    )
    return np.concatenate([outputs.features, outputs.logits], axis=-1)

  name = "Inception-v3 of FID, pool features and logits"
  return Detector(name, weights.sha256(path), "half_pixel", 1, apply)


def _frames(rows: Rows, frames: Frames) -> Rows:
  """Reduces `n f d` to the frames that count: `n f d`, or `n d`."""
  match frames:
    case "average":
      return rows.mean(axis=1)
    case "first":
      return rows[:, 0]
  return rows


def _rows(rows: Rows) -> Rows:
  """Reshapes `n f d` or `n d` to `m d`."""
  return rows.reshape(-1, rows.shape[-1])


def _suffix(options: Options) -> str:
  return {"all": "", "average": "-avg", "first": "-first"}[options.frames]


def _of_pairs(name: str, per_frame: Callable[..., np.ndarray], **kwargs) -> Measure:
  """Makes the mean over frames and clips of a score per pair of frames."""

  def apply(pairs):
    real, generated = np.split(np.asarray(pairs), 2, axis=1)
    return per_frame(real, generated).mean(axis=1)

  detector = Detector(name, kwargs.pop("sha256", ""), "none", 2, apply)
  mean = lambda rows: float(rows.mean())
  return Measure(name, "pairs", detector, mean, is_of_frames=True, **kwargs)


def _psnr(options: Options) -> list[Measure]:
  del options
  return [_of_pairs("PSNR", image.frame_psnr, min_clips=1)]


def _ssim(options: Options) -> list[Measure]:
  del options
  return [_of_pairs("SSIM", image.frame_ssim, min_clips=1)]


def _lpips(network: str, options: Options) -> list[Measure]:
  files = [_folder(options) / FILES[f"{network}{x}"] for x in ("", "_heads")]
  # With only one of the two files, `load` says that the other is missing.
  are_given = any(file.exists() for file in files)
  distance = lpips.load(network, *(files if are_given else ()))
  per_frame = functools.partial(
    lpips.frame_lpips, distance, batch_size=options.image_batch
  )
  name = f"LPIPS-{network}"
  return [_of_pairs(name, per_frame, min_clips=1, sha256=distance.sha256)]


def _clipsim(options: Options) -> list[Measure]:
  folder = _folder(options)
  path = folder / FILES["clip"]
  network, params = frame_features.load_clip(path)
  tokenize = clip_tokenizer.clip_tokenizer(folder / FILES["merges"])

  def apply(clips):
    return frame_features.clip_image_features(
      network, params, clips, batch_size=options.image_batch
    )

  def view(rows, names):
    if missing := [name for name in names if name not in options.captions]:
      raise UserError(
        f"{len(missing)} of {len(names)} clips have no caption, the first is"
        f" {missing[0]}; expected one for each clip's name"
      )
    tokens = tokenize([options.captions[name] for name in names])
    texts = frame_features.clip_text_features(network, params, tokens)
    pairs = zip(rows, texts, strict=True)
    return np.array([clipsim.clipsim(r[None], t[None]) for r, t in pairs])

  detector = Detector("CLIP ViT-B/32", weights.sha256(path), "Pillow bicubic", 1, apply)
  mean = lambda rows: float(rows.mean())
  return [
    Measure("CLIPSIM", "alone", detector, mean, view, min_clips=1, is_of_frames=True)
  ]


def _motion(options: Options) -> list[Measure]:
  """Makes the measures of motion relative to real clips; see `motion`."""
  del options
  detector = Detector("pixels", "", "none", 3, motion.motion_statistics)
  ratio = lambda column: lambda real, rows: motion.statistics_ratio(column, rows, real)
  numbers = {
    "MOTION": ratio(motion.AMPLITUDE),
    "ROUGHNESS": ratio(motion.ROUGHNESS),
    "FLICKER": ratio(motion.FLICKER),
    "STILLS": lambda real, rows: motion.still_share(rows, real),
  }
  return [Measure(name, "sets", detector, number) for name, number in numbers.items()]


MEASURES: Mapping[str, Callable[[Options], list[Measure]]] = {
  "fvd": _fvd,
  "kvd": _kvd,
  "fid": _fid,
  "kid": _kid,
  "is": _is,
  "psnr": _psnr,
  "ssim": _ssim,
  "lpips": functools.partial(_lpips, "alex"),
  "lpips_vgg": functools.partial(_lpips, "vgg"),
  "clipsim": _clipsim,
  "motion": _motion,
}
