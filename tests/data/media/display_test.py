"""Videos as a player shows them: mirrored, turned, of square pixels, opaque."""

from fractions import Fraction
import io

from absl.testing import absltest, parameterized
import av
import numpy as np
from PIL import Image
from video_fixtures import FolderTestCase, numbered_frames, numbers_of

from lamd_jax.data import media

ONE = 1 << 16
# The first row and column of the matrix of ISO/IEC 14496-12 that a player applies, and
# where it shows the corners "ab" and "cd" of the stored picture.
SHOWN = {
  "as stored": ((ONE, 0, 0, ONE), "ab cd"),
  "mirrored left to right": ((-ONE, 0, 0, ONE), "ba dc"),
  "mirrored top to bottom": ((ONE, 0, 0, -ONE), "cd ab"),
  "on its head": ((-ONE, 0, 0, -ONE), "dc ba"),
  "a quarter to the right": ((0, ONE, -ONE, 0), "ca db"),
  "a quarter to the left": ((0, -ONE, ONE, 0), "bd ac"),
  "rows for columns": ((0, ONE, ONE, 0), "ac bd"),
  "the other diagonal": ((0, -ONE, -ONE, 0), "db ca"),
}
GREYS = {"a": 10, "b": 80, "c": 150, "d": 220}


def corners(rows):
  """A picture with a grey level in each of its four quarters."""
  greys = np.array([[GREYS[x] for x in row] for row in rows.split()], np.uint8)
  return greys.repeat(24, 0).repeat(32, 1)[..., None].repeat(3, -1)


def letters(pixels):
  """Reads the quarters of a picture."""
  height, width = pixels.shape[:2]

  def near(y, x):
    value = pixels[int(height * y), int(width * x)].mean()
    return min(GREYS, key=lambda name: abs(GREYS[name] - value))

  return " ".join(near(y, 0.25) + near(y, 0.75) for y in (0.25, 0.75))


def encode(path, video, *, codec="libx264", pix_fmt="yuv420p", aspect=None, **options):
  """Writes frames [f h w 3 or 4]."""
  with av.open(str(path), "w") as file:
    stream = file.add_stream(codec, rate=25, options=options)
    stream.height, stream.width = video.shape[1:3]
    stream.pix_fmt = pix_fmt
    if aspect:
      stream.codec_context.sample_aspect_ratio = aspect
      stream.sample_aspect_ratio = aspect
    for pixels in video:
      layout = "rgba" if pixels.shape[-1] == 4 else "rgb24"
      frame = av.VideoFrame.from_ndarray(pixels, format=layout)
      file.mux(stream.encode(frame.reformat(format=pix_fmt)))
    file.mux(stream.encode())
  return path


