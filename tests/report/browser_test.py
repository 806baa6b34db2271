"""The report in a real browser: it plays, fits and fetches nothing."""

import html
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from absl.testing import absltest
import numpy as np
import pytest

from lamd_jax.data import media
from lamd_jax.report import page

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
F, SIDE, FPS = 8, 16, 4.0
# Runs inside the page, in a frame, and leaves what it saw in the page around it.
PROBE = """<script>
const violations = [];
addEventListener("securitypolicyviolation", (e) => violations.push(e.blockedURI));
addEventListener("load", () => setTimeout(() => {
  const top = (s) => document.querySelector(s).getBoundingClientRect().top;
  const slider = document.querySelector("input[type=range]");
  const videos = [...document.querySelectorAll("video")];
  const playing = videos.filter((v) => !v.paused).length;
  slider.value = 5;
  slider.dispatchEvent(new Event("input"));
  setTimeout(() => { parent.document.body.dataset.seen = JSON.stringify({
    violations, playing,
    inner: innerWidth,
    width: document.documentElement.scrollWidth,
    fetched: performance.getEntriesByType("resource").map((x) => x.name)
      .filter((x) => !x.startsWith("data:")),
    isHidden: document.querySelector(".controls").hidden,
    said: document.querySelector("output").textContent,
    paused: videos.filter((v) => v.paused).length,
    times: videos.map((v) => v.currentTime),
    videoTop: top("#video"), cardsTop: top(".cards"),
    rows: [...document.querySelectorAll(".sheet li")].map((x) => {
      const box = x.getBoundingClientRect();
      return box.top + box.height / 2;
    }),
    sheet: (({top, height}) => [top, height])(
      document.querySelector(".sheet img").getBoundingClientRect()),
  }); }, 500);
}, 2500));
</script></body>"""


@pytest.mark.slow
@unittest.skipUnless(BROWSER, "needs chromium")
class BrowserTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    x = np.arange(F)[:, None, None, None] * 20 + np.zeros((F, SIDE, SIDE, 3))
    clips = np.stack([x, x + 30]).astype(np.uint8)
    (self.workdir / "samples").mkdir()
    np.savez(
      self.workdir / "samples" / "clips.npz",
      real=clips,
      reconstructed=clips,
      sampled=clips[:, None],
      fps=np.array(FPS),
      caption=np.array(["a caption that is long " * 9] * 2),
    )
    (self.workdir / "base").mkdir()
    lines = [json.dumps({"step": i, "loss": 1.0 / i}) for i in range(1, 9)]
    (self.workdir / "base" / "scalars.jsonl").write_text("\n".join(lines))
    write = lambda name, x: (self.workdir / name).write_text(json.dumps(x))
    data = {"num_frames": F, "resolution": SIDE}
    write("config.json", {"data": data, "stages": ["base"], "a" * 300: "b" * 300})
    write("environment.json", {"command": f"lamd_jax/main.py --workdir={'x' * 300}"})
    write("metrics.json", {"sample_motion_ratio": 2.0})
    media.contact_sheet(clips.repeat(2, axis=0), self.workdir / "base" / "grid_8.png")

  def see(self, width: int) -> dict:
    """Measures the page in a browser of a given width, with everything opened."""
    text = page.write_report(self.workdir).read_text()
    text = text.replace("<details>", "<details open>").replace("</body>", PROBE)
    # A window is at least 500 pixels wide, a frame is not.
    frame = f'<iframe style="border: 0; width: {width}px; height: 2000px" srcdoc="'
    outer = self.workdir / "outer.html"
    outer.write_text(f'<!DOCTYPE html><body>{frame}{html.escape(text)}"></iframe>')
    command = [
      *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
      *(
        "--disable-background-networking",
        "--hide-scrollbars",
        f"--user-data-dir={self.workdir}/browser",
      ),
      *("--window-size=1400,2100", "--virtual-time-budget=20000"),
      outer.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    (seen,) = re.findall(r'data-seen="([^"]*)"', done.stdout)
    return json.loads(html.unescape(seen))

  def test_it_plays_fits_and_fetches_nothing(self):
    for width in (390, 1280):
      with self.subTest(width=width):
        seen = self.see(width)
        self.assertEqual(seen["inner"], width)
        self.assertEqual(seen["width"], width)  # Nothing sticks out.
        self.assertEqual((seen["fetched"], seen["violations"]), ([], []))
        self.assertFalse(seen["isHidden"])
        self.assertEqual((seen["playing"], seen["paused"]), (6, 6))
        # The slider set all videos to the middle of the sixth frame.
        self.assertEqual(seen["said"], f"frame 6 of {F}")
        np.testing.assert_allclose(seen["times"], 5.5 / FPS, atol=1e-3)
        is_phone = width == 390
        self.assertEqual(seen["videoTop"] < seen["cardsTop"], is_phone)
        top, height = seen["sheet"]
        middles = top + height * (np.arange(4) + 0.5) / 4
        np.testing.assert_allclose(seen["rows"], middles, atol=4)


if __name__ == "__main__":
  absltest.main()
