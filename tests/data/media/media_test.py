"""Windows of video files, pictures, and what is written."""

import io
import os
from unittest import mock

from absl.testing import absltest, parameterized
import av
import numpy as np
from PIL import Image
from video_fixtures import FolderTestCase, numbered_frames, numbers_of, write_video

from lamd_jax.data import media
from lamd_jax.data.media import read as media_read
from lamd_jax.data.media import write as media_write
from lamd_jax.types import UserError

FILES = {
  "mp4_b_frames": dict(name="a.mp4", gop=12, b_frames=3),
  "mp4_one_keyframe": dict(name="a.mp4", gop=250),
  "mp4_no_b_frames": dict(name="a.mp4", b_frames=0),
  "mp4_open_gop": dict(name="a.mp4", gop=8, b_frames=3, is_open_gop=True),
  "mkv_open_gop": dict(name="a.mkv", gop=8, b_frames=3, is_open_gop=True),
  "mp4_late_start": dict(name="a.mp4", times=range(7000, 7000 + 40 * 41, 40)),
  "mkv": dict(name="a.mkv"),
  "mkv_late_start": dict(name="a.mkv", times=range(7000, 7000 + 40 * 41, 40)),
  "mov_in_capitals": dict(name="A.MOV", container="mov"),
  "webm": dict(name="a.webm", codec="libvpx-vp9"),
  "avi_b_frames": dict(name="a.avi", codec="mpeg4"),
  "avi_h264": dict(name="a.avi"),
  "avi_mjpeg": dict(name="a.avi", codec="mjpeg", pix_fmt="yuvj420p"),
  "gif": dict(name="a.gif", codec="gif", pix_fmt="rgb8"),
  # Rates that vary: 40 ms a frame, but now and then 250 ms.
  "mp4_variable_rate": dict(
    name="a.mp4", times=np.cumsum(np.where(np.arange(41) % 7, 40, 250)).tolist()
  ),
  "mkv_variable_rate": dict(
    name="a.mkv", times=np.cumsum(np.where(np.arange(41) % 7, 40, 250)).tolist()
  ),
}


