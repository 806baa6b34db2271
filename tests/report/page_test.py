"""The report: everything on it is true to the work folder, and harmless."""

import base64
import contextlib
from html.parser import HTMLParser
import io
import json
import os
import pathlib
import shutil
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
import av
import jinja2
import numpy as np
from PIL import Image

from lamd_jax.data import media
from lamd_jax.metrics import image, protocol
from lamd_jax.report import page, reading, videos, view
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
    with contextlib.ExitStack() as stack:
      if not with_video:  # Encoding takes most of the time.
        stack.enter_context(mock.patch.object(videos, "make_videos", return_value=None))
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
        factor = videos.CLIP_PIXELS // H
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
        if name in attributes and (tag, name) != ("a", "href"):
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
    targets = {x["href"] for x in page.all("a") if x["href"].startswith("#")}
    self.assertLessEqual(targets, {f"#{x}" for x in ids})
    self.assertIn("#video", targets)

  def test_text_from_files_is_never_markup(self):
    evil = "<script>alert(1)</script><b x=\"'&amp;"
    self.config |= {"system": evil, "stages": ["mcd_vae", evil], evil: evil}
    self.config["data"]["name"] = evil
    self.write("config.json", self.config)
    self.write("environment.json", {evil: evil, "command": evil})
    (self.workdir / "cards").mkdir()
    card = dict(name=evil, value=evil, companions={evil: evil}, protocol={evil: evil})
    self.write("cards/sample_x.json", card)
    self.write("metrics.json", self.metrics | {evil: 1.0, "wall_seconds": evil})
    rows = [{"step": i, "loss": 1.0, evil: 2.0} for i in (1, 2)]
    self.write_scalars("mcd_vae", [*rows, {"step": 3, f"{evil}, once": 2.0}])
    (self.workdir / "skipped_files.txt").write_text(f"{evil}: {evil}\n")
    self.save_clips(caption=np.array([evil, evil]))
    page = self.page()
    self.assertLen(page.all("script"), 1)
    self.assertEmpty([x for x in page.all("b") if x])
    self.assertGreater(page.text.count(evil), 8)
    self.assertNotEmpty([x for x in page.all("svg") if evil in x["aria-label"]])
    self.assertIn(f"Logged once: {evil}, once 2", page.text)
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

  @parameterized.parameters(
    dict(interval_95="ab"),
    dict(interval_95=[1.0]),
    dict(companions=[1]),
    dict(protocol="none"),
    dict(name=None),
  )
  def test_a_file_that_is_no_card_is_said_and_left_out(self, **wrong):
    card = {"name": "FVD@256", "value": 1.0} | wrong
    (self.workdir / "cards").mkdir()
    self.write("cards/x.json", {k: v for k, v in card.items() if v is not None})
    text = self.page(with_video=False).text
    self.assertIn("x.json could not be read: it is not a card", text)
    self.assertNotIn("FVD@256", text)

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
    curves = reading.read_curves(self.workdir / "mcd_vae" / "scalars.jsonl", [])
    self.assertEqual(curves, {"loss": ([1, 2], [3.0, 2.0])})

  def test_values_that_are_not_finite_are_left_out_and_counted(self):
    rows = [
      {"step": 1, "loss": 3.0},
      {"step": 2, "loss": None},
      {"step": 3, "loss": 1.0},
    ]
    self.write_scalars("mcd_vae", rows)
    missing = []
    curves = reading.read_curves(self.workdir / "mcd_vae" / "scalars.jsonl", missing)
    self.assertEqual(curves, {"loss": ([1, 3], [3.0, 1.0])})
    self.assertEqual(
      missing, ["mcd_vae/scalars.jsonl: 1 non-finite value left out of the curves."]
    )

  def test_many_clips_and_samples_are_cut_and_counted(self):
    real, _, sampled = self.clips
    many = np.repeat(real, 5, axis=0)
    more = np.repeat(np.repeat(sampled, 5, axis=0), 2, axis=1)
    self.save_clips(real=many, reconstructed=many, sampled=more)
    with (
      mock.patch.object(videos, "MAX_CLIPS", 3),
      mock.patch.object(videos, "MAX_SAMPLES", 1),
    ):
      page = self.page()
    self.assertLen(page.all("video"), 3 * 3)
    self.assertIn("Shown: 3 of 10 clips, 1 of 6 samples each", page.text)

  def test_a_failed_write_leaves_the_earlier_page(self):
    path = page.write_report(self.workdir)
    before, names = path.read_bytes(), {*self.workdir.iterdir()}
    with (
      mock.patch.object(os, "replace", side_effect=OSError("gone")),
      mock.patch.object(videos, "make_videos", return_value=None),
      self.assertRaisesRegex(UserError, "cannot write .*report.html .gone"),
    ):
      page.write_report(self.workdir)
    self.assertEqual(path.read_bytes(), before)
    self.assertEqual({*self.workdir.iterdir()}, names)

  def test_values_that_are_no_figures_leave_a_page(self):
    name = "caf\udce9\n\x1b[2J"
    strange = {"sample_motion_ratio": 10**400, name: "x", "a": {"b": [1]}}
    self.write("metrics.json", strange)
    self.write("environment.json", {"command": name})
    for text in ("[" * 100_000, json.dumps([{"step": 1}]), "{}"):
      (self.workdir / "config.json").write_text(text)
      path = page.write_report(self.workdir)
      self.assertNotIn("\x1b", path.read_text("utf-8"))

  def test_folders_in_place_of_files_are_said_to_be_unreadable(self):
    shutil.rmtree(self.workdir / "samples", ignore_errors=True)
    for name in ("config.json", "metrics.json", "samples/clips.npz", "cards/a.json"):
      (self.workdir / name).unlink(missing_ok=True)
      (self.workdir / name).mkdir(parents=True)
    text = page.write_report(self.workdir).read_text("utf-8")
    for name in ("config.json", "metrics.json", "samples/clips.npz", "a.json"):
      self.assertIn(f"{name} could not be read: Is a directory", text)

  def test_links_lead_to_what_the_folder_has(self):
    def links():
      found = [x["href"] for x in self.page(with_video=False).all("a")]
      return [x for x in found if not x.startswith("#")]

    files = ["samples/", "metrics.json", "config.json", "environment.json"]
    self.assertEqual(links(), files)
    for name in files:
      self.assertTrue((self.workdir / name).exists())
    (self.workdir / "metrics.json").unlink()
    self.assertNotIn("metrics.json", links())

  @parameterized.parameters(
    ("/a b/lamd_jax/main.py --config=c.py:smoke", "python -m lamd_jax.main --config=c"),
    ("train.py --x=/lamd_jax/main.pyc", "train.py --x=/lamd_jax/main.pyc"),
  )
  def test_the_command_stands_as_one_types_it(self, recorded, typed):
    self.write("environment.json", {"command": recorded})
    self.assertIn(f"go on with it {typed}", self.page(with_video=False).text)
    self.write("environment.json", {"jax": "0.10.2"})
    self.assertNotIn("To repeat it", self.page(with_video=False).text)

  def test_a_value_logged_once_is_said_and_not_drawn(self):
    rows = [{"step": i, "loss": 1.0 / i} for i in (1, 2)]
    rows[1]["still_share"] = 0.25
    self.write_scalars("dmg", rows)
    page = self.page(with_video=False)
    self.assertIn("Logged once: still_share 0.25 at step 2.", page.text)
    labels = [x["aria-label"] for x in page.all("svg")]
    self.assertLen([x for x in labels if x.startswith("dmg")], 1)

  def test_each_row_of_a_contact_sheet_has_its_label(self):
    real, _, sampled = self.clips
    rows = np.stack([real, sampled[:, 0]], axis=1).reshape(-1, *real.shape[1:])
    media.contact_sheet(rows[..., :H, :], self.workdir / "mcd_vae" / "grid_11.png")
    page = self.page(with_video=False)
    self.assertIn("at step 11", page.text)
    self.assertIn("from left to right. real 1 model 1 real 2 model 2 Stage", page.text)

  @parameterized.parameters(
    dict(frames=F + 1),  # Another number of columns.
    dict(frames="many"),
    dict(frames=0),
    dict(rows=3),  # Not in pairs.
  )
  def test_rows_of_another_layout_are_not_labelled(self, frames=F, rows=4):
    path = self.workdir / "grid_1.png"
    media.contact_sheet(np.zeros((rows, F, H, H, 3), np.uint8), path)
    sheet = reading.read_sheet(self.workdir, [])
    assert sheet is not None
    self.assertEqual(view.sheet_labels(sheet, frames), [])

  def test_a_broken_contact_sheet_is_said_and_left_out(self):
    (self.workdir / "mcd_vae" / "grid_12.png").write_bytes(b"no picture")
    page = self.page(with_video=False)
    self.assertIn("mcd_vae/grid_12.png could not be read", page.text)
    self.assertNotIn("What it drew", page.text)

  def test_what_a_screen_reader_says_of_rows_and_frames(self):
    page = self.page()
    (output,) = page.all("output")
    self.assertEqual(output["aria-live"], "off")  # Else it speaks at each frame.
    headings = {x["id"] for x in page.all("h3") if "id" in x}
    rows = [x for x in page.all("section") if x.get("class") == "clip"]
    self.assertEqual({x["aria-labelledby"] for x in rows}, headings)
    self.assertLen(rows, N)

  @parameterized.parameters(
    (0, "none of them given", "sees none of it"),
    (1, "from one given frame", "sees the given frame alone"),
    (2, "the first 2 of them given", "sees the first 2 frames"),
  )
  def test_the_given_frames_are_counted(self, given, subtitle, intro):
    self.save_clips(given_frames=given)
    self.write("metrics.json", {"protocol_given_frames": float(given)})
    page = self.page()
    self.assertIn(f"{F} frames of {H}x{H} pixels", page.text)
    self.assertIn(subtitle, page.text)
    self.assertIn(intro, page.text)
    pictures = [x for x in page.all("img") if x["alt"].startswith("given")]
    self.assertLen(pictures, N if given else 0)

  def test_templates_escape_text_and_refuse_misspelt_values(self):
    render = lambda text, **values: page.templates().from_string(text).render(**values)
    self.assertEqual(render("<b>{{ x }}", x="<i>"), "<b>&lt;i&gt;")
    for text in ("{{ x.nothing }}", "{% if x.nothing %}{% endif %}", "{{ nothing }}"):
      with self.assertRaises(jinja2.UndefinedError):
        render(text, x=object())

  def test_no_folder_is_the_users_mistake(self):
    with self.assertRaisesRegex(UserError, "no work folder '.*nowhere'"):
      page.write_report(self.workdir / "nowhere")


if __name__ == "__main__":
  absltest.main()
