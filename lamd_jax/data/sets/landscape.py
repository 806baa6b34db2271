"""Sky time-lapse: clouds, sunsets and stars in motion; "Landscape" in papers.

Short shots of the sky, cut by hand from long time-lapse videos on YouTube: 640x360,
with 2 to some hundreds of frames each. They have no annotations.

Source: Xiong et al. 2018 (MDGAN, arXiv:1709.07592), whose code names
https://drive.google.com/file/d/1t3g6lBxKgRfXz66BAxNBy225Sr6r09pM; later papers use the
same data as `sky_timelapse`, at the address below. Its authors state no license, and
the videos are other people's: use them for research, and ask before passing them on.

Layout: `sky_train` and `sky_test` contain a folder for each long video, which contains
a folder for each shot, such as `07U1fSrk9oI/07U1fSrk9oI_1`, with its frames as jpg.
Frame numbers need not begin at 0, and some are missing; only existing frames count.

Split, by its readme: `sky_train` has 2,392 shots of 997 long videos, `sky_test` 225 of
111 others. It counts them as 35,383 (35,392 in LaMD) and 2,815 clips of 32 frames, and
does not say whether these overlap. Here training takes a window anywhere in a shot, and
evaluation takes `config.evaluate.num_clips` windows without overlap, beginning with the
first of each shot. A shot shorter than a window is left out; with 32 frames this
affects many, and the log says how many.

Preprocessing: MDGAN, and cINN (Dorkenwald et al. 2021) where it does not augment,
resize the whole frame to 128x128 and so change its proportions: `fit="stretch"`, the
default here. Whether LaMD does, and whether it mirrors clips, is not known; the copy of
256x256 by StyleGAN-V, which others use, is another selection. cINN evaluates on its own
list of 153 of the shots, which is not included here, so its numbers are not comparable
with those of all of `sky_test`.
"""

from typing import Annotated

from lamd_jax.data import listing, video_files
from lamd_jax.data.preprocessing import FITS, Sampling, Square
from lamd_jax.schema import Bytes, FilePath, Frames, OneOf, Side
from lamd_jax.types import UserError

URL = "https://drive.google.com/file/d/1xWLiU-MBGN7MrsFHQm4_yXmfHBsMbJQo"
FPS = 25.0
"""Frames per second at which clips are shown; the data states no rate."""
_FOLDERS = {"train": "sky_train", "eval": "sky_test"}


def open_landscape(
  split: str,
  *,
  path: FilePath,
  num_frames: Frames,
  frame_stride: Frames = 1,
  resolution: Side = 128,
  fit: Annotated[str, OneOf(FITS)] = "stretch",
  cache_bytes: Bytes = 2**29,
) -> video_files.VideoFiles:
  """Lists the shots; decodes one frame of each.

  Args:
    split: "train" for sky_train, "eval" for sky_test.
    path: The folder sky_timelapse, which contains both.
    num_frames: Number of frames of a window.
    frame_stride: Distance in the shot between neighbouring frames of a window.
    resolution: Height and width of the squares in pixels.
    fit: Conversion of 16:9 frames into squares, a key of `preprocessing.FITS`.
    cache_bytes: Memory for decoded and resized frames.

  Returns:
    The source; its annotations are empty.
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
  # Shots are folders of frames; video files do not belong to the data set.
  found, passed_over = listing.list_videos(folder, endings=())
  shots, skipped = video_files.look_at(
    folder, found, sampling.min_frames, FPS, passed_over
  )
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