class ReadTest(FolderTestCase):
  def write(self, name, num_frames=41, **values):
    return write_video(self.folder / name, num_frames, **values)

  @parameterized.named_parameters((k, dict(v)) for k, v in FILES.items())
  def test_a_window_is_what_decoding_everything_gives_there(self, values):
    path = self.write(**values)
    with av.open(str(path)) as file:
      whole = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
    self.assertLen(whole, 41)
    self.assertEqual(media.probe(path)[0], 41)
    for start, num_frames, stride in ((0, 5, 1), (11, 3, 1), (12, 4, 2), (13, 9, 3)):
      window = media.read_window(path, start, num_frames, stride)
      expected = whole[start : start + num_frames * stride : stride]
      np.testing.assert_array_equal(window, expected)
      if "rgb8" not in values.values():  # Whose eight reds do not tell frames apart.
        numbers = list(range(start, start + num_frames * stride, stride))
        self.assertEqual(numbers_of(window), numbers)
    for number in range(41):
      frame = media.read_window(path, number, 1)
      np.testing.assert_array_equal(frame, whole[number : number + 1])

  @parameterized.parameters("a.mkv", "a.avi")  # Times that can be trusted, and not.
  def test_frames_come_in_the_order_asked_for_some_of_them_twice(self, name):
    path = self.write(name)
    numbers = [7, 30, 13, 30, 40, 40]
    self.assertEqual(numbers_of(media.read_frames(path, numbers)), numbers)

  def test_frames_before_the_first_or_after_the_last_are_refused(self):
    path = self.write("a.mp4", num_frames=20)
    for numbers, span in (([5, -1], "-1 to 5"), ([20, 3], "3 to 20")):
      with self.assertRaisesRegex(media.VideoError, f"a.mp4: frames {span} were "):
        media.read_frames(path, numbers)

  def test_only_what_a_window_needs_is_decoded(self):
    path = self.write("a.mp4", num_frames=60, gop=8, b_frames=2)
    with av.open(str(path)) as file:
      packets = [p for p in file.demux(video=0) if p.size]
      self.assertEqual([n for n, p in enumerate(packets) if p.is_keyframe][3], 24)
      places = [(packet.pos, packet.size) for packet in packets]
    data = bytearray(path.read_bytes())
    for number, (first, size) in enumerate(places):
      if number not in range(24, 32):
        data[first : first + size] = bytes(size)
    path.write_bytes(data)  # Nothing is left but the frames 24 to 31.
    self.assertEqual(numbers_of(media.read_window(path, 24, 3, 2)), [24, 26, 28])
    with self.assertRaises(media.VideoError):
      media.read_window(path, 22, 3)

  @parameterized.parameters("a.mp4", "a.mkv", "a.avi")
  def test_nothing_is_counted_from_the_beginning_where_times_can_be_trusted(self, name):
    codec = "mpeg4" if name == "a.avi" else "libx264"
    path = self.write(name, num_frames=60, gop=8, codec=codec)
    with mock.patch.object(media_read, "_decode_by_count") as counted:
      for number in range(58):
        window = media.read_window(path, number, 2)
        self.assertEqual(numbers_of(window), [number, number + 1])
    counted.assert_not_called()

  def test_probe_tells_length_rate_and_size(self):
    path = self.write("a.mp4", num_frames=17, fps=30, size=(48, 80))
    self.assertEqual(media.probe(path), (17, 30.0, 80, 48))
    path = self.write("b.mkv", num_frames=9, fps=12)
    self.assertEqual(media.probe(path), (9, 12.0, 64, 48))

  def test_a_film_from_a_phone_held_upright_is_upright(self):
    path = self.write("a.mp4", num_frames=6, rotation=90, size=(32, 64))
    self.assertEqual(media.probe(path)[2:], (32, 64))
    self.assertEqual(media.read_window(path, 1, 2).shape, (2, 64, 32, 3))

  def test_the_turn_goes_the_way_that_is_written(self):
    path = self.folder / "turned.mp4"
    video = np.zeros((4, 64, 96, 3), np.uint8)
    video[:, :, :48] = 255  # The left half is white.
    with av.open(str(path), "w") as file:
      stream = file.add_stream("libx264", rate=25)
      stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
      stream.set_display_rotation(90)  # Show it turned to the left.
      for pixels in video:
        file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
      file.mux(stream.encode())
    frame = media.read_window(path, 0, 1)[0]
    self.assertEqual(frame.shape, (96, 64, 3))
    self.assertGreater(frame[60:].mean(), 240)  # What was left is below.
    self.assertLess(frame[:40].mean(), 15)

  def test_frames_are_resized_as_they_are_read(self):
    path = self.write("a.mp4", size=(48, 80))
    window = media.read_window(path, 3, 4, 2, resolution=20)
    self.assertEqual(window.shape, (4, 20, 20, 3))
    self.assertEqual(numbers_of(window), [3, 5, 7, 9])

  def test_a_window_beyond_the_end_is_refused_with_the_length(self):
    path = self.write("a.mp4", num_frames=20)
    with self.assertRaisesRegex(
      media.VideoError, "a.mp4: frames 12 to 21 were asked for, it has 20"
    ):
      media.read_window(path, 12, 4, 3)

  @parameterized.parameters("text", "empty", "head", "gone", "sound")
  def test_what_is_no_video_gives_one_line_with_its_name(self, kind):
    path = self.folder / "clip.mp4"
    match kind:
      case "text":
        path.write_text("this is not a video\n" * 100)
      case "empty":
        path.touch()
      case "head":  # The table of an mp4 is at its end.
        whole = self.write("whole.mp4").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
      case "sound":
        with av.open(str(path), "w") as file:
          stream = file.add_stream("aac", rate=8000)
          frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 2048), np.float32), format="fltp", layout="mono"
          )
          frame.sample_rate = 8000
          file.mux(stream.encode(frame))
          file.mux(stream.encode())
    for call in (media.probe, lambda path: media.read_window(path, 0, 1)):
      with self.assertRaisesRegex(media.VideoError, r"^clip\.mp4: [^\n]+$"):
        call(path)

  def test_a_cut_off_file_is_found_out_by_its_table(self):
    whole = self.write("whole.mp4", options={"movflags": "faststart"}).read_bytes()
    path = self.folder / "cut.mp4"
    path.write_bytes(whole[:-200])
    with self.assertRaisesRegex(media.VideoError, "cut.mp4: cut off"):
      media.probe(path)
    # Windows before the cut can be read all the same.
    self.assertEqual(numbers_of(media.read_window(path, 2, 3)), [2, 3, 4])
    with self.assertRaises(media.VideoError):
      media.read_window(path, 38, 3)


