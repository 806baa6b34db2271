"""Sets of clips to be measured: every form, and nothing left out in silence."""

import io
import math
import os
import pathlib
from unittest import mock
import zipfile

from absl.testing import absltest
import numpy as np
from PIL import Image
from video_fixtures import (
  FolderTestCase,
  numbered_frames,
  numbers_of,
  write_frames,
  write_video,
)

from lamd_jax.metrics import clip_set
from lamd_jax.types import UserError


class ClipSetTest(FolderTestCase):
  def write_all(self):
    write_video(self.folder / "b.mp4", 12)
    write_video(self.folder / "deep/c.gif", 12, codec="gif", pix_fmt="rgb8")
    write_frames(self.folder / "d", 12)
    np.save(self.folder / "e.npy", np.stack([numbered_frames(12)] * 2))
    np.savez(self.folder / "f.npz", numbered_frames(12) / np.float32(255))
    (self.folder / "notes.txt").write_text("not looked at")

  def test_every_form_is_read_in_the_order_of_names(self):
    self.write_all()
    clips = clip_set.open_clips(self.folder, num_frames=4, frame_stride=3)
    names = [entry.name for entry in clips.entries]
    self.assertEqual(
      names, ["b.mp4", "d", "deep/c.gif", "e.npy[0]", "e.npy[1]", "f.npz"]
    )
    for clip in clips:
      self.assertEqual(clip.dtype, np.uint8)
      self.assertEqual(clip.shape, (4, 48, 64, 3))
      self.assertEqual(numbers_of(clip), [0, 3, 6, 9])

  def test_all_frames_are_taken_where_nothing_else_is_said(self):
    self.write_all()
    clips = clip_set.open_clips(self.folder, resolution=16)
    self.assertEqual(clips.num_frames, 12)
    self.assertEqual({clip.shape for clip in clips}, {(12, 16, 16, 3)})

  def test_arrays_can_be_grouped_as_if_in_folders(self):
    videos = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1, 1).repeat(3, -1)
    clips = clip_set.of_array("mine", videos, ["b", "a", "b", "b"])
    groups = {
      name: [int(x[0, 0, 0, 0]) for x in y] for name, y in clips.groups(1).items()
    }
    self.assertEqual(groups, {"a": [1], "b": [0, 2, 3]})

  def test_pixels_of_arrays_are_kept_to_the_last_bit(self):
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), np.uint8)
    np.save(self.folder / "a.npy", video)
    np.testing.assert_array_equal(
      np.stack(list(clip_set.open_clips(self.folder / "a.npy"))), video
    )
    for dtype in (np.float16, np.float32, np.float64):
      np.save(self.folder / "a.npy", (video / 255.0).astype(dtype))
      got = np.stack(list(clip_set.open_clips(self.folder / "a.npy")))
      np.testing.assert_array_equal(got, video)

  def test_a_subset_is_of_all_clips_and_of_none_twice(self):
    videos = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1, 1).repeat(3, -1)
    clips = clip_set.of_array("mine", videos)
    numbers = lambda x: [int(clip[0, 0, 0, 0]) for clip in x]
    first, second = numbers(clips.subset(0, 30)), numbers(clips.subset(30, 90))
    self.assertLen({*first, *second}, 90)
    for found in (first, second):
      self.assertEqual(found, sorted(found))
      self.assertBetween(np.mean(found), 35, 65)  # The first 30 have a mean of 15.
    self.assertEqual(numbers(clips.subset(0, 100)), [*range(100)])
    other = clip_set.of_array("other", videos)
    self.assertEqual(numbers(other.subset(0, 30)), first)
    grouped = np.reshape(numbers(clips.subset(0, 4, num_together=5)), (4, 5))
    np.testing.assert_array_equal(np.diff(grouped), 1)
    np.testing.assert_array_equal(grouped[:, 0] % 5, 0)

  def test_clip_2_comes_before_clip_10_in_folders_too(self):
    names = ["run_2/clip_9", "run_2/clip_10", "run_10/clip_1", "run_10/clip_02"]
    for name in names:
      write_frames(self.folder / name, 2)
    clips = clip_set.open_clips(self.folder)
    self.assertEqual(clips.names, names)
    self.assertEqual([*clips.groups(1)], ["run_2", "run_10"])

  def test_windows_of_a_data_set_are_read_where_they_are_used(self):
    calls = []

    def read(*window):
      calls.append(window)
      return np.full((2, 8, 8, 3), len(calls), np.uint8)

    clips = clip_set.of_windows("train", read, [(3, 0), (4, 6), (5, 0)], 2, 4)
    self.assertEqual(clips.names, ["train[0]", "train[1]", "train[2]"])
    self.assertEmpty(calls)
    (clip,) = clips.subset(0, 1)
    self.assertEqual(clip.shape, (2, 8, 8, 3))
    self.assertLen(calls, 1)
    self.assertIn(calls[0], [(3, 0, 2, 4), (4, 6, 2, 4), (5, 0, 2, 4)])

  def test_windows_follow_each_other_as_far_as_the_shortest_video(self):
    write_video(self.folder / "a.mp4", 12)
    write_video(self.folder / "b.mp4", 15)
    clips = clip_set.open_clips(self.folder, num_frames=3, frame_stride=2, start=1)
    self.assertEqual([numbers_of(clip) for clip in clips], [[1, 3, 5]] * 2)
    windows = clips.windows()
    # The last frame of the second, 11, is the shortest video's last.
    self.assertEqual(
      [[numbers_of(clip) for clip in window] for window in windows],
      [[[1, 3, 5]] * 2, [[7, 9, 11]] * 2],
    )
    with self.assertRaisesRegex(UserError, "12 frames; 3 from frame 9 on"):
      clip_set.open_clips(self.folder, num_frames=3, frame_stride=2, start=9)

  def test_groups_are_folders_of_a_level(self):
    for name in ("run/ann/a", "run/bob/b", "walk/ann/c"):
      write_frames(self.folder / name, 2)
    clips = clip_set.open_clips(self.folder)
    of = lambda level: {k: v.names for k, v in clips.groups(level).items()}
    self.assertEqual(of(1), {"run": ["run/ann/a", "run/bob/b"], "walk": ["walk/ann/c"]})
    self.assertEqual(of(2), {"ann": ["run/ann/a", "walk/ann/c"], "bob": ["run/bob/b"]})
    with self.assertRaisesRegex(UserError, "run/ann/a lies in 2 folders.*level 3"):
      clips.groups(3)

  def test_one_array_of_several_and_samples_of_samples(self):
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 6, 3), np.uint8)
    np.savez(self.folder / "clips.npz", real=video[:, 0], sampled=video, fps=3.0)
    clips = clip_set.open_clips(f"{self.folder}/clips.npz:sampled")
    np.testing.assert_array_equal(np.stack(list(clips)), video.reshape(6, 4, 5, 6, 3))
    with self.assertRaisesRegex(UserError, "3 arrays .*name one of them"):
      clip_set.open_clips(f"{self.folder}/clips.npz:sample")
    with self.assertRaisesRegex(UserError, "no.npz:real does not exist"):
      clip_set.open_clips(f"{self.folder}/no.npz:real")

  def test_an_array_in_memory(self):
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), np.uint8)
    clips = clip_set.of_array("mine", video)
    np.testing.assert_array_equal(np.stack(list(clips)), video)
    self.assertEqual(clips.names, ["mine[0]", "mine[1]"])

  def test_floats_a_rounding_error_outside_the_range_are_clipped(self):
    path = self.folder / "a.npy"
    video = np.linspace(0, 1, 2 * 4 * 5 * 3).reshape(2, 4, 5, 3)
    expected = np.rint(video * 255).astype(np.uint8)
    for dtype in (np.float16, np.float32, np.float64):
      np.save(path, ((video - 0.5) * 1.0019 + 0.5).astype(dtype))
      (got,) = clip_set.open_clips(path)
      np.testing.assert_allclose(got.astype(int), expected, atol=1)
      self.assertEqual((got.min(), got.max()), (0, 255))
    np.save(path, video * 1.0011)
    with self.assertRaisesRegex(UserError, r"from 0 to 1\.0011; .*0\.001 outside"):
      list(clip_set.open_clips(path))
    np.save(path, video - 0.00100001)
    with self.assertRaisesRegex(UserError, r"from -0\.00100001 to 0\.99899999;"):
      list(clip_set.open_clips(path))

  def test_an_array_that_unpacks_to_gigabytes_is_refused_before_it_is_read(self):
    path = self.folder / "a.npz"
    header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    shape = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 5592405, 16, 16, 3)}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
      file.writestr("x.npy", header + shape.encode().ljust(117) + b"\n")
    with zipfile.ZipFile(path) as file:  # As if the pixels followed.
      file.infolist()[0].file_size = 3 * 2**30
      info = mock.Mock(return_value=file.infolist()[0])
      with (
        mock.patch.object(zipfile.ZipFile, "getinfo", info),
        self.assertRaisesRegex(UserError, r"x in .* 3\.0 GiB.*as a \.npy file"),
      ):
        clip_set.open_clips(path)

  def test_sizes_that_no_memory_holds_are_refused_before_anything_is_read(self):
    path = self.folder / "a.npy"
    header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")

    def write(*shape):
      values = {"descr": "|u1", "fortran_order": False, "shape": shape}
      with path.open("wb") as file:  # Its end is a hole.
        file.write(header + repr(values).encode().ljust(117) + b"\n")
        file.truncate(128 + math.prod(shape))

    write(2, 1, 40000, 40000, 3)
    with self.assertRaisesRegex(UserError, "40000x40000 pixels, 1 fr.* 4.47 GiB"):
      list(clip_set.open_clips(path))
    write(16, 8000, 8000, 3)
    with self.assertRaisesRegex(UserError, "would take 2.86 GiB; expected 2 at most"):
      list(clip_set.open_clips(path))
    self.assertEqual(next(iter(clip_set.open_clips(path, num_frames=1))).max(), 0)
    write(2_000_000, 1, 8, 8, 3)
    with self.assertRaisesRegex(UserError, "holds 2000000 videos; expected 1000000"):
      clip_set.open_clips(path)
    write(4, 8, 8, 3)
    with self.assertRaisesRegex(UserError, "4 frames; 100000000000 from frame 0"):
      clip_set.open_clips(path, num_frames=10**11)
    with self.assertRaisesRegex(UserError, "4096 frames, .* 192 GiB; expected 2"):
      clip_set.open_clips(path, num_frames=4096, resolution=4096)

  def test_damage_of_any_kind_is_one_line_that_names_the_file(self):
    good = io.BytesIO()
    np.save(good, numbered_frames(3))
    single = good.getvalue()
    good = io.BytesIO()
    np.savez_compressed(good, x=numbered_frames(3))
    several = good.getvalue()
    sizes = b"(3, 48, 64, 3)"
    assert sizes in single
    replaced = lambda new: single.replace(sizes, new.ljust(len(sizes)))
    for name, data in (
      ("a.npy", b""),
      ("a.npy", single[:50]),
      ("a.npy", single[:-1]),
      ("a.npy", replaced(b"(3, 48")),
      ("a.npy", replaced(b"(-3,48,64,3)")),
      ("a.npy", replaced(b"(9**9**9, 3)")),
      ("a.npy", replaced(b"(0, 9, 9, 3)")),
      ("a.npy", replaced(b"(3, 0, 9, 3)")),
      ("a.npy", single.replace(b"|u1", b"|O8")),
      ("a.npy", single.replace(b"|u1", b"|V3")),
      ("a.npz", several[:100]),
      ("a.npz", several[:-30]),
      ("a.npz", several[:60] + b"\xff" * 20 + several[80:]),
      ("a.npz", b"PK\x05\x06" + bytes(18)),
    ):
      with self.subTest(f"{name} {data[-30:]}"):
        (self.folder / name).write_bytes(data)
        with self.assertRaises(UserError) as caught:
          list(clip_set.open_clips(self.folder / name))
        self.assertIn(name, str(caught.exception))
        self.assertLen(str(caught.exception).splitlines(), 1)

  def test_what_is_no_regular_file_is_not_opened(self):
    os.mkfifo(self.folder / "pipe.npy")
    (self.folder / "folder.npz").mkdir()
    with self.assertRaisesRegex(UserError, "pipe.npy is no regular file"):
      clip_set.open_clips(self.folder / "pipe.npy")
    with self.assertRaisesRegex(UserError, "folder.npz is no regular file"):
      clip_set.open_clips(f"{self.folder}/folder.npz:x")
    for path in ("x" * 300, "x/" * 3000, "~nobody_of_that_name/x"):
      with self.assertRaisesRegex(UserError, "does not exist"):
        clip_set.open_clips(path)

  def test_a_name_like_that_of_an_array_is_a_name(self):
    video = numbered_frames(3)
    for name in ("a.npz:b/c.npy", "d.npz:e.npy"):
      path = self.folder / name
      path.parent.mkdir(exist_ok=True)
      np.save(path, video)
      np.testing.assert_array_equal(next(iter(clip_set.open_clips(path))), video)
    self.assertLen(clip_set.open_clips(self.folder), 2)

  def test_names_are_quoted_without_line_breaks_and_escape_codes(self):
    path = os.fsdecode(os.fsencode(self.folder) + b"/a\n\x1b[31m\xff.npy")
    pathlib.Path(path).write_bytes(b"nothing")
    with self.assertRaises(UserError) as caught:
      clip_set.open_clips(self.folder)
    self.assertIn(r"\x1b[31m\xff.npy cannot be read", str(caught.exception))
    self.assertTrue(str(caught.exception).isprintable())

  def test_videos_of_different_lengths_need_a_word(self):
    write_video(self.folder / "a.mp4", 12)
    write_video(self.folder / "b.mp4", 14)
    with self.assertRaisesRegex(UserError, "b.mp4 has 14 frames, a.mp4 12; .*num_fr"):
      clip_set.open_clips(self.folder)
    self.assertLen(clip_set.open_clips(self.folder, num_frames=12), 2)
    with self.assertRaisesRegex(
      UserError, "12 frames; 7 from frame 0 on at .* 2 need 13"
    ):
      clip_set.open_clips(self.folder, num_frames=7, frame_stride=2)

  def test_a_stray_picture_and_a_twin_are_named_and_the_set_is_usable(self):
    write_video(self.folder / "a.mp4", 12)
    write_video(self.folder / "a.gif", 12, codec="gif", pix_fmt="rgb8")
    write_frames(self.folder / "b", 12)
    write_frames(self.folder, 1)
    with self.assertLogs("absl", "WARNING") as logs:
      clips = clip_set.open_clips(self.folder)
    self.assertEqual(clips.names, ["a.mp4", "b"])
    said = "\n".join(logs.output)
    self.assertIn(".: 1 picture, such as frame_0.png, in a folder that holds", said)
    self.assertIn("a.gif: the twin of a.mp4", said)

  def test_where_there_is_no_video(self):
    with self.assertRaisesRegex(UserError, "no video in .*expected files .*npz"):
      clip_set.open_clips(self.folder)
    with self.assertRaisesRegex(UserError, "nowhere does not exist"):
      clip_set.open_clips(self.folder / "nowhere")
    (self.folder / "a.txt").write_text("")
    with self.assertRaisesRegex(UserError, "a.txt is another kind of file; expected"):
      clip_set.open_clips(self.folder / "a.txt")

  def test_a_broken_video_is_an_error_and_not_one_clip_less(self):
    write_video(self.folder / "a.mp4", 12)
    (self.folder / "b.mp4").write_bytes(b"no video")
    with self.assertRaisesRegex(UserError, "b.mp4"):
      clip_set.open_clips(self.folder)

  def test_arrays_that_are_no_videos(self):
    path = self.folder / "a.npy"
    frames = numbered_frames(3, 4, 5)
    for array, message in (
      (frames[..., 0], r"uint8 \[3, 4, 5\]; expected \[n, f, h, w, 3\]"),
      (frames.astype(np.int64), "int64"),
      (frames.astype(np.uint16), "uint16; expected uint8"),
      (frames / 127.5 - 1, "floats from -0.9.*expected 0 to 1"),
      (np.where(frames == 8, np.nan, 0.5), "a.npy has NaN"),
      (np.array([{}]), "cannot be read as a NumPy array"),
    ):
      with self.subTest(message), self.assertRaisesRegex(UserError, message):
        np.save(path, array)
        list(clip_set.open_clips(path))
    np.savez(self.folder / "b.npz", x=frames, y=frames)
    with self.assertRaisesRegex(
      UserError, "2 arrays .x, y.; name one of them, as in .*b.npz:x"
    ):
      clip_set.open_clips(self.folder / "b.npz")
    objects = np.array([{}], dtype=object)
    np.savez(self.folder / "b.npz", x=objects)
    np.save(self.folder / "b.npy", objects, allow_pickle=True)
    for name in ("b.npz", "b.npy"):  # Nothing is unpickled.
      with self.assertRaisesRegex(
        UserError, f"{name} cannot be read as a Num.*[Oo]bject"
      ):
        clip_set.open_clips(self.folder / name)
    (self.folder / "b.npz").write_bytes(b"nothing")
    with self.assertRaisesRegex(UserError, "b.npz cannot be read"):
      clip_set.open_clips(self.folder / "b.npz")

  def test_frames_whose_size_changes(self):
    write_frames(self.folder / "a", 2)
    Image.new("RGB", (8, 8)).save(self.folder / "a" / "frame_9.png")
    clips = clip_set.open_clips(self.folder / "a", num_frames=3)
    with self.assertRaisesRegex(UserError, "size of its frames changes.*--resolution"):
      list(clips)


if __name__ == "__main__":
  absltest.main()
