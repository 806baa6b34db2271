"""Reads broken videos, pictures, folders, csv and split files.

    PYTHONPATH=. python tests/benchmarks/fuzz/media.py --count=0.1

runs a tenth of 2,000 videos, 2,000 pictures and 500 listings.
"""

from collections.abc import Callable
import contextlib
import csv
import io
import os
import pathlib
import sys
from typing import Any
import unicodedata

from absl import app, flags
import av
import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import runner

from lamd_jax.data import listing, media, sources, vocabulary
from lamd_jax.metrics import clip_set

_COUNT = flags.DEFINE_float("count", 1.0, "Fraction of the cases.")
_VIDEOS = flags.DEFINE_integer("videos", 2000, "Number of broken videos.")
_PICTURES = flags.DEFINE_integer("pictures", 2000, "Number of broken pictures.")
_LISTINGS = flags.DEFINE_integer("listings", 500, "Number of hostile folders.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all cases.")

# Ending, codec, layout of pixels.
CODECS = (
  ("mp4", "libx264", "yuv420p"), ("mkv", "libx264", "yuv420p"),
  ("mov", "libx265", "yuv420p"), ("ts", "libx264", "yuv420p"),
  ("avi", "mpeg4", "yuv420p"), ("avi", "mjpeg", "yuvj420p"),
  ("webm", "libvpx-vp9", "yuva420p"), ("webm", "libvpx", "yuv420p"),
  ("mpg", "mpeg1video", "yuv420p"), ("vob", "mpeg2video", "yuv420p"),
  ("wmv", "wmv2", "yuv420p"), ("flv", "flv", "yuv420p"),
  ("gif", "gif", "rgb8"), ("apng", "apng", "rgba"), ("mov", "qtrle", "argb"),
  ("mxf", "mpeg2video", "yuv420p"), ("h264", "libx264", "yuv420p"),
  ("ivf", "libvpx-vp9", "yuv420p"), ("nut", "ffv1", "bgra"), ("mov", "png", "rgba"),
)  # fmt: skip
PICTURES = (
  ("PNG", "RGBA"), ("PNG", "I;16"), ("PNG", "P"), ("PNG", "1"), ("JPEG", "RGB"),
  ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"),
  ("TIFF", "CMYK"), ("GIF", "P"), ("PPM", "RGB"), ("AVIF", "RGB"), ("TIFF", "I;16"),
  ("EPS", "RGB"), ("TGA", "RGB"), ("ICO", "RGBA"), ("PCX", "RGB"), ("PNG", "LA"),
)  # fmt: skip
TEXTS = (
  "ffconcat version 1.0\nfile other.mp4\n",
  "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
  "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n",
  "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
  "", "\0" * 5000, "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
  "P6\n99999 99999\n255\n", "BM" + "\xff" * 80, "GIF89a\xff\xff\xff\xff\xf0\0\0",
)  # fmt: skip
NAMES = (
  "a.mp4", "B.MP4", "clip 1.mp4", "caf\u00e9.mp4", "cafe\u0301.mp4", "a\nb.mp4",
  "\x1b[2J.mp4", os.fsdecode(b"\xff\xfe.mp4"), "http:/x.mp4", "%03d.png", "-rf.mp4",
  "x" * 240 + ".mp4", "a:b.mp4", "concat:a|b.mp4", "a b/c.mp4", "deep/er/a.gif",
  "a.gif", "sheet.png", "f/1.png", "f/2.png", "f/10.jpg", "g/1.png", "noending",
  "a.npy", "a.npz", "list.m3u8", "sub/a.mp4", "sub/thumb.jpg", ".hidden.mp4",
  "\u202emp4.exe", "a.mp4/b.mp4", "'\"$(x).mp4", "\u732b.webm", "a\\b.mp4",
)  # fmt: skip


def pick(rng: np.random.Generator, choices: Any) -> Any:
  """Returns one of the choices."""
  return choices[rng.integers(len(choices))]


