"""Frames are counted as they come out, in every format."""

from absl.testing import absltest, parameterized
import av
import numpy as np
from video_fixtures import FolderTestCase, numbered_frames, numbers_of, write_video

from lamd_jax.data import media

FORMATS = {
  "m4v": dict(name="a.m4v", container="mp4"),
  "3gp": dict(name="a.3gp"),
  "mpg": dict(name="a.mpg", codec="mpeg1video"),
  "vob": dict(name="a.vob", codec="mpeg2video"),
  "ts": dict(name="a.ts"),
  "m2ts": dict(name="a.m2ts"),
  "wmv": dict(name="a.wmv", codec="wmv2"),
  "flv": dict(name="a.flv", codec="flv"),
  "flv_h264": dict(name="b.flv"),
  "mxf": dict(name="a.mxf", codec="mpeg2video"),
  "m1v": dict(name="a.m1v", codec="mpeg1video"),
  "m2v": dict(name="a.m2v", codec="mpeg2video"),
  "h264": dict(name="a.h264"),
  "ivf": dict(name="a.ivf", codec="libvpx-vp9"),
  "nut": dict(name="a.nut", codec="mpeg4"),
  "mjpeg": dict(name="a.mjpeg", codec="mjpeg", pix_fmt="yuvj420p"),
  "ogv": dict(name="a.ogv", codec="libvpx"),
}


def decoded(path):
  """All frames, as FFmpeg gives them."""
  with av.open(str(path)) as file:
    return np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])


def num_packets(path):
  with av.open(str(path)) as file:
    return sum(1 for packet in file.demux(video=0) if packet.size)


def cut(source, path, number):
  """Copies a video from keyframe `number` on, without decoding it."""
  with av.open(str(source)) as file, av.open(str(path), "w") as out:
    stream = out.add_stream_from_template(file.streams.video[0])
    keys = 0
    for packet in file.demux(video=0):
      keys += packet.is_keyframe
      if packet.size and keys > number:
        packet.stream = stream
        out.mux(packet)
  return path


class CountTest(FolderTestCase):
  def check(self, path):
    """Compares a file with what decoding all of it gives."""
    whole = decoded(path)
    self.assertEqual(media.probe(path).num_frames, len(whole))
    for start, length in ((0, len(whole)), (0, 1), (7, 3), (len(whole) - 2, 2)):
      window = media.read_window(path, start, length)
      np.testing.assert_array_equal(window, whole[start : start + length])
    with self.assertRaises(media.VideoError):
      media.read_window(path, len(whole), 1)
    return whole

  @parameterized.named_parameters((k, dict(v)) for k, v in FORMATS.items())
  def test_every_format_that_ffmpeg_knows_is_counted_and_read(self, values):
    path = write_video(self.folder / values.pop("name"), 30, **values)
    self.assertLen(self.check(path), 30)

  @parameterized.parameters("mp4", "mkv", "ts", "mov")
  def test_h265_cut_without_decoding_has_the_frames_that_come_out(self, ending):
    source, path = self.folder / f"a.{ending}", self.folder / f"b.{ending}"
    with av.open(str(source), "w") as file:
      stream = file.add_stream("libx265", rate=25)
      stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
      options = "open-gop=1:keyint=10:min-keyint=10:bframes=4:scenecut=0:b-adapt=0"
      stream.options = {"x265-params": f"{options}:log-level=none", "crf": "10"}
      for pixels in numbered_frames(50):
        file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
      file.mux(stream.encode())
    self.assertLen(self.check(source), 50)
    whole = self.check(cut(source, path, 2))
    self.assertLess(len(whole), num_packets(path))
    first = numbers_of(whole[:1])[0]
    self.assertEqual(numbers_of(whole), list(range(first, 50)))

  @parameterized.parameters("mp4", "mkv")
  def test_h264_cut_without_decoding_too(self, ending):
    source = write_video(
      self.folder / f"a.{ending}", 48, gop=8, b_frames=3, is_open_gop=True
    )
    path = cut(source, self.folder / f"b.{ending}", 2)
    self.assertLess(len(self.check(path)), num_packets(path))

  @parameterized.parameters("webm", "mkv")
  def test_frames_of_vp8_that_nobody_sees_do_not_count(self, ending):
    source = write_video(self.folder / f"a.{ending}", 20, codec="libvpx")
    path = self.folder / f"b.{ending}"
    with av.open(str(source)) as file, av.open(str(path), "w") as out:
      stream = out.add_stream_from_template(file.streams.video[0])
      for number, packet in enumerate(file.demux(video=0)):
        if not packet.size:
          continue
        if number in (5, 9):  # Take away the bit show_frame: RFC 6386, 9.1.
          data = bytearray(bytes(packet))
          data[0] &= ~0b10000
          hidden = av.Packet(bytes(data))
          hidden.pts, hidden.dts = packet.pts, packet.dts
          hidden.time_base = packet.time_base
          packet = hidden
        packet.stream = stream
        out.mux(packet)
    self.assertEqual(num_packets(path), 20)
    self.assertLen(self.check(path), 18)

  def test_a_note_that_a_frame_is_not_there_is_no_frame(self):
    path = write_video(self.folder / "a.avi", 20, codec="mpeg4", b_frames=0)
    noted = self.folder / "b.avi"
    with av.open(str(path)) as file, av.open(str(noted), "w") as out:
      stream = out.add_stream_from_template(file.streams.video[0])
      for number, packet in enumerate(file.demux(video=0)):
        if not packet.size:
          continue
        if number == 9:  # A picture of MPEG-4 that says that it is not coded.
          # Type P, time 9 of 25, not coded: ISO/IEC 14496-2, 6.2.5.
          note = av.Packet(b"\x00\x00\x01\xb6" + bytes([0b01_0_1_0100, 0b1_1_0_01111]))
          note.pts = note.dts = packet.pts
          note.time_base = packet.time_base
          packet = note
        packet.stream = stream
        out.mux(packet)
    self.assertEqual(num_packets(noted), 20)
    self.assertLen(self.check(noted), 19)

  def test_a_file_that_breaks_in_its_middle_is_read_up_to_there(self):
    path = write_video(self.folder / "a.ts", 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    count = media.probe(path).num_frames
    self.assertBetween(count, 5, 25)
    self.assertEqual(numbers_of(media.read_window(path, 0, count)), list(range(count)))


if __name__ == "__main__":
  absltest.main()
