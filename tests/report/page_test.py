"""The report: everything on it is true of the work folder, and harmless."""

import base64
from html.parser import HTMLParser
import io
import json
import math
import os
import pathlib
import re
import tempfile
from unittest import mock
from xml.etree import ElementTree

from absl.testing import absltest, parameterized
import av
import numpy as np
from PIL import Image

from lamd_jax.metrics import image, protocol
from lamd_jax.report import content, curves, page
from lamd_jax.types import UserError

N, S, F, H, W = 2, 3, 4, 32, 48
FPS = 6.0
VOID = {"meta", "img", "input", "link", "br", "hr"}


class Page(HTMLParser):
  """The elements of a page; fails where tags do not close in order."""

  def __init__(self, text: str):
    super().__init__()
    self.elements: list[tuple[str, dict]] = []
    self.open: list[str] = []
    self.words: list[str] = []
    self.feed(text)
    self.close()
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, (tag, self.open)

  def handle_data(self, data):
    if self.open[-1:] not in (["script"], ["style"]):
      self.words.append(data)

  def all(self, tag):
    return [attributes for name, attributes in self.elements if name == tag]

  @property
  def text(self):
    return " ".join(" ".join(self.words).split())


def decode(url: str) -> tuple[np.ndarray, float]:
  """Frames and rate of a video inside a page."""
  head, content = url.split(",")
  assert head == "data:video/mp4;base64", head
  with av.open(io.BytesIO(base64.b64decode(content))) as file:
    frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    rate = file.streams.video[0].average_rate
    assert rate is not None
  return np.stack(frames), float(rate)


def moving_clips():
  """Smooth clips that differ from each other: phase k, moving one pixel a frame."""
  x = np.arange(W)
  waves = [
    [100 + 80 * np.sin(2 * np.pi * (x + f) / W + k) for f in range(F)]
    for k in range(N * (S + 2))
  ]
  video = np.broadcast_to(
    np.array(waves)[:, :, None, :, None], (N * (S + 2), F, H, W, 3)
  )
  video = video.astype(np.uint8)
  return video[:N], video[N : 2 * N], video[2 * N :].reshape(N, S, F, H, W, 3)


class ReportTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.new_folder()
    self.clips = moving_clips()
    self.config = {
      "system": "lamd",
      "data": {"name": "shapes", "num_frames": F, "resolution": H},
      "stages": ["mcd_vae", "dmg"],
      "mcd_vae": {"train": {"steps": 60}},
      "dmg": {"train": {"steps": 40}},
    }
    self.metrics = protocol.video_figures(*self.clips) | {
      "wall_seconds": 754.0,
      "peak_memory_gb": 2.5,
      "mcd_vae_steps": 60,
      "mcd_vae_seconds": 130.0,
      "num_parameters_mcd_vae": 123456,
      "skipped_files": 1,
      "something_new": 0.125,
    }
    self.write("config.json", self.config)
    self.write("environment.json", {"jax": "0.10.2", "git_revision": "abc1234"})
    self.write("metrics.json", self.metrics)
    self.save_clips()
    for name, steps in (("mcd_vae", 60), ("dmg", 40)):
      self.write_scalars(
        name, [{"step": i, "loss": 1.0 / i, "l1": 0.5} for i in range(1, steps + 1)]
      )
    sheet = Image.fromarray(np.zeros((3, 4, 3), np.uint8))
    sheet.save(self.workdir / "mcd_vae" / "grid_9.png")
    sheet.save(self.workdir / "mcd_vae" / "grid_10.png")

  def new_folder(self):
    return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def write(self, name, content):
    (self.workdir / name).write_text(json.dumps(content))

  def write_scalars(self, stage, rows):
    (self.workdir / stage).mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (self.workdir / stage / "scalars.jsonl").write_text(lines)

  def save_clips(self, **more):
    real, reconstructed, sampled = self.clips
    arrays = dict(real=real, reconstructed=reconstructed, sampled=sampled, fps=FPS)
    (self.workdir / "samples").mkdir(exist_ok=True)
    np.savez(self.workdir / "samples" / "clips.npz", **(arrays | more))

  def page(self, with_video=True) -> Page:
    videos = content.videos if with_video else lambda clips: "<p>No time.</p>"
    with mock.patch.object(content, "videos", videos):
      path = page.write_report(self.workdir)
    self.assertEqual(path, self.workdir / "report.html")
    return Page(path.read_text(encoding="utf-8"))

  def test_a_whole_work_folder_gives_a_whole_page(self):
    page = self.page()
    self.assertNotIn("not complete", page.text)
    self.assertIn("lamd on shapes", page.text)
    for name, known in protocol.FIGURES.items():
      self.assertIn(name, page.text)
      self.assertIn(known.meaning, page.text)
    self.assertIn(protocol.sentence(self.metrics), page.text)
    for fact in (
      "12 min 34 s",
      "2.5 GB",
      "Files skipped 1",
      "60 of 60 steps, 2 min 10 s, 123,456 parameters",
      "40 of 40 steps",
      "something_new 0.125",
      "git_revision abc1234",
      'data.name "shapes"',
      "What it drew at step 10",
    ):
      self.assertIn(fact, page.text)

  def test_a_figure_is_marked_against_its_range(self):
    for value, word in ((0.69, "✗ outside"), (1.0, "✓ as expected")):
      self.write("metrics.json", {"sample_motion_ratio": value})
      text = self.page(with_video=False).text
      self.assertIn(f"Motion, sampled {value:g} 0.7 to 1.3 expected {word}", text)
      self.assertEqual(text.count(word), 2)  # On its card and in the table.

  def test_the_videos_are_the_clips_at_their_rate(self):
    page = self.page()
    shown = {attributes["aria-label"]: attributes for attributes in page.all("video")}
    self.assertLen(shown, N * (2 + S))
    real, reconstructed, sampled = self.clips
    for n in range(N):
      expected = {"real": real[n], "reconstructed": reconstructed[n]}
      expected |= {f"sample {s + 1}": sampled[n, s] for s in range(S)}
      for name, clip in expected.items():
        video, rate = decode(shown[f"{name}, clip {n + 1}"]["src"])
        self.assertEqual(rate, FPS)
        factor = content.CLIP_PIXELS // H
        self.assertEqual(video.shape, (F, H * factor, W * factor, 3))
        # The middle of each enlarged pixel; the nearest other clip is at 17 dB.
        small = video[:, factor // 2 :: factor, factor // 2 :: factor]
        self.assertGreater(image.psnr(small, clip), 35, msg=name)

  def test_the_given_frame_is_the_first_real_one_exactly(self):
    given = [x for x in self.page().all("img") if x["alt"].startswith("given")]
    self.assertLen(given, N)
    for n, attributes in enumerate(given):
      content = base64.b64decode(attributes["src"].split(",")[1])
      frame = np.asarray(Image.open(io.BytesIO(content)))
      np.testing.assert_array_equal(frame, self.clips[0][n, 0])

  def test_nothing_is_fetched(self):
    page = self.page()
    for tag, attributes in page.elements:
      self.assertNotIn(tag, ("link", "iframe", "object", "embed", "base"))
      for name in ("src", "href", "xlink:href", "poster", "srcset", "action"):
        if name in attributes:
          self.assertRegex(attributes[name], r"^(data:|#)", msg=tag)
    text = (self.workdir / "report.html").read_text()
    self.assertNotRegex(text, r"url\((?!#)")
    self.assertNotIn("@import", text)
    (policy,) = [x for x in page.all("meta") if "http-equiv" in x]
    self.assertStartsWith(policy["content"], "default-src 'none';")

  def test_videos_play_without_sound_and_pictures_have_words(self):
    page = self.page()
    for attributes in page.all("video"):
      self.assertLessEqual({"autoplay", "loop", "muted", "playsinline"}, {*attributes})
    for attributes in [*page.all("img"), *page.all("svg")]:
      self.assertTrue(attributes.get("alt") or attributes.get("aria-label"))
    ids = [x["id"] for _, x in page.elements if "id" in x]
    self.assertCountEqual(ids, set(ids))
    targets = {x["href"].removeprefix("#") for x in page.all("a")}
    self.assertLessEqual(targets, {*ids})

  def test_text_from_files_is_never_markup(self):
    evil = "<script>alert(1)</script><b x=\"'&amp;"
    self.config |= {"system": evil, "stages": ["mcd_vae", evil], evil: evil}
    self.config["data"]["name"] = evil
    self.write("config.json", self.config)
    self.write("environment.json", {evil: evil})
    self.write("metrics.json", self.metrics | {evil: 1.0, "wall_seconds": evil})
    self.write_scalars("mcd_vae", [{"step": 1, "loss": 1.0, evil: 2.0}])
    (self.workdir / "skipped_files.txt").write_text(f"{evil}: {evil}\n")
    self.save_clips(caption=np.array([evil, evil]))
    page = self.page()
    self.assertLen(page.all("script"), 1)
    self.assertGreater(page.text.count(evil), 8)
    self.assertNotIn("<script>alert", (self.workdir / "report.html").read_text())

  def test_scores_stand_beside_their_companions_and_their_protocol(self):
    evil = "<b>bold</b>"
    card = {
      "name": "FVD@256",
      "value": 123.25,
      "interval_95": [110.0, 140.0],
      "companions": {"other real": 52.5, "stills": 900.0},
      "protocol": {"resize_rule": "half_pixel", evil: evil},
    }
    (self.workdir / "cards").mkdir()
    self.write("cards/sample_fvd.json", card)
    self.write("metrics.json", self.metrics | {"sample_fvd": 123.25})
    page = self.page(with_video=False)
    for text in (
      "FVD@256 sample 123.2 110 to 140 other real 52.5, stills 900",
      "resize_rule half_pixel",
      f"{evil} {evil}",
    ):
      self.assertIn(text, page.text)
    self.assertNotIn("sample_fvd 123", page.text)  # Once is enough.
    (self.workdir / "cards/sample_fvd.json").write_text("{")
    self.assertIn("sample_fvd.json could not be read", self.page(False).text)

  def test_captions_and_skipped_files_are_shown(self):
    self.save_clips(caption=np.array(["a red Disc orbits", "two"]))
    (self.workdir / "skipped_files.txt").write_text("bad.mp4: not a video\n")
    page = self.page()
    self.assertIn("Clip 1: a red Disc orbits", page.text)
    self.assertIn("bad.mp4: not a video", page.text)

  @parameterized.parameters(
    "config.json",
    "environment.json",
    "metrics.json",
    "samples/clips.npz",
    "dmg/scalars.jsonl",
  )
  def test_what_is_missing_or_broken_is_said_and_the_rest_is_shown(self, name):
    content = (self.workdir / name).read_bytes()
    for damage in (b"", content[: len(content) // 3], None):
      if damage is None:
        (self.workdir / name).unlink()
      else:
        (self.workdir / name).write_bytes(damage)
      if name.endswith(".jsonl") and damage:
        continue  # A third of the curves is a run that goes on.
      page = self.page(with_video=False)
      self.assertIn("This report is not complete", page.text)
      self.assertIn(name, page.text.split("The same command")[0])
      self.assertNotEmpty(page.all("svg"))

  def test_an_empty_folder_gives_a_page_that_says_so(self):
    self.workdir = self.new_folder()
    text = self.page().text
    for words in ("No clips", "Nothing has been measured", "No stage has been trained"):
      self.assertIn(words, text)

  def test_after_the_first_stage_only_that_stage_has_curves(self):
    (self.workdir / "dmg" / "scalars.jsonl").unlink()
    (self.workdir / "samples" / "clips.npz").unlink()
    (self.workdir / "metrics.json").unlink()
    page = self.page()  # Real videos: none must be asked for.
    labels = [x["aria-label"] for x in page.all("svg")]
    self.assertLen(labels, 2)  # loss and l1
    self.assertTrue(all(x.startswith("mcd_vae") for x in labels))
    self.assertIn("dmg/scalars.jsonl has nothing to show", page.text)
    self.assertIn("0 of 40 steps", page.text)

  def test_arrays_are_never_unpickled(self):
    marker = self.workdir / "unpickled"

    class Payload:
      def __reduce__(self):
        return os.mkdir, (str(marker),)

    self.save_clips(caption=np.array([Payload(), None], dtype=object))
    page = self.page()
    self.assertFalse(marker.exists())
    self.assertIn("samples/clips.npz could not be read", page.text)

  @parameterized.parameters(
    dict(real=np.zeros((N, F, H, W, 3), np.float32)),
    dict(sampled=np.zeros((N, S, F + 1, H, W, 3), np.uint8)),
    dict(reconstructed=np.zeros((N, F, H, W + 2, 3), np.uint8)),
    dict(fps=0.0),
    dict(fps=np.nan),
  )
  def test_arrays_that_are_no_clips_are_refused(self, **wrong):
    self.save_clips(**wrong)
    page = self.page()
    self.assertEmpty(page.all("video"))
    self.assertIn("samples/clips.npz could not be read", page.text)

  def test_a_resumed_run_shows_its_later_values(self):
    rows = [
      {"step": 1, "loss": 3.0},
      {"step": 2, "loss": 9.0},
      {"step": 2, "loss": 2.0},
    ]
    self.write_scalars("mcd_vae", rows)
    curves = page.read_curves(self.workdir / "mcd_vae" / "scalars.jsonl", [])
    self.assertEqual(curves, {"loss": ([1, 2], [3.0, 2.0])})

  def test_values_that_are_not_finite_are_left_out_and_counted(self):
    rows = [
      {"step": 1, "loss": 3.0},
      {"step": 2, "loss": None},
      {"step": 3, "loss": 1.0},
    ]
    self.write_scalars("mcd_vae", rows)
    missing = []
    curves = page.read_curves(self.workdir / "mcd_vae" / "scalars.jsonl", missing)
    self.assertEqual(curves, {"loss": ([1, 3], [3.0, 1.0])})
    self.assertEqual(
      missing, ["mcd_vae/scalars.jsonl: 1 values are not finite and left out."]
    )

  def test_many_clips_and_samples_are_cut_and_counted(self):
    real, _, sampled = self.clips
    many = np.repeat(real, 5, axis=0)
    more = np.repeat(np.repeat(sampled, 5, axis=0), 2, axis=1)
    self.save_clips(real=many, reconstructed=many, sampled=more)
    with (
      mock.patch.object(content, "MAX_CLIPS", 3),
      mock.patch.object(content, "MAX_SAMPLES", 1),
    ):
      page = self.page()
    self.assertLen(page.all("video"), 3 * 3)
    self.assertIn("Shown: 3 of 10 clips, 1 of 6 samples each", page.text)

  def test_a_failed_write_leaves_the_earlier_page(self):
    path = page.write_report(self.workdir)
    before, names = path.read_bytes(), {*self.workdir.iterdir()}
    with (
      mock.patch.object(os, "replace", side_effect=OSError("gone")),
      mock.patch.object(content, "videos", return_value=""),
      self.assertRaisesRegex(OSError, "gone"),
    ):
      page.write_report(self.workdir)
    self.assertEqual(path.read_bytes(), before)
    self.assertEqual({*self.workdir.iterdir()}, names)

  def test_no_folder_is_the_users_mistake(self):
    with self.assertRaisesRegex(UserError, "no work folder '.*nowhere'"):
      page.write_report(self.workdir / "nowhere")


class CurveTest(parameterized.TestCase):
  def lines(self, svg):
    """The points of each drawn curve, in the order drawn."""
    result = []
    for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
      style = path.get("style", "")
      if "var(--accent)" in style or "var(--raw)" in style:
        numbers = re.findall(r"-?\d+\.?\d*", path.get("d", ""))
        result.append(np.array(numbers, float).reshape(-1, 2))
    return result

  def test_a_straight_curve_is_drawn_straight_and_downwards(self):
    steps = [0, 10, 30, 40]
    (line,) = self.lines(curves.curve_svg(steps, [40.0, 30.0, 10.0, 0.0], "x"))
    slopes = np.diff(line[:, 1]) / np.diff(line[:, 0])
    self.assertTrue((slopes > 0).all())  # y points down in SVG.
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-3)

  def test_an_exponential_curve_is_straight_on_its_logarithmic_axis(self):
    steps = [*range(0, 50, 5)]
    values = [math.exp(-step / 7) for step in steps]
    (line,) = self.lines(curves.curve_svg(steps, values, "x"))
    slope = (line[-1, 1] - line[0, 1]) / (line[-1, 0] - line[0, 0])
    expected = line[0, 1] + slope * (line[:, 0] - line[0, 0])
    np.testing.assert_allclose(line[:, 1], expected, atol=0.01)

  def test_a_long_curve_has_a_running_mean_beside_it(self):
    values = [(-1.0) ** i for i in range(1000)]
    raw, smoothed = self.lines(curves.curve_svg([*range(1000)], values, "x"))
    self.assertLess(np.ptp(smoothed[20:-20, 1]), 0.05 * np.ptp(raw[:, 1]))

  @parameterized.parameters(([7], [1.5]), ([1, 2], [0.0, 0.0]), ([1, 2, 3], [5, 5, 5]))
  def test_short_and_constant_curves_are_drawn(self, steps, values):
    svg = curves.curve_svg(steps, [float(x) for x in values], 'a "label" <')
    root = ElementTree.fromstring(svg)
    self.assertEqual(root.get("aria-label"), 'a "label" <')
    self.assertNotIn("#0102", svg)  # No stand-in colour is left.


if __name__ == "__main__":
  absltest.main()
