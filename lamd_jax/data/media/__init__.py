"""Video and picture files: reading windows of frames, writing mp4, gif and png."""

from lamd_jax.data.media.film import VideoError
from lamd_jax.data.media.formats import FRAME_ENDINGS, VIDEO_ENDINGS
from lamd_jax.data.media.picture import read_image
from lamd_jax.data.media.read import (
  Path,
  Probe,
  probe,
  read_frames,
  read_window,
  resize_crop,
)
from lamd_jax.data.media.write import contact_sheet, write_gif, write_mp4

__all__ = [
  "FRAME_ENDINGS",
  "VIDEO_ENDINGS",
  "Path",
  "Probe",
  "VideoError",
  "contact_sheet",
  "probe",
  "read_frames",
  "read_image",
  "read_window",
  "resize_crop",
  "write_gif",
  "write_mp4",
]
