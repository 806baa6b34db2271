"""Files that refer to others, run programs, never end or are too large."""

import contextlib
import io
import os
import socket
import struct
import subprocess
from unittest import mock
import zlib

from absl.testing import absltest, parameterized
import numpy as np
from PIL import EpsImagePlugin, Image
import pytest
from video_fixtures import FolderTestCase, write_frames, write_video

from lamd_jax.data import media
from lamd_jax.data.media import formats, read
from lamd_jax.types import UserError

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 20 10
%%EndComments
(made) (w) file closefile {} loop
%%EOF
"""
LISTS = {
  "ffconcat": "ffconcat version 1.0\nfile 'secret.mp4'\nduration 1\n",
  "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nsecret.mp4\n#EXT-X-ENDLIST\n",
  "hls of urls": "#EXTM3U\n#EXTINF:5,\nhttp://{host}/a.ts\n#EXT-X-ENDLIST\n",
  "dash": '<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation>'
  "<BaseURL>http://{host}/secret.mp4</BaseURL>"
  "</Representation></AdaptationSet></Period></MPD>",
  "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
  "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
  "smil": '<smil><body><video src="secret.mp4"/></body></smil>',
  "svg": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
  "text": "secret.mp4\n" * 50,
}


def gif(width, height):
  """A gif of one pixel on a screen of any size."""
  return (
    b"GIF89a" + struct.pack("<HH", width, height) + b"\xf0\0\0" + b"\xff" * 6
    + b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0;"
  )  # fmt: skip


def png(width, height):
  """A picture of any size, all black, in few bytes."""

  def chunk(kind, data):
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc

  header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    chunk(*x)
    for x in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
  )


class HostileVideosTest(FolderTestCase):
  @parameterized.product(
    kind=tuple(LISTS), ending=("mp4", "mkv", "gif", "ts", "avi", "m3u8", "webm")
  )
  def test_a_file_that_names_others_is_refused_whatever_its_ending(self, kind, ending):
    with socket.create_server(("127.0.0.1", 0)) as server:
      server.settimeout(0.01)
      host = f"127.0.0.1:{server.getsockname()[1]}"
      write_video(self.folder / "secret.mp4", 5)
      path = self.folder / f"a.{ending}"
      path.write_text(LISTS[kind].replace("{host}", host))
      for call in (media.probe, lambda path: media.read_window(path, 0, 1)):
        with self.assertRaisesRegex(media.VideoError, rf"^a\.{ending}: [^\n]+$"):
          call(path)
      with self.assertRaises(TimeoutError):  # Nobody called.
        server.accept()

  @parameterized.parameters(
    "http://127.0.0.1:9/a.mp4", "concat:a.mp4|b.mp4", "subfile,,start,0,end,9,,:a.mp4",
    "file:a.mp4", "data:video/mp4;base64,AAAA", "pipe:0", "crypto:a.mp4", "tcp://[::1]",
  )  # fmt: skip
  def test_a_name_is_the_name_of_a_file(self, name):
    write_video(self.folder / "a.mp4", 5)
    self.enterContext(contextlib.chdir(self.folder))
    with self.assertRaisesRegex(media.VideoError, "No such file"):
      media.probe(name)

  def test_a_pattern_is_the_name_of_a_file(self):
    write_frames(self.folder, 3, pattern="f_{}")
    with self.assertRaisesRegex(media.VideoError, "No such file"):
      media.probe(self.folder / "f_%d.png")
    # A picture is no video.
    with self.assertRaisesRegex(media.VideoError, "not a video in a format"):
      media.probe(self.folder / "f_0.png")

  @parameterized.parameters("pipe", "device", "folder")
  def test_what_is_not_a_file_is_refused_at_once(self, kind):
    path = self.folder / "a.mp4"
    match kind:
      case "pipe":
        os.mkfifo(path)
      case "device":
        path = "/dev/zero"
      case "folder":
        path.mkdir()
    for call in (media.probe, lambda path: media.read_window(path, 0, 1)):
      with self.assertRaisesRegex(media.VideoError, "not a file|Is a directory"):
        call(path)

  def test_a_window_far_too_long_is_refused_without_counting_to_its_end(self):
    path = write_video(self.folder / "a.mp4", 5)
    with self.assertRaisesRegex(media.VideoError, "frames 0 to 99999999999 were asked"):
      media.read_window(path, 0, 10**11)
    with self.assertRaisesRegex(media.VideoError, "frames 3 to"):
      media.read_window(path, 3, 10**11, 10**9)

  def test_frames_that_are_too_large_are_refused_before_they_are_decoded(self):
    path = self.folder / "a.gif"
    path.write_bytes(gif(20, 30))
    self.assertEqual(media.probe(path)[2:], (20, 30))
    path.write_bytes(gif(16384, 4097))
    with self.assertRaisesRegex(media.VideoError, "16384 x 4097 pixels; at most"):
      media.probe(path)

  def test_more_frames_than_memory_are_refused(self):
    path = write_video(self.folder / "a.mp4", 5)
    self.enterContext(mock.patch.object(read, "MAX_BYTES", 3 * 48 * 64 * 3))
    self.assertLen(media.read_window(path, 0, 3), 3)
    with self.assertRaisesRegex(media.VideoError, "4 frames of 64 x 48 .* too much"):
      media.read_window(path, 0, 4)


class HostilePicturesTest(FolderTestCase):
  @parameterized.parameters("photo.png", "photo.eps", "photo.jpg")
  def test_postscript_does_not_run(self, name):
    path = self.folder / name
    path.write_bytes(EPS)
    with (
      mock.patch.object(EpsImagePlugin, "Ghostscript") as ghostscript,
      mock.patch.object(subprocess, "Popen") as popen,
    ):
      with self.assertRaisesRegex(UserError, "photo.* cannot be read as a picture"):
        media.read_image(path)
      with self.assertRaisesRegex(UserError, "an image cannot be read"):
        media.read_image(io.BytesIO(EPS))
    ghostscript.assert_not_called()
    popen.assert_not_called()

  def test_only_raster_formats_are_read(self):
    Image.init()
    self.assertContainsSubset(formats.PICTURES, Image.OPEN)
    programs = {"EPS", "WMF", "GRIB", "BUFR", "HDF5", "FITS", "MPEG", "PSD", "ICNS"}
    self.assertEmpty(programs & set(formats.PICTURES))

  @parameterized.parameters((16384, 4097), (13400, 13400), (60000, 60000))
  def test_a_picture_too_large_is_refused_before_it_is_decoded(self, width, height):
    path = self.folder / "a.png"
    path.write_bytes(png(width, height))
    with self.assertRaisesRegex(UserError, r"^[^\n]*a\.png[^\n]*pixels[^\n]*$"):
      media.read_image(path)

  @pytest.mark.filterwarnings("default")
  def test_a_picture_of_the_largest_size_is_read(self):
    self.enterContext(mock.patch.object(formats, "MAX_PIXELS", 12))
    path = self.folder / "a.png"
    Image.new("RGB", (4, 3)).save(path)
    self.assertEqual(media.read_image(path).shape, (3, 4, 3))
    Image.new("RGB", (13, 1)).save(path)
    with self.assertRaisesRegex(UserError, "13 x 1 pixels; at most 12"):
      media.read_image(path)

  def test_a_named_pipe_is_refused_at_once(self):
    path = self.folder / "a.png"
    os.mkfifo(path)
    with self.assertRaisesRegex(UserError, "a.png.*a named pipe, not a file"):
      media.read_image(path)

  def test_any_damage_is_one_line(self):
    image = Image.fromarray(
      np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    )
    for ending in ("png", "jpg", "webp", "bmp", "tif", "gif", "ppm"):
      path = self.folder / f"a.{ending}"
      image.save(path)
      data = path.read_bytes()
      rng = np.random.default_rng(1)
      for _ in range(40):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 4):
          damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
          self.assertEqual(media.read_image(path).ndim, 3)
        except UserError as error:
          self.assertTrue(str(error).isprintable())

  def test_floats_a_rounding_error_above_one_are_fractions(self):
    values = np.array([[0.0, 0.5, 1.0005]], np.float32)
    Image.fromarray(values).save(path := self.folder / "a.tiff")
    np.testing.assert_array_equal(media.read_image(path)[0, :, 0], [0, 128, 255])

  def test_a_picture_of_floats_without_numbers_is_read(self):
    values = np.array([[np.nan, 0.5, np.inf, -1.0]], np.float32)
    path = self.folder / "a.tif"
    Image.fromarray(values).save(path)
    self.assertEqual(media.read_image(path).shape, (1, 4, 3))


if __name__ == "__main__":
  absltest.main()