def damaged(rng: np.random.Generator, data: bytes) -> tuple[str, bytes]:
  """Returns what was done to a file, and its bytes afterwards."""
  how = pick(rng, ("whole", "bytes", "bytes", "cut", "zeros", "twice", "head", "size"))
  changed = bytearray(data)
  places = rng.integers(0, max(len(data), 1), 16).tolist()
  if not data:
    return how, data
  if how == "bytes":
    for place in places[: rng.integers(1, 16)]:
      changed[place] = rng.integers(256)
  elif how == "head":  # Where formats keep sizes, rates and tables.
    for place in places[:6]:
      changed[place % min(len(data), 400)] = pick(rng, (0, 1, 127, 128, 255))
  elif how == "size":
    place = places[0] % max(len(data) - 4, 1)
    changed[place : place + 4] = pick(rng, (b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4)))
  elif how == "cut":
    changed = changed[: places[0]]
  elif how == "zeros":
    end = min(len(data), places[0] + int(rng.integers(1, 3000)))
    changed[places[0] : end] = bytes(end - places[0])
  elif how == "twice":
    changed += changed[places[0] :]
  return how, bytes(changed)


def encode(case: tuple[np.random.Generator, pathlib.Path, str, str]) -> None:
  """Writes a small film of noise, of any rate, shape of pixels and turn."""
  rng, path, codec, layout = case
  count, height, width = int(rng.integers(1, 24)), 64, 80
  with av.open(str(path), "w") as file:
    rate = 25 if codec.startswith("mpeg") else int(pick(rng, (1, 25, 60, 240)))
    stream = file.add_stream(codec, rate=rate)
    stream.height, stream.width, stream.pix_fmt = height, width, layout
    stream.gop_size = int(rng.integers(1, 13))
    if codec == "libx265":
      stream.options = {"x265-params": "log-level=none:open-gop=1"}
    with contextlib.suppress(Exception):
      aspect = pick(rng, ((1, 1), (2, 1), (1, 3), (16, 15)))
      stream.codec_context.sample_aspect_ratio = aspect
      stream.set_display_rotation(int(pick(rng, (0, 90, 180, 45))))
    for _ in range(count):
      pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
      frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
      file.mux(stream.encode(frame.reformat(format=layout)))
    file.mux(stream.encode())


def encoded(
  rng: np.random.Generator, path: pathlib.Path, codec: str, layout: str
) -> bytes:
  """Returns what `encode` writes, in another process.

  After a process has used FFmpeg, those forked from it may wait for ever for threads
  that they do not have.
  """
  runner.run_apart(encode, (rng, path, codec, layout))  # Not all rates suit all codecs.
  return path.read_bytes() if path.exists() else b""


def make_video(rng: np.random.Generator, folder: pathlib.Path) -> tuple[str, Any]:
  """Writes a video that is damaged, or another file with the name of one."""
  if rng.random() < 0.1:
    path = folder / pick(rng, ("a.mp4", "a.gif", "a.ts", "a.mkv"))
    text = pick(rng, TEXTS)
    path.write_bytes(text.encode("latin-1"))
    return f"text {text[:20]!r} as {path.name}", (path, 0, 3, 1)
  ending, codec, layout = pick(rng, CODECS)
  path = folder / f"a.{ending}"
  how, data = damaged(rng, encoded(rng, path, codec, layout))
  if rng.random() < 0.2:
    path = folder / pick(rng, ("b.mp4", "b.avi", "b.gif", "b.jpg", "%d.gif", "c:d"))
  path.write_bytes(data)
  count = int(pick(rng, (1, 2, 5, 30, 10**11)))
  return f"{codec} in {ending}, {how}", (path, int(rng.integers(0, 9)), count, 1)


def read_video(argument: tuple[pathlib.Path, int, int, int]) -> None:
  """Reads a video as training and the metrics tool do; checks what it promises."""
  path, start, count, stride = argument
  probed = media.probe(path)
  assert probed.num_frames > 0 and probed.fps > 0, probed
  first = media.read_window(path, 0, 1)
  assert first.dtype == np.uint8 and first.shape[-1] == 3, first.shape
  try:
    media.read_window(path, start, count, stride, resolution=16)
  except media.VideoError:
    media.read_window(path, 0, min(3, probed.num_frames))


