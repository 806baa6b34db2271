"""Sky time-lapse: clouds, sunsets and stars in motion; "Landscape" in papers.

Short shots of the sky, cut by hand from long time-lapse videos of YouTube: 640x360,
from 2 to some hundreds of frames each. Nothing is known of them but their pixels.

Source: Xiong et al. 2018 (MDGAN, arXiv:1709.07592), whose code names
https://drive.google.com/file/d/1t3g6lBxKgRfXz66BAxNBy225Sr6r09pM; papers since take
the same as `sky_timelapse`, at the address below. Its authors state no licence, and
the videos are other people's: for research, and ask before passing them on.

Layout: `sky_train` and `sky_test`, in these a folder for each long video, in that a
folder for each shot, such as `07U1fSrk9oI/07U1fSrk9oI_1`, with its frames as jpg. Their
numbers need not begin at 0, and some are missing: the frames that are there count.

Split, by its readme: `sky_train` has 2,392 shots of 997 long videos, `sky_test` 225 of
111 others. It counts them as 35,383 (35,392 in LaMD) and 2,815 clips of 32 frames, and
does not say whether these overlap. Here training takes a window anywhere in a shot, and
evaluation as many as `config.evaluate.num_clips` says, none overlapping, first the
first of each shot. A shot shorter than a window is left out: with 32 frames many are,
and their number is in the log.

Preprocessing: MDGAN, and cINN (Dorkenwald et al. 2021) where it does not augment, bring
the whole frame to 128x128 and so change its proportions: `fit="stretch"`, the default
here. Whether LaMD does, and whether it mirrors clips, is not known; StyleGAN-V's copy
of 256x256, which others use, is another selection. cINN evaluates on a list of its own
of 153 of the shots, which is not here: its figures are not those of all of `sky_test`.
"""

from lamd_jax.data import video_files
from lamd_jax.data.preprocessing import Sampling, Square
from lamd_jax.data.sets import video_folder
from lamd_jax.types import UserError

URL = "https://drive.google.com/file/d/1xWLiU-MBGN7MrsFHQm4_yXmfHBsMbJQo"
FPS = 25.0
"""Frames per second at which clips are shown; the data states no rate."""
_FOLDERS = {"train": "sky_train", "eval": "sky_test"}


def open_landscape(
  split: str,
  *,
  path: str,
  num_frames: int,
  frame_stride: int = 1,
  resolution: int = 128,
  fit: str = "stretch",
  cache_bytes: int = 2**29,
) -> video_files.VideoFiles:
  """Lists the shots; decodes one frame of each.

  Args:
    split: "train" for sky_train, "eval" for sky_test.
    path: The folder sky_timelapse, with both.
    num_frames: Frames of a window.
    frame_stride: Frames of the shot from one frame of a window to the next.
    resolution: Height and width in pixels to which frames are brought.
    fit: How frames of 16:9 become squares; see `preprocessing.FITS`.
    cache_bytes: Memory for frames already decoded and resized.

  Returns:
    The source; annotations are empty.
  """
  sampling = Sampling("window", num_frames, frame_stride)
  square = Square(resolution, fit)
  layout = f"sky_train and sky_test, <video>/<shot>/*.jpg, from {URL}"
  root = video_files.open_folder("data.path", path, f"with {layout}")
  folder = (root / _FOLDERS[split]).resolve()
  if not folder.is_dir():
    raise UserError(
      f"data.path={str(path)!r} has no folder {_FOLDERS[split]!r}; expected a folder "
      f"with {layout}"
    )
  # Shots are folders of frames; a video beside them is somebody's own.
  found = sorted(shot for shot in video_folder.walk(folder) if shot[1])
  shots, skipped = video_files.look_at(folder, found, sampling.min_frames, FPS)
  if not shots:
    raise video_files.none_usable(
      f"in {_FOLDERS[split]} of data.path={str(path)!r}",
      skipped,
      sampling.min_frames,
      f"a folder with {layout}",
    )
  return video_files.VideoFiles(
    folder,
    video_files.mixed(shots),
    fps=FPS,
    skipped=skipped,
    square=square,
    cache_bytes=cache_bytes,
  )