class ImageTest(FolderTestCase):
  def save(self, image, name="a.png", **values):
    path = self.folder / name
    image.save(path, **values)
    return path

  def test_colours_are_kept(self):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = self.save(Image.fromarray(pixels))
    np.testing.assert_array_equal(media.read_image(path), pixels)
    np.testing.assert_array_equal(media.read_image(str(path)), pixels)
    opened = io.BytesIO(path.read_bytes())
    np.testing.assert_array_equal(media.read_image(opened), pixels)

  def test_grey_becomes_three_equal_channels(self):
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
    read = media.read_image(self.save(Image.fromarray(grey)))
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, axis=-1))

  @parameterized.parameters("RGBA", "LA")
  def test_what_is_transparent_becomes_white(self, mode):
    image = Image.new(mode, (3, 2), (90,) * (len(mode) - 1) + (0,))
    image.putpixel((0, 0), (90,) * (len(mode) - 1) + (255,))
    image.putpixel((1, 0), (90,) * (len(mode) - 1) + (51,))  # One fifth of it.
    read = media.read_image(self.save(image))
    self.assertEqual(read[0, :, 0].tolist(), [90, 222, 255])
    self.assertEqual(read[1].min(), 255)

  def test_a_palette_with_a_transparent_colour_becomes_white_there(self):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 0, 0])
    read = media.read_image(self.save(image, transparency=0))
    self.assertEqual(read.tolist(), [[[255, 255, 255], [200, 0, 0]]])

  @parameterized.parameters("png", "tiff")
  def test_16_bits_are_reduced_to_8(self, ending):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    read = media.read_image(self.save(Image.fromarray(values), f"a.{ending}"))
    self.assertEqual(read[0, :, 1].tolist(), [0, 1, 128, 255])

  def test_a_dark_16_bit_picture_stays_dark(self):
    values = np.full((2, 3), 200, np.uint16)
    read = media.read_image(self.save(Image.fromarray(values)))
    self.assertEqual(read.max(), 1)

  def test_a_picture_turned_by_exif_is_shown_upright(self):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn it a quarter to the right.
    path = self.save(Image.fromarray(pixels), "a.jpg", exif=exif, quality=100)
    read = media.read_image(path)
    self.assertEqual(read.shape, (32, 16, 3))
    self.assertGreater(read[20:].min(), 240)  # What was right is below.
    self.assertLess(read[:12].max(), 15)

  def test_a_picture_with_damaged_exif_is_read_as_it_is_stored(self):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = self.save(Image.new("RGB", (9, 4)), "a.webp", exif=exif)
    self.assertEqual(media.read_image(path).shape, (9, 4, 3))
    path.write_bytes(path.read_bytes().replace(b"MM\0*", b"MM\0\0"))
    self.assertEqual(media.read_image(path).shape, (4, 9, 3))

  @parameterized.parameters((1, 1), (1, 900), (700, 2), (3, 3))
  def test_any_size_can_be_brought_to_a_square(self, height, width):
    path = self.save(Image.new("RGB", (width, height), (10, 200, 30)))
    square = media.resize_crop(media.read_image(path)[None], 8)
    self.assertEqual(square.shape, (1, 8, 8, 3))
    self.assertEqual(np.unique(square.reshape(-1, 3), axis=0).tolist(), [[10, 200, 30]])

  @parameterized.parameters("text", "cut", "gone", "folder")
  def test_what_is_no_picture_gives_one_line_with_its_name(self, kind):
    path = self.folder / "photo.png"
    match kind:
      case "text":
        path.write_text("not a picture")
      case "cut":
        noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
        data = self.save(Image.fromarray(noise), "whole.png").read_bytes()
        path.write_bytes(data[: len(data) // 2])
      case "folder":
        path.mkdir()
    with self.assertRaisesRegex(UserError, r"^[^\n]*photo\.png[^\n]*$"):
      media.read_image(path)


class ResizeCropTest(absltest.TestCase):
  def test_it_is_resizing_everything_and_then_cropping(self):
    noise = np.random.default_rng(0).integers(0, 256, (2, 12, 36, 3), np.uint8)
    for video in (noise, noise.swapaxes(1, 2)):
      size = (video.shape[2] // 2, video.shape[1] // 2)
      whole = [Image.fromarray(f).resize(size, Image.Resampling.BICUBIC) for f in video]
      top, left = (size[1] - 6) // 2, (size[0] - 6) // 2
      expected = np.stack(whole)[:, top : top + 6, left : left + 6]
      np.testing.assert_array_equal(media.resize_crop(video, 6), expected)

  def test_fine_stripes_become_grey_not_stripes(self):
    video = np.zeros((1, 64, 64, 3), np.uint8)
    video[:, :, ::2] = 254
    small = media.resize_crop(video, 16)[:, 2:-2, 2:-2]
    self.assertLess(np.abs(small.astype(int) - 127).max(), 8)

  def test_the_right_size_is_left_alone(self):
    video = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
    np.testing.assert_array_equal(media.resize_crop(video, 9), video)


class WriteTest(FolderTestCase):
  @parameterized.parameters((16, 20), (15, 21), (1, 3), (301, 300))
  def test_mp4_has_the_frames_enlarged_by_a_whole_factor(self, height, width):
    video = numbered_frames(9, height, width)
    path = self.folder / "a.mp4"
    media.write_mp4(path, video, fps=12.5)
    factor = max(1, -(-256 // min(height, width)))
    probed = media.probe(path)
    even = [side * factor + side * factor % 2 for side in (width, height)]
    self.assertEqual(probed, (9, 12.5, *even))
    self.assertEqual(numbers_of(media.read_window(path, 0, 9)), list(range(9)))
    with av.open(str(path)) as file:
      stream = file.streams.video[0]
      self.assertEqual(stream.codec_context.name, "h264")
      self.assertEqual(stream.codec_context.pix_fmt, "yuv420p")

  @parameterized.parameters(8.0, 24.0, 29.97, 30.0, 50.0)
  def test_gif_keeps_the_mean_rate(self, fps):
    path = self.folder / "a.gif"
    media.write_gif(path, numbered_frames(15, 10, 14), fps)
    with Image.open(path) as image:
      delays = []
      for number in range(image.n_frames):
        image.seek(number)
        delays.append(image.info["duration"])
      self.assertEqual(image.size, (14 * 13, 10 * 13))
      self.assertEqual(image.info["loop"], 0)
    self.assertLen(delays, 15)
    self.assertAlmostEqual(sum(delays) / 1000, 15 / fps, delta=0.006)
    self.assertGreaterEqual(min(delays), 20)

  def test_gif_leaves_out_what_browsers_would_slow_down(self):
    path = self.folder / "a.gif"
    media.write_gif(path, numbered_frames(20, 8, 8), 100.0)
    with Image.open(path) as image:
      self.assertEqual(image.n_frames, 10)
      self.assertEqual(image.info["duration"], 20)

  def test_gif_keeps_colours_and_order(self):
    video = numbered_frames(12, 10, 14)
    path = self.folder / "a.gif"
    media.write_gif(path, video, 10.0)
    read = media.read_window(path, 0, 12)
    self.assertLess(np.abs(read[:, ::13, ::13].astype(int) - video).max(), 3)

  def test_a_still_clip_has_its_length_too(self):
    path = self.folder / "a.gif"
    media.write_gif(path, np.full((6, 8, 8, 3), 90, np.uint8), 10.0)
    with Image.open(path) as image:
      delays = [
        image.info["duration"] for i in range(image.n_frames) if not image.seek(i)
      ]
    self.assertEqual(sum(delays), 600)

  def test_contact_sheet_has_a_row_for_each_clip(self):
    videos = [numbered_frames(3, 5, 6) + 100, numbered_frames(2, 5, 6)]
    path = self.folder / "sheet.png"
    media.contact_sheet(videos, path, min_side=10)
    sheet = media.read_image(path)
    self.assertEqual(sheet.shape, (2 * 12 + 2, 3 * 14 + 2, 3))
    np.testing.assert_array_equal(
      sheet[2:12, 16:28], media_write._enlarge(videos[0][1:2], 10)[0]
    )
    np.testing.assert_array_equal(
      sheet[14:24, 2:14], media_write._enlarge(videos[1][:1], 10)[0]
    )
    self.assertEqual(sheet[14:24, 30:42].min(), 255)  # The shorter clip's end.
    self.assertEqual(sheet[:, 14:16].min(), 255)  # Between two frames.

  @parameterized.parameters("mp4", "gif", "png")
  def test_a_file_is_written_whole_or_not_at_all(self, ending):
    path = self.folder / f"a.{ending}"
    write = {
      "mp4": lambda: media.write_mp4(path, numbered_frames(3), 10.0),
      "gif": lambda: media.write_gif(path, numbered_frames(3), 10.0),
      "png": lambda: media.contact_sheet([numbered_frames(3)], path),
    }[ending]
    path.write_text("before")
    with (
      mock.patch.object(os, "replace", side_effect=OSError(28, "No space left")),
      self.assertRaisesRegex(OSError, "No space left"),
    ):
      write()
    self.assertEqual(path.read_text(), "before")
    self.assertLen(list(self.folder.iterdir()), 1)
    write()
    self.assertGreater(path.stat().st_size, 50)
    self.assertLen(list(self.folder.iterdir()), 1)


if __name__ == "__main__":
  absltest.main()