def make_picture(rng: np.random.Generator, folder: pathlib.Path) -> tuple[str, Any]:
  """Writes a picture that is damaged, or in a format that is not read."""
  if rng.random() < 0.1:
    text = pick(rng, TEXTS)
    path = folder / pick(rng, ("a.png", "a.jpg", "a.ppm", "a.eps"))
    path.write_bytes(text.encode("latin-1"))
    return f"text {text[:20]!r} as {path.name}", path
  kind, mode = pick(rng, PICTURES)
  size = tuple(int(x) for x in rng.integers(1, 40, 2))
  pixels = rng.integers(0, 256, (size[1], size[0], 4), np.uint8)
  if mode == "I;16":
    image = Image.fromarray(rng.integers(0, 65536, size, np.uint16))
  elif mode == "F":
    values = pick(rng, (1.0, 300.0, np.nan, np.inf, -1.0, 1e38))
    image = Image.fromarray(np.full(size, values, np.float32))
  else:
    image = Image.fromarray(pixels).convert("RGB")
    image = image.convert("L").convert("LA") if mode == "LA" else image.convert(mode)
  stream = io.BytesIO()
  values = {}
  if kind in ("PNG", "JPEG", "WEBP") and rng.random() < 0.3:
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 12))
    values = {"exif": exif}
  image.save(stream, kind, **values)
  how, data = damaged(rng, stream.getvalue())
  path = folder / pick(rng, ("a.png", "a.jpg", "a.webp", "b", "%d.png"))
  path.write_bytes(data)
  return f"{kind} of {mode}, {how}", path


def read_picture(path: pathlib.Path) -> None:
  """Reads a picture by name and from memory."""
  try:
    by_name = media.read_image(path)
  except ValueError:
    media.read_image(io.BytesIO(path.read_bytes()))
    raise
  assert by_name.dtype == np.uint8 and by_name.ndim == 3, by_name.shape


def fill(rng: np.random.Generator, folder: pathlib.Path, film: bytes) -> list[str]:
  """Fills a folder with files, links and pipes of hostile names; returns the names."""
  made = []
  for name in rng.choice(NAMES, int(rng.integers(1, 20)), replace=False).tolist():
    path = folder / name
    with contextlib.suppress(OSError, ValueError):
      path.parent.mkdir(parents=True, exist_ok=True)
      kind = pick(rng, ("film", "film", "film", "junk", "pipe", "link", "out", "loop"))
      if path.suffix in (".png", ".jpg"):
        Image.fromarray(rng.integers(0, 256, (8, 9, 3), np.uint8)).save(path)
      elif kind == "film":
        path.write_bytes(film)
      elif kind == "junk":
        path.write_bytes(pick(rng, TEXTS).encode("latin-1"))
      elif kind == "pipe":
        os.mkfifo(path)
      else:
        target = {"link": "a.mp4", "out": "/etc/passwd", "loop": path.name}[kind]
        path.symlink_to(target)
      made.append(name)
  return made


def make_listing(rng: np.random.Generator, folder: pathlib.Path) -> tuple[str, Any]:
  """Writes a folder and a list of it: a csv, split files, or none."""
  clips = folder / "clips"
  clips.mkdir()
  film = encoded(rng, folder / "film.mp4", "libx264", "yuv420p")
  names = fill(rng, clips, film)
  kind = pick(
    rng, ("folder", "csv", "csv", "csv", "ucf101", "natops", "cater", "words")
  )
  data = {
    "num_frames": int(pick(rng, (1, 1, 2, 2, 4, 4, 4, 10**11))),
    "path": str(clips),
  }
  data |= {"name": "video_folder", "resolution": 16}
  if kind == "csv":
    data |= make_csv(rng, folder, names)
  elif kind == "ucf101":
    lists = folder / "lists"
    lists.mkdir()
    data |= {"name": "ucf101", "splits_path": str(lists), "split_number": 1}
    lines = [f"{i + 1} {x}" for i, x in enumerate(("A", "sub", "deep"))]
    write_text(rng, lists / "classInd.txt", "\n".join(lines))
    for part in ("train", "test"):
      text = "\n".join(f"{pick(rng, ('A', 'sub', 'deep'))}/{x} 1" for x in names)
      write_text(rng, lists / f"{part}list01.txt", text)
  elif kind == "natops":
    data |= {"name": "natops"}
    line = pick(rng, ("1:2,3", f"1:{'9' * 5000},3", "1:3,2", "a", "1,1,1"))
    text = "\n".join(["// Subject 1", *["1,1,1", line] * 24] * 20)
    write_text(rng, clips / "segmentation.txt", text)
  elif kind == "cater":
    data |= {"name": "cater_gen", "captions": "explicit"}
    deep = "[" * 100_000
    entries = [f'"{i}": {{"video": "a.mp4", "caption": "a"}}' for i in range(3)]
    text = pick(rng, (deep, "{" + ",".join(entries) + "}", "{}", '{"0": 5}', "[1]"))
    for part in ("train", "test"):
      write_text(rng, clips / f"{part}_explicit.json", text)
  elif kind == "words":
    write_text(rng, folder / "words.txt", "\n".join(("the", "a", "b" * 5000, "$")))
  return f"{kind}: {names[:3]!a}", (kind, folder, data)