class DisplayTest(FolderTestCase):
  @parameterized.named_parameters((k.replace(" ", "_"), *v) for k, v in SHOWN.items())
  def test_a_display_matrix_turns_and_mirrors(self, matrix, shown):
    path = encode(self.folder / "a.mp4", np.stack([corners("ab cd")] * 3))
    data = path.read_bytes()
    whole = lambda a, b, c, d: b"".join(
      x.to_bytes(4, "big", signed=True) for x in (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    )
    identity = whole(ONE, 0, 0, ONE)
    place = data.rindex(identity)  # That of the movie comes before that of the track.
    path.write_bytes(data[:place] + whole(*matrix) + data[place + len(identity) :])
    frame = media.read_window(path, 1, 1)[0]
    self.assertEqual(letters(frame), shown)
    self.assertEqual(media.probe(path)[2:], frame.shape[1::-1])
    self.assertEqual(frame.shape, (48, 64, 3) if matrix[0] else (64, 48, 3))
    # Squares are cut out of what is shown.
    self.assertEqual(letters(media.read_window(path, 1, 1, resolution=24)[0]), shown)

  @parameterized.product(
    name=("a.mp4", "a.mkv", "a.avi", "a.ts"),
    aspect=((2, 1, 128), (1, 2, 32), (16, 15, 68), (8, 9, 57), (1, 1, 64)),
  )
  def test_pixels_become_square(self, name, aspect):
    *ratio, width = aspect
    codec = "mpeg4" if name == "a.avi" else "libx264"
    video = numbered_frames(6)
    video[:, :, :32] = 0
    path = encode(self.folder / name, video, codec=codec, aspect=Fraction(*ratio))
    self.assertEqual(media.probe(path)[2:], (width, 48))
    frame = media.read_window(path, 3, 1)[0]
    self.assertEqual(frame.shape, (48, width, 3))
    # Half of it is dark, as before.
    self.assertAlmostEqual((frame[..., 0] < 10).mean(), 0.5, delta=0.03)

  def test_pixels_become_square_before_a_picture_is_turned(self):
    path = self.folder / "a.mp4"
    with av.open(str(path), "w") as file:
      stream = file.add_stream("libx264", rate=25)
      stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
      stream.codec_context.sample_aspect_ratio = Fraction(2)
      stream.sample_aspect_ratio = Fraction(2)
      stream.set_display_rotation(90)
      for pixels in numbered_frames(3):
        file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
      file.mux(stream.encode())
    self.assertEqual(media.probe(path)[2:], (48, 128))
    self.assertEqual(media.read_window(path, 0, 2).shape, (2, 128, 48, 3))

  @parameterized.parameters(
    ("a.webm", "libvpx-vp9", "yuva420p"),
    ("b.webm", "libvpx", "yuva420p"),
    ("a.mkv", "ffv1", "bgra"),
    ("a.mov", "qtrle", "argb"),
    ("b.mov", "png", "rgba"),
    ("a.apng", "apng", "rgba"),
  )
  def test_what_is_transparent_is_white(self, name, codec, pix_fmt):
    video = np.zeros((6, 48, 64, 4), np.uint8)
    video[..., 0] = 200  # Red, also where it is hidden.
    video[:, :, :32, 3] = 255
    path = self.folder / name
    options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
    encode(path, video, codec=codec, pix_fmt=pix_fmt, **options)
    self.assertEqual(media.probe(path), (6, 25.0, 64, 48))
    for start in (0, 4):
      frame = media.read_window(path, start, 1)[0].astype(int)
      self.assertLess(np.abs(frame[:, :28] - [200, 0, 0]).max(), 12)
      self.assertGreater(frame[:, 36:].min(), 250)

  def test_a_gif_is_white_where_nothing_is_as_a_video_and_as_a_picture(self):
    images = []
    for number in range(3):
      image = Image.new("RGBA", (8, 6), (200, 30, 0, 0))
      image.paste((0, 40 * number, 255, 255), (0, 0, 4, 6))
      images.append(image)
    path = self.folder / "a.gif"
    images[0].save(path, save_all=True, append_images=images[1:], disposal=2)
    window = media.read_window(path, 0, 3)
    self.assertEqual(window[:, :, 4:].min(), 255)
    self.assertLess(np.abs(window[:, 0, 0].astype(int)[:, 2] - 255).max(), 3)
    np.testing.assert_array_equal(media.read_image(path), window[0])

  def test_a_transparent_colour_of_a_palette_is_white(self):
    path = self.folder / "a.mov"
    with av.open(str(path), "w") as file:
      stream = file.add_stream("png", rate=25)
      stream.height, stream.width, stream.pix_fmt = 6, 8, "pal8"
      for number in range(3):
        image = Image.fromarray(np.full((6, 8), number + 1, np.uint8), "P")
        image.putpalette([200, 30, 0, 0, 0, 250, 0, 90, 0, 60, 60, 60])
        image.paste(0, (0, 0, 4, 6))
        data = io.BytesIO()
        image.save(data, "PNG", transparency=0)
        packet = av.Packet(data.getvalue())
        packet.pts = packet.dts = number
        packet.time_base, packet.stream = Fraction(1, 25), stream
        packet.is_keyframe = True
        file.mux(packet)
    with av.open(str(path)) as file:
      self.assertEqual(next(file.decode(video=0)).format.name, "pal8")
    frame = media.read_window(path, 1, 1)[0]
    self.assertEqual(frame[0, 0].tolist(), [255, 255, 255])
    self.assertEqual(frame[0, 7].tolist(), [0, 90, 0])

  def test_opaque_frames_stay_as_they_are_decoded(self):
    path = encode(self.folder / "a.mp4", numbered_frames(6))
    with av.open(str(path)) as file:
      whole = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    np.testing.assert_array_equal(media.read_window(path, 0, 6), whole)
    self.assertEqual(numbers_of(media.read_window(path, 0, 6)), list(range(6)))


if __name__ == "__main__":
  absltest.main()