def write_text(rng: np.random.Generator, path: pathlib.Path, text: str) -> None:
  """Writes a text as it is, or damaged, or a pipe or a folder in its place."""
  data = text.encode("utf-8", "surrogateescape")
  how = rng.random()
  if how < 0.05:
    os.mkfifo(path)
  elif how < 0.1:
    path.mkdir()
  elif how < 0.3:
    path.write_bytes(damaged(rng, data)[1])
  else:
    path.write_bytes(data)


def make_csv(
  rng: np.random.Generator, folder: pathlib.Path, names: list[str]
) -> dict[str, Any]:
  """Writes a csv; returns the configuration that reads it."""
  label = pick(
    rng,
    (
      lambda i: f"{i % 3}.0", lambda i: f"{i % 3}.0", lambda i: "a", lambda i: f"-{i}",
      lambda i: "9" * 5000,
      lambda i: pick(rng, ("nan", "1e999", "", "x\ny", "1_0", "\u0663", "0x1", "-0.0")),
      lambda i: pick(rng, names or ["a"]),
    ),
  )  # fmt: skip
  rows = [[name, label(i), "a text", pick(rng, ("train", "val"))]
          for i, name in enumerate(names * 2)]  # fmt: skip
  for row in rows:
    change: Callable[[str], str] = pick(
      rng,
      (
        *(8 * (str,)), lambda x: unicodedata.normalize("NFD", x),
        lambda x: unicodedata.normalize("NFC", x), lambda x: x.replace("/", "\\"),
        lambda x: os.path.splitext(x)[0], lambda x: "../" + x, str.upper,
        lambda x: "/" + x, lambda x: x + "\0", lambda x: "http://127.0.0.1:9/" + x,
      ),
    )  # fmt: skip
    row[0] = change(row[0])
  stream = io.StringIO()
  csv.writer(stream).writerows([["path", "label", "caption", "split"], *rows])
  write_text(rng, folder / "a.csv", stream.getvalue())
  data = {"name": "video_csv", "csv": str(folder / "a.csv"), "label_column": "label"}
  data |= {"caption_column": pick(rng, ("caption", "label", None))}
  return data | {"split_column": pick(rng, ("split", None))}


def read_listing(argument: tuple[str, pathlib.Path, dict[str, Any]]) -> None:
  """Opens a source, reads of it, and lists the folder as the metrics tool does."""
  kind, folder, data = argument
  if kind == "words":
    vocabulary.read_vocabulary(folder / "words.txt", 8)
    return
  found, passed_over = listing.list_videos((folder / "clips").resolve())
  assert all(line.isprintable() for line in passed_over), passed_over
  assert all(isinstance(name, str) for name, _ in found)
  refused = None
  try:
    clip_set.open_clips(folder / "clips", num_frames=1)
  except ValueError as error:
    refused = error
  for split in ("train", "eval"):
    source = sources.make_source(data, split)
    assert all(line.isprintable() for line in source.skipped), source.skipped
    "\n".join(source.skipped).encode()
    for index in range(min(len(source), 3)):
      source.read(index, 0, data["num_frames"], 1)
      source.annotation(index)
  if refused:
    raise refused


def main(argv: list[str]) -> None:
  """Runs all three kinds; the exit status says whether there were bugs."""
  del argv
  bugs = 0
  for name, make, call, count in (
    ("videos", make_video, read_video, _VIDEOS.value),
    ("pictures", make_picture, read_picture, _PICTURES.value),
    ("listings", make_listing, read_listing, _LISTINGS.value),
  ):
    count = round(count * _COUNT.value)
    bugs += runner.fuzz(name, make, call, count=count, seed=_SEED.value)
  print(f"{bugs} bugs")
  raise SystemExit(bool(bugs))


if __name__ == "__main__":
  app.run(main)
