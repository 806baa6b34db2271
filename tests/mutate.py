"""Plants known mistakes one at a time and asks whether the tests notice.

    python tests/mutate.py              all mistakes (`make mutate`)
    python tests/mutate.py metrics nn   those in files with such a word in their path

Each mistake replaces one piece of text in one file, in a temporary copy of the
repository, and runs the tests of that file alone. They must pass first: on a red
baseline every mistake would look caught. Most mistakes are ones that public video
diffusion code has shipped; add one here whenever a bug slips through the tests.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
TIMEOUT = 900  # Seconds; a mistake that never ends is noticed too.


class Mistake(NamedTuple):
  """One replacement; `tests` is the file that should notice."""

  name: str
  file: str
  old: str
  new: str
  tests: str


def _mistakes(
  file: str, *mistakes: tuple[str, str, str], tests: str = ""
) -> list[Mistake]:
  """Mistakes in one file of the package; by default its mirror should notice."""
  tests = tests or f"tests/{file.removesuffix('.py')}_test.py"
  return [Mistake(name, f"lamd_jax/{file}", *x, tests) for name, *x in mistakes]


MISTAKES = [
  *_mistakes(
    "diffusion/schedules.py",
    ("log-SNR halved", "return jnp.where(t >= 1.0, self.logsnr_min, logsnr)",
     "return jnp.where(t >= 1.0, self.logsnr_min, 0.5 * logsnr)"),
    ("betas in place of alphas", "np.log1p(-np.array(self.betas, np.float64))",
     "np.log(np.array(self.betas, np.float64))"),
    ("betas linear where their root is", "np.square(roots)", "roots"),
    ("the grid from data to noise", "[[*steps[::-1], 0]]", "[[0, *steps]]"),
    ("the first trained level left out", "steps = 1 + np.arange", "steps = np.arange"),
    ("the last level never trained", "shape, 0, len(self.betas))",
     "shape, 0, len(self.betas) - 1)"),
  ),
  *_mistakes(
    "diffusion/process.py",
    ("v with the wrong sign", "x, eps = alpha * x_t - sigma * output, sigma",
     "x, eps = alpha * x_t + sigma * output, sigma"),
    ("sigma squared in the noise", "return alpha * x + sigma * eps, target",
     "return alpha * x + sigma * sigma * eps, target"),
    ("alpha without its root", "jnp.sqrt(jax.nn.sigmoid(logsnr))",
     "jax.nn.sigmoid(logsnr)"),
    ("eps divided by alpha", "(x_t - alpha * output) / sigma",
     "(x_t - alpha * output) / alpha"),
  ),
  *_mistakes(
    "diffusion/losses.py",
    ("one key for times and noise", "time_key, noise_key = jax.random.split(key)",
     "time_key = noise_key = key"),
    ("the same time for all examples", "schedule.draw_times(time_key, levels)",
     "jnp.broadcast_to(schedule.draw_times(time_key, (1,) * len(levels)), levels)"),
    ("the loss always on eps", "getattr(target, parameterization)", "target.eps"),
    ("a sum in place of a mean", ".mean(axis=-1)  # b", ".sum(axis=-1)  # b"),
    ("the weight of eps for v", "jnp.logaddexp(logsnr, 0.0)", "logsnr"),
    ("the larger of SNR and 5", "jnp.minimum(logsnr, jnp.log(",
     "jnp.maximum(logsnr, jnp.log("),
    ("weights left out", "losses *= loss_weight", "loss_weight"),
    ("the ends exchanged", "_weighted_mean(losses, 1.0 - t)",
     "_weighted_mean(losses, t)"),
  ),
  *_mistakes(
    "diffusion/samplers.py",
    ("the old noise level kept", "+ sigma_s * prediction.eps",
     "+ process.alpha_sigma(logsnr_t, x_t.ndim)[1] * prediction.eps"),
    ("the last step left out",
     "return jnp.arange(grid.shape[0] - 1), grid[:-1], grid[1:]",
     "return jnp.arange(grid.shape[0] - 2), grid[:-2], grid[1:-1]"),
    ("one key for all steps", "jax.random.fold_in(key, i)", "key"),
    ("eta without its square", "jnp.square(eta) * lost", "eta * lost"),
    ("the larger variance", "jnp.power(sigma_s, 1.0 - gamma)",
     "jnp.power(sigma_t, 1.0 - gamma)"),
    ("Heun's second slope alone", "slope * 0.5 * (second.eps - first.eps)",
     "slope * (second.eps - first.eps)"),
    ("an extrapolation too far", "0.5 * h / h_last)", "h / h_last)"),
    ("the last prediction forgotten", "return x_s, _Last(x, logsnr_t)",
     "return x_s, last"),
    ("a corrector without its half", "drift = -0.5 * delta", "drift = -delta"),
    ("noise of the corrector in variance", "jnp.sqrt(delta) * noise", "delta * noise"),
  ),
  *_mistakes(
    "diffusion/guidance.py",
    ("the wrong way round", "c + by * (c - u)", "c - by * (c - u)"),
    ("the scale of w", "jnp.asarray(scale(logsnr) if callable(scale) else scale) - 1.0",
     "jnp.asarray(scale(logsnr) if callable(scale) else scale)"),
    ("no alpha", "shift = alpha * pull_back", "shift = pull_back"),
    ("a gradient of the mean", "value - seen).astype", "value - seen).mean().astype"),
    ("the wrong direction", "(value - seen)", "(seen - value)"),
    ("eps left behind", "eps=prediction.eps - (alpha / sigma) * shift",
     "eps=prediction.eps"),
    ("v left behind", "v=prediction.v - shift / sigma", "v=prediction.v"),
    ("the unknown replaced", "jnp.where(known.mask, a, b), there, before",
     "jnp.where(known.mask, b, a), there, before"),
    ("one noise for all levels", "jax.random.fold_in(key, level)", "key"),
    ("an interval open", "(logsnr_min <= logsnr) & (logsnr <= logsnr_max)",
     "logsnr <= logsnr_max"),
  ),
  *_mistakes(
    "training/step.py",
    ("one key for all updates", "jax.random.fold_in(root_key, state.step)",
     "jax.random.fold_in(root_key, 0)"),
    ("a stale average", "incremental_update(params, state.ema_params",
     "incremental_update(state.params, state.ema_params"),
    ("an inverted average", "state.ema_params, 1.0 - decay)",
     "state.ema_params, decay)"),
    ("no warm-up of the average", "return jnp.minimum(ema_decay, ",
     "return jnp.maximum(ema_decay, "),
    ("steps not counted", "step=state.step + 1", "step=state.step"),
    ("the norm of the update", "optax.tree.norm(grads)", "optax.tree.norm(updates)"),
    ("divergence passed over", "if not math.isfinite(scalars[name])",
     "if math.isnan(scalars[name])"),
  ),
  *_mistakes(
    "training/optimizer.py",
    ("a first update of nothing", "(count + 1.0) / max(warmup_steps, 1)",
     "count / max(warmup_steps, 1)"),
    ("every value clipped, not the norm", "optax.clip_by_global_norm(clip_norm)",
     "optax.clip(clip_norm)"),
    ("decay of biases", 'x.ndim >= 2 and name not in ("bias", "scale")', "True"),
    ("a cosine that rises", "0.5 * (1.0 - jnp.cos(math.pi * progress))",
     "0.5 * (1.0 + jnp.cos(math.pi * progress))"),
  ),
  *_mistakes(
    "training/sharding.py",
    ("batches split over one axis only", "PartitionSpec(AXES))",
     "PartitionSpec(AXES[0]))"),
    ("the smallest axis split", "max(axes, key=", "min(axes, key="),
    ("an uneven batch let through", "and batch_size % mesh.size == 0", ""),
  ),
  *_mistakes(
    "training/state.py",
    ("an average that starts at zero", "jax.tree.map(jnp.copy, params)",
     "jax.tree.map(jnp.zeros_like, params)"),
    tests="tests/training/step_test.py",
  ),
  *_mistakes(
    "metrics/image.py",
    ("differences that wrap around", "a[index].astype(np.int64) - b[index]",
     "a[index] - b[index]"),
    ("the range of floats", "10.0 * np.log10(255.0**2 /", "10.0 * np.log10(1.0**2 /"),
    ("amplitude in place of power", "return 10.0 * np.log10", "return 20.0 * np.log10"),
    ("the PSNR of the pooled error", "float(np.mean(frame_psnr(a, b)))",
     "float(10 * np.log10(255.0**2 / max(np.mean(mean_squared_error(a, b)), 1e-9)))"),
    ("no cap", "np.maximum(error, floor)", "np.maximum(error, 1e-30)"),
    ("a wider window", "np.arange(-5, 6) / 1.5", "np.arange(-5, 6) / 1.6"),
    ("weights that do not sum to one", "_SSIM_TAPS /= _SSIM_TAPS.sum()", "pass"),
    ("SSIM's constants for pixels up to 1", "(0.01 * 255) ** 2", "0.01 ** 2"),
    ("covariance of the pixels, not from the means", "_window_mean(a * b) - product",
     "_window_mean(a * b)"),
    ("the last windows left out", "range(0, size, _SSIM_ROWS)",
     "range(0, size - _SSIM_ROWS, _SSIM_ROWS)"),
    ("one axis alone", "return _means_along(x.reshape(-1, w, c))",
     "return x.reshape(-1, w, c)"),
  ),
  *_mistakes(
    "metrics/lpips.py",
    ("pixels in [0, 1]", "a / 127.5 - 1.0, b / 127.5 - 1.0", "a / 255.0, b / 255.0"),
    ("the last batch of its own size", "np.arange(start, start + batch_size)",
     "np.arange(start, min(start + batch_size, result.size))"),
    ("filled up with the first", "np.asarray(values)[: result.size - start]",
     "np.asarray(values)[::-1][: result.size - start]"),
    ("whatever precision the hardware likes", 'default_matmul_precision("highest")',
     'default_matmul_precision("default")'),
    ("a bad file without its name", "{path} holds no weights of", "no weights of"),
  ),
  *_mistakes(
    "models/vgg.py",
    ("maps before the activation", "maps.append(x)\n    return maps\n\n\nclass AlexNet",
     "maps.append(x - 0.1)\n    return maps\n\n\nclass AlexNet"),
    ("windows that do not overlap", "nn.max_pool(x, (3, 3), (2, 2))",
     "nn.max_pool(x, (2, 2), (2, 2))"),
    ("padding as SAME", "(4, 4), padding=2", '(4, 4), padding="SAME"'),
    ("height for width", "kernel.transpose(2, 3, 1, 0)",
     "kernel.transpose(3, 2, 1, 0)"),
    ("arrays of any shape", "if arrays[name].shape != shape:", "if False:"),
  ),
  *_mistakes(
    "models/perceptual.py",
    ("colours shifted the other way", "(x - jnp.array(_SHIFT))",
     "(x + jnp.array(_SHIFT))"),
    ("features at their own length", "y = _unit_length(y).reshape", "y = y.reshape"),
    ("the length squared", "jnp.sqrt(jnp.sum(", "(jnp.sum("),
    ("nothing where there are no features", "return y / (length + _EPSILON)",
     "return y / length"),
    ("a sum over space", "total += jnp.mean(", "total += jnp.sum("),
    ("neighbours for pairs", "jnp.stack([a, b], axis=1)", "jnp.concatenate([a, b])"),
  ),
  *_mistakes(
    "metrics/motion.py",
    ("neighbours over the ends of clips", "    if frame:\n", "    if True:\n"),
    ("a mean over one frame too many", "video[..., 1:, :, :, :].size", "video.size"),
    ("the ratio upside down", "return motion_amplitude(video) / reference",
     "return reference / motion_amplitude(video)"),
    ("a sample paired with itself", "itertools.combinations(",
     "itertools.combinations_with_replacement("),
    ("the last frame repeated", "video[..., :1, :, :, :]", "video[..., -1:, :, :, :]"),
    ("every change a flicker", "np.sign(before) * np.sign(after) < 0",
     "change[1:] != 0"),
    ("the larger part taken back", "np.minimum(np.abs(before), np.abs(after))",
     "np.maximum(np.abs(before), np.abs(after))"),
    ("differences of bytes", "clip.astype(np.int16)", "clip"),
    ("a still by its own motion", "STILL * real[:", "STILL * statistics[:"),
  ),
  *_mistakes(
    "metrics/frechet.py",
    ("one root in place of two", "- 2 * cross", "- cross"),
    ("the means left out", "np.square(mean_a - mean_b).sum()", "0.0"),
    ("features not centred", "(features - mean) / np.sqrt", "features / np.sqrt"),
    ("the count for a covariance", "np.sqrt(len(features) - ddof)",
     "np.sqrt(len(features))"),
    ("pairs of a feature with itself", " - _kernel(x, x).sum())", ")"),
    ("a kernel without its scale", "@ y.T / x.shape[1] + 1", "@ y.T + 1"),
    ("the bias of draws in the interval", "draws - np.nanmean(draws)",
     "draws - value"),
    ("one draw for all", "x[rng.integers(len(x), size=len(x))]", "x"),
  ),
  *_mistakes(
    "metrics/features.py",
    ("clips of other pixels taken for kept ones",
     "  digest.update(np.ascontiguousarray(clip).data)\n", ""),
    ("detectors that share a file", "{self.sha256} {self.resize_rule}",
     "{self.sha256}"),
    ("a batch computed only if all is new", "if any(digest not", "if all(digest not"),
    ("another shape for the last batch", "(batch_size - len(batch))", "0"),
  ),
  *_mistakes(
    "metrics/card.py",
    ("the count of real clips in the name", "{measure.name}@{len(judged)}",
     "{measure.name}@{len(judged) + 1}"),
    ("companions measured against themselves", "measure.number(*others, rows)",
     "measure.number(*([rows] if others else []), rows)"),
    ("a number that is none", "if not math.isfinite(value):", "if False:"),
    ("too few clips measured", "if num_clips < measure.min_clips:", "if False:"),
    ("differences of what differs anyway", "key not in _ABOUT_THE_SETS and ", ""),
  ),
  *_mistakes(
    "models/i3d.py",
    ("the norm's small constant left out", "variance + _EPSILON", "variance"),
    ("the mean not scaled", "bias - mean * gain", "bias - mean"),
    ("branches in another order", "jnp.concatenate([y0, y1, y2, y3]",
     "jnp.concatenate([y0, y2, y1, y3]"),
    ("pooling in front of the fourth block without frames",
     '"Mixed_4b": (3, 3, 2)', '"Mixed_4b": (1, 3, 2)'),
    ("an activation left out", "x = nn.relu(Conv(192", "x = (Conv(192"),
    ("arrays in any order", "names = sorted(arrays,",
     "names = list(arrays) or sorted(arrays,"),
    ("another kernel in a layer's place",
     "if kernel.shape[:3] != (int(unit[-1]),) * 3:", "if False:"),
  ),
  *_mistakes(
    "metrics/measures.py",
    ("the last frame for the first", "return rows[:, 0]", "return rows[:, -1]"),
    ("logits for features", "rows[..., :_INCEPTION_FEATURES]", "rows"),
    ("features for logits", "rows[..., _INCEPTION_FEATURES:]", "rows"),
    ("captions in any order", "options.captions[name] for name in names",
     "options.captions[name] for name in sorted(names, reverse=True)"),
    ("real clips over samples", "statistics_ratio(column, rows, real)",
     "statistics_ratio(column, real, rows)"),
  ),
  *_mistakes(
    "score.py",
    ("stills that move", "np.ascontiguousarray(motion.still(clip))", "clip"),
    ("the same real clips as a floor", "real.part(num_real, num_real + wanted)",
     "real.part(0, wanted)"),
    ("stills of the wrong clips", "real if are_pairs else others", "others"),
    ("generated clips for real ones", 'rows(measure, "clips", real), rows(',
     'rows(measure, "clips", generated), rows('),
    ("the first window again and again", "score(measures, real, window,",
     "score(measures, real, generated,"),
    ("too few clips without a word", "measure = measure.instead\n", "pass\n"),
  ),
  *_mistakes(
    "data/clip_set.py",
    ("the stride left out", "numbers = range(self.start, stop, self.frame_stride)",
     "numbers = range(self.start, self.start + self.num_frames)"),
    ("floats cut, not rounded", "np.rint(clip * 255.0)", "(clip * 255.0)"),
    ("windows that overlap", "shortest - span + 1, span)", "shortest - span + 1)"),
    ("a frame too many for the last window",
     " + self.frame_stride - 1\n    starts", "\n    starts"),
    ("groups of another level", "folders[level - 1]", "folders[0]"),
  ),
  *_mistakes(
    "data/ucf101.py",
    ("labels from 1", "labels[words[1]] = len(labels)",
     "labels[words[1]] = len(labels) + 1"),
    ("evaluation on the training list", '"eval": ("test",)', '"eval": ("train",)'),
    ("all without the test list", '("train", "test"), "1"', '("train",), "1"'),
    ("evaluation on what was trained on, unsaid", 'if split == "eval":', "if False:"),
    ("the first videos all of one class", "video_files.mixed(annotated)", "annotated"),
    ("numbers of classes not looked at", "rest in ([], [str(label + 1)])", "True"),
    ("classes of the files' names", "_annotation(pathlib.PurePosixPath(name).parts[0]",
     '_annotation(name.split("_")[1]'),
  ),
  *_mistakes(
    "data/video_csv.py",
    ("9 behind 10", "sorted(labels, key=int) if are_numbers else sorted(labels)",
     "sorted(labels)"),
    ("classes numbered by each split for itself",
     'labels = {row.label for row in parts["train"]}',
     'labels = {row.label for row in parts["eval"]}'),
    ("a clip evaluated once for each caption", 'if split == "eval":  # A clip',
     "if False:  # A clip"),
    ("the last caption in evaluation", "for row in reversed(used)", "for row in used"),
    ("one caption of many in training", "for row in used\n",
     "for row in {r.name: r for r in used}.values()\n"),
    ("Excel's mark in the first column", 'encoding="utf-8-sig"', 'encoding="utf-8"'),
    ("training on what is held out", '{"train": found[TRAIN],', '{"train": rows,'),
    ("the overlap unsaid", "if both := sorted(trained & evaluated):", "if False:"),
    ("empty captions unsaid", "if caption_column and not empty_captions:", "if False:"),
  ),
  *_mistakes(
    "data/video_files.py",
    ("links out of the folder followed", "path.resolve().is_relative_to(root)",
     "True"),
    ("paths out of the folder followed", "found.append((name, OUTSIDE))\n    elif",
     "found.append((name, ()))\n    elif"),
    ("what is missing uncounted", "  if missing:\n", "  if False:\n"),
    ("one wrong label unsaid", "if is_true else", "if True else"),
    tests="tests/data/video_csv_test.py",
  ),
  *_mistakes(
    "data/video_files.py",
    ("the start in place of the end", "video.first + (video.picks[number]",
     "0 + (video.picks[number]"),
    ("videos too short", "if video.num_frames >= span:", "if True:"),
    ("memory without a limit", "if self._room >= frame.nbytes and", "if"),
    tests="tests/data/video_folder_test.py",
  ),
  *_mistakes(
    "data/video_files.py",
    ("sorted by name", "hashlib.sha256(name_fn(v).encode()).digest()",
     "name_fn(v)"),
    ("any video in place of a broken one",
     "annotation_fn=lambda i: _claims(self._videos[i])", "annotation_fn=lambda i: 0"),
    tests="tests/data/ucf101_test.py",
  ),
  *_mistakes(
    "data/fallback.py",
    ("another class in place of a broken video", "annotation_fn(other) != own)",
     "False)"),
    ("others before those alike", "annotation_fn(other) != own)",
     "annotation_fn(other) == own)"),
    ("the earlier videos never tried", "range(1, num_videos))",
     "range(1, num_videos - index))"),
  ),
  *_mistakes(
    "interop/weights.py",
    ("any file taken for the right one", "if found != expected_sha256:", "if False:"),
    ("everything unpickled", "    raise UserError(\n      f\"the pickle asks for",
     "    return super().find_class(module_name, global_name)\n"
     "    raise UserError(\n      f\"the pickle asks for"),
  ),
  *_mistakes(
    "metrics/protocol.py",
    ("frame 0 flatters", "later = np.s_[..., max(given_frames, 1) :, :, :, :]",
     "later = np.s_[..., :, :, :, :]"),
    ("the gain upside down", "reconstruction - baseline", "baseline - reconstruction"),
    ("first frames of real clips with themselves",
     "psnr(real[given][:, None], sampled[given])", "psnr(real[given], real[given])"),
    ("a range without its upper end", "return low <= value <= high",
     "return low <= value"),
    ("infinities written", "if math.isfinite(x)}", "}"),
  ),
  *_mistakes(
    "metrics/resize.py",
    ("first pixels on each other", 'if rule == "half_pixel":', "if False:"),
    ("black beyond the ends", "np.clip(place, 0, given - 1)", "place"),
  ),
  *_mistakes(
    "metrics/inception_score.py",
    ("entropy in place of divergence", "(log_p - log_mean)", "(-log_mean)"),
    ("a deviation of few", "np.std(scores)", "np.std(scores, ddof=1)"),
  ),
  *_mistakes(
    "metrics/clipsim.py",
    ("long features count more", "return x / length", "return x"),
  ),
  *_mistakes(
    "metrics/frame_features.py",
    ("pixels of CLIP in [-1, 1]",
     "(frames / 255.0 - jnp.array(_CLIP_MEAN)) / jnp.array(_CLIP_STD)",
     "frames / 127.5 - 1.0"),
    ("the left of a wide frame", "round((width - size) / 2)", "0"),
    ("a last batch of its own size", "np.concatenate([part, copies])", "part"),
  ),
  *_mistakes(
    "models/inception.py",
    ("a mean with the padding", "count_include_pad=False", "count_include_pad=True"),
    ("a mean in the last block", 'BlockE(_max_pool, name="Mixed_7c")',
     'BlockE(_mean_pool, name="Mixed_7c")'),
    ("PyTorch's own epsilon", "_EPSILON = 1e-3", "_EPSILON = 1e-5"),
  ),
  *_mistakes(
    "models/clip.py",
    ("the exact GELU", "h *= nn.sigmoid(1.702 * h)",
     "h = nn.gelu(h, approximate=False)"),
    ("words that see what follows", "is_causal=True", "is_causal=False"),
    ("features of the padding", "end = jnp.argmax(tokens, axis=-1)",
     "end = jnp.full(len(tokens), tokens.shape[1] - 1)"),
  ),
  *_mistakes(
    "interop/clip_tokenizer.py",
    ("capitals kept", ".split()).lower()", ".split())"),
    ("words split at apostrophes alone", 'Split(tokenizers.Regex(_WORDS), "removed"',
     'Split(tokenizers.Regex("[^\']+"), "removed"'),
  ),
  *_mistakes(
    "models/text_encoder.py",
    ("the approximate GELU", "approximate=False", "approximate=True"),
    ("words that look at padding", "      mask=seen,\n", ""),
    ("norms before in place of after",
     'return _norm(self.epsilon, "mlp_norm")(x + drop(h))',
     'return x + _norm(self.epsilon, "mlp_norm")(drop(h))'),
    ("the type of second texts", 'token_type_embeddings.weight")[0]',
     'token_type_embeddings.weight")[1]'),
    ("kernels not transposed", 'find(f"{name}.weight").T', 'find(f"{name}.weight")'),
    ("heads by a rule of thumb", 'PUBLISHED_HEADS.get(width))', "max(1, width // 64))"),
    ("adapters dropped without a word", "and inside not in _BUFFERS:", "and False:"),
    ("always the same epsilon", 'config.get("layer_norm_eps", 1e-12)', "1e-12"),
  ),
  *_mistakes(
    "interop/bert_tokenizer.py",
    ("cut as the file says", "    tokenizer.no_truncation()\n", ""),
    ("padded as the file says", "    tokenizer.no_padding()\n", ""),
    ("an end that is cut", "[*found[: num_tokens - 1], end]", "found[:num_tokens]"),
    ("cut without a word", "    if cut:\n", "    if False:\n"),
    ("capitals never count", "lowercase=_is_lower_case(path)", "lowercase=True"),
    ("padding in the mask", "mask[i, : len(found)] = True", "mask[i] = True"),
  ),
  *_mistakes(
    "row_cache.py",
    ("a part left behind", "part.unlink(missing_ok=True)", "pass"),
    ("a kept file of another shape", "shape in (None, rows.shape[1:]) and ", ""),
    tests="tests/captions_test.py",
  ),
  *_mistakes(
    "captions.py",
    ("other weights, the same embeddings", ", {digest}\"", "\""),
    ("another length, the same file", "{encoder.identity} {shape} {dtype}",
     "{encoder.identity} {dtype}"),
    ("half the digits of what is kept", "{shape} {dtype}", "{shape}"),
    ("embeddings of the padding", "np.where(part.mask[..., None], found, 0)", "found"),
    ("another shape for the last batch", "np.resize(batch, batch_size)", "batch"),
    ("equal captions again and again",
     "{x: i for i, x in enumerate(digests) if x not in kept.rows}",
     "{i: i for i, x in enumerate(digests) if x not in kept.rows}"),
    ("numbers that the encoder does not know", "tokens.ids.max() >= ",
     "tokens.ids.max() > "),
    ("any file of the package", "digest != MINILM_SHA256", "len(digest) != 64"),
  ),
  *_mistakes(
    "report_page.py",
    ("text as markup", "html.escape(str(text), quote=True)", "str(text)"),
    ("reconstructions shown as real", 'tile(clips.real[n], "real"',
     'tile(clips.reconstructed[n], "real"'),
    ("the same sample again and again", "clips.sampled[n, s]", "clips.sampled[n, 0]"),
    ("never outside its range", "known.is_expected(value)", "True"),
    tests="tests/report_test.py",
  ),
  *_mistakes(
    "report.py",
    ("pickles opened", "allow_pickle=False", "allow_pickle=True"),
    ("an unfinished page in place of a whole one", "os.replace(temporary, path)",
     "path.write_text(''); os.replace(temporary, path)"),
    ("an infinite loss drawn", "if math.isfinite(value)", "if True"),
  ),
  Mistake(
    "arguments split at spaces", "launch/tpu_vm.sh", "printf '%q ' \"$@\"",
    "printf '%s ' \"$@\"", "tests/launch_test.py",
  ),
  *_mistakes(
    "nn/conv.py",
    ("padding on the other side", "pads.append((total // 2, total - total // 2))",
     "pads.append((total - total // 2, total // 2))"),
  ),
  *_mistakes(
    "nn/blocks.py",
    ("a norm over all frames", "reduction_axes=(-3, -2, -1)",
     "reduction_axes=tuple(range(1, x.ndim))"),
    ("dropout when not training", "deterministic=not train", "deterministic=train"),
    ("no SiLU on the embedding", "dense(nn.silu(embedding))", "dense(embedding)"),
    ("a scale around zero", "h * (1 + scale) + shift", "h * scale + shift"),
    ("shift before scale", "scale, shift = jnp.split", "shift, scale = jnp.split"),
    ("the first norm scaled", "if i == 1 and projected", "if i == 0 and projected"),
  ),
  *_mistakes(
    "nn/attention.py",
    ("a condition nobody looks at", "normed if cond is None else cond", "normed"),
    ("masked tokens looked at", "attended, mask=seen)", "attended)"),
    ("attention over all pixels of a clip", "reshape(*frames, h * w, c)",
     "reshape(x.shape[0], -1, c)"),
    ("the past for the future", "jnp.arange(f) - jnp.arange(f)[:, None]",
     "jnp.arange(f)[:, None] - jnp.arange(f)"),
    ("distances without an end", "jnp.clip(distance, -farthest, farthest)", "distance"),
    ("no mask", "jnp.where(mask, logits, jnp", "jnp.where(True, logits, jnp"),
    ("a mask the wrong way round", "jnp.where(mask, logits",
     "jnp.where(mask.T, logits"),
    ("logits not scaled", "query /= jnp.sqrt(width)", "query /= jnp.sqrt(1)"),
    ("keys without distances", 'float32("bipnd,ijd->bpnij", query, relative',
     '0 * float32("bipnd,ijd->bpnij", query, relative'),
    ("values without distances", 'jnp.einsum("bpnij,ijd->bipnd", weights, relative',
     '0 * jnp.einsum("bpnij,ijd->bipnd", weights, relative'),
  ),
  *_mistakes(
    "nn/embeddings.py",
    ("sines before cosines", "[jnp.cos(angles), jnp.sin(angles)]",
     "[jnp.sin(angles), jnp.cos(angles)]"),
    ("data for noise", "jnp.exp(-0.5 * logsnr", "jnp.exp(0.5 * logsnr"),
    ("a log-SNR of amplitudes", "jnp.exp(-0.5 * logsnr", "jnp.exp(-logsnr"),
  ),
  *_mistakes(
    "models/unet.py",
    ("a dead skip connection", "        skips.append(h)\n      if level",
     "        skips.append(h * 0)\n      if level"),
    ("masked tokens looked at", "(h, cond, cond_mask)", "(h, cond)"),
  ),
  *_mistakes(
    "models/unet3d.py",
    ("attention that forgets the mask", "temporal(spatial(h), mask)",
     "temporal(spatial(h))"),
    ("images that see the video", "mask[:num_frames, :num_frames] = True",
     "mask[:, :num_frames] = True"),
    ("a video that sees the images", "mask[:num_frames, :num_frames] = True",
     "mask[:num_frames] = True"),
    ("a dead skip connection", "        skips.append(h)\n      if level",
     "        skips.append(h * 0)\n      if level"),
    ("frames halved", "(1, 2, 2)", "(2, 2, 2)"),
    ("a convolution over frames", "KERNEL = (1, 3, 3)", "KERNEL = (3, 3, 3)"),
    ("no condition", "      h += cond\n", "      h += 0 * cond\n"),
    ("one level for all frames", "h = logsnr_sinusoidal(logsnr, ",
     "h = logsnr_sinusoidal(0 * logsnr + logsnr.mean(-1, keepdims=True), "),
    ("a level missing above", "range(self.num_res_blocks + 1)",
     "range(self.num_res_blocks)"),
    ("videos of any length", "if frames - num_images > self.max_frames:", "if False:"),
    ("no dropout", "self.dropout_rate,\n", "0.0,\n"),
  ),
  *_mistakes(
    "models/conditioning.py",
    ("padding read", "mask=mask[..., None, None, :]", "mask=None"),
    ("an empty caption of something", "~mask.any(axis=-1)",
     "mask.all(axis=-1) & False"),
    ("null that keeps", "jnp.where(is_null, 0.0, cond)",
     "jnp.where(is_null, cond, 0.0)"),
    ("images before the video", "[video, images]", "[images, video]"),
    ("tokens kept that are dropped", "cond.mask & ~is_null", "cond.mask | is_null"),
    ("padding of captions unmasked", "return Tokens(values, mask)",
     "return Tokens(values, mask | True)"),
  ),
  *_mistakes(
    "models/dmg.py",
    ("places without positions", "-1) + positions", "-1) + 0 * positions"),
    ("tokens that nobody masks", "unet(x, timestep, tokens, mask,",
     "unet(x, timestep, tokens, None,"),
    ("content masked with the condition", "always = jnp.ones(tokens.shape[:2], bool)",
     "always = jnp.tile(cond.mask.any(1)[:, None], tokens.shape[1])"),
    ("a condition without the norm", 'name="norm")(tokens)',
     'name="norm")(tokens[:, : h * w])'),
    ("one place of each square", ".mean((2, 4))", "[:, :, 0, :, 0]"),
    ("nothing beside the latent", "dense(content).astype",
     "dense(0 * content).astype"),
  ),
  *_mistakes(
    "models/word_encoder.py",
    ("padding read", "x = block(x, mask, train=train)",
     "x = block(x, mask | True, train=train)"),
    ("the mask the wrong way round", "mask = words != PAD", "mask = words == PAD"),
    ("words without places", 'embed(words) + self.param("pos',
     'embed(words) + 0 * self.param("pos'),
    ("the last norm left out", 'x = nn.LayerNorm(EPSILON, name="norm")(x)',
     'nn.LayerNorm(EPSILON, name="norm")(x)'),
    ("dropout in sampling", "deterministic=not train", "deterministic=False"),
    ("no dropout in the blocks", "x = block(x, mask, train=train)",
     "x = block(x, mask, train=False)"),
  ),
  *_mistakes(
    "models/mcd_vae.py",
    ("variance in place of the deviation", "jnp.exp(0.5 * self.logvar) * noise",
     "jnp.exp(self.logvar) * noise"),
    ("KL of another prior", "jnp.exp(self.logvar) - 1.0 - self.logvar",
     "jnp.exp(self.logvar) - self.logvar"),
    ("Norm for each channel", "std = jnp.std(z, axis=(1, 2, 3), keepdims=True)",
     "std = jnp.std(z, axis=(1, 2), keepdims=True)"),
    ("Norm over the batch", "mean = jnp.mean(z, axis=(1, 2, 3), keepdims=True)",
     "mean = jnp.mean(z, axis=(0, 1, 2, 3), keepdims=True)"),
    ("decoding without Norm", "self.decoder(normalize(z), content)",
     "self.decoder(z, content)"),
    ("new frames without features of their own",
     "interpolate_frames(x, self.num_frames) + own[:, : self.num_frames]",
     "interpolate_frames(x, self.num_frames) + 0 * own[:, : self.num_frames]"),
    ("content of one scale lost", "h += fuse(content.scales[i])[:, None]",
     "h += fuse(content.scales[i] * (i > 0))[:, None]"),
    ("the content of the last frame", "content = self.encode_content(video[:, 0])",
     "content = self.encode_content(video[:, -1])"),
  ),
  *_mistakes(
    "systems/vdm.py",
    ("images left out of the loss", 'num_images = batch["images"].shape[1]\n      x =',
     "num_images = 0\n      _ ="),
    ("the video's condition for its images", 'self._cond(params, batch, "image_")',
     "None"),
    ("conditions never dropped", "bernoulli(key, self.cond_dropout, shape)",
     "bernoulli(key, 0.0, shape)"),
    ("replacement without guidance", 'if how.method == "reconstruction":', "if False:"),
    ("guidance without replacement", "if known is not None:\n      denoise_fn =",
     "if False:\n      denoise_fn ="),
    ("a low resolution of all frames", "if has_low is None:", "if True:"),
    ("guidance of nothing", "classifier_free(with_cond, without, how.guidance)",
     "classifier_free(with_cond, without, 1.0)"),
    ("one frame too many known", "< self.sampling.given_frames",
     "<= self.sampling.given_frames"),
  ),
  *_mistakes(
    "systems/windows.py",
    ("windows that share no frame", "range(0, last, window - overlap)",
     "range(0, last, window)"),
    ("the last window over the end", ", last]", ", last + 1]"),
    ("given frames drawn anew", "np.where(known, part.video, found)", "found"),
    ("what is filled stays unknown", "    whole.is_known[span] = True\n", "    pass\n"),
    ("a window told of what comes later", "whole.is_known[span].copy()",
     "whole.is_known[span]"),
    ("one key for all windows", "jax.random.fold_in(key, number)", "key"),
    ("windows between two given frames", "(max_frames - 1) // factor * factor + 1",
     "max_frames"),
  ),
  *_mistakes(
    "edit.py",
    ("the rate left as it was", 'meta["fps"] * plan.speed', 'meta["fps"]'),
    ("windows that begin with the video", "first = max(clip.shape[1] - overlap, 0)",
     "first = 0"),
    ("frames in front lost", "[repeat(plan.before), frames]", "[frames]"),
    ("more frames than asked for", "frames[:, : plan.num_frames]", "frames"),
    ("a corner of a picture",
     "video_io.resize_crop(video_io.read_image(path)[None], resolution)",
     "video_io.read_image(path)[None, :resolution, :resolution]"),
    ("all frames given to a prediction", "clip[:, :given], window",
     "clip[:, : window - 1], window"),
    ("full resolution for a low one", "data.resolution // factor, 1, 1)",
     "data.resolution, 1, 1)"),
  ),
  *_mistakes(
    "beside.py",
    ("another video's label", "np.asarray(notes[i],", "np.asarray(notes[0],"),
    ("captions in the order of the list", "values[places[i]]", "values[0]"),
    ("labels of another data set", "not 0 <= int(label) < known",
     "not 0 <= int(label) <= known"),
    ("a label of no class", "if not 0 <= label <", "if not 0 <= label <="),
    ("unknown words found in training", 'if kind(config) == "words":\n      _read',
     'if False:\n      _read'),
    ("another vocabulary's words", "if len(found.words) != values.num_words:",
     "if False:"),
  ),
  *_mistakes(
    "systems/mcd_vae.py",
    ("KL per value of the latent", "values_per_clip = video[0].size",
     "values_per_clip = posterior.mean[0].size"),
    ("KL of the whole batch", "values_per_clip = video[0].size",
     "values_per_clip = video.size"),
    ("L2 in place of L1", "jnp.mean(jnp.abs(decoded - video))",
     "jnp.mean(jnp.square(decoded - video))"),
  ),
  *_mistakes(
    "systems/lamd.py",
    ("diffusion without Norm", "return normalize(posterior.sample(key)), content",
     "return posterior.sample(key), content"),
    ("diffusion of the mean", "normalize(posterior.sample(key))",
     "normalize(posterior.mean)"),
    ("gradients into the first stage", "return jax.lax.stop_gradient(encoded)",
     "return encoded"),
    ("content of another frame when training",
     "content = vae.encode_content(video[:, 0])\n      return normalize",
     "content = vae.encode_content(video[:, 1])\n      return normalize"),
    ("content of another frame when sampling",
     'self._content(from_uint8(batch["video"][:, 0]))',
     'self._content(from_uint8(batch["video"][:, -1]))'),
    ("conditions never dropped", "bernoulli(null_key, self.cond_dropout,",
     "bernoulli(null_key, 0.0,"),
    ("one draw for all that is dropped", "self.cond_dropout, z.shape[:1])",
     "self.cond_dropout, (1,))"),
    ("guidance of nothing", "bound(None), self.sampling.guidance)",
     "bound(None), 1.0)"),
    ("words without dropout", '{"train": train,', '{"train": False,'),
    ("given frames decoded", "jnp.where(is_known, video, made",
     "jnp.where(False, video, made"),
    ("the unknown met", "later = is_known & (", "later = ~is_known & ("),
    ("nothing met", "is_any = later.any()", "is_any = later.all()"),
    ("another sampler", "_, make_sampler = SAMPLERS[self.sampling.sampler]",
     '_, make_sampler = SAMPLERS["ddpm"]'),
    ("always the same start", "jax.random.normal(init_key, shape)",
     "jax.random.normal(jax.random.key(0), shape)"),
    ("samples of eps whatever is predicted",
     "process.make_denoise_fn(model_fn, self.parameterization)",
     'process.make_denoise_fn(model_fn, "eps")'),
  ),
  *_mistakes(
    "systems/pixels.py",
    ("rounded down", "jnp.round((jnp.clip", "jnp.floor((jnp.clip"),
    ("white is almost 1", "/ 127.5 - 1.0", "/ 128.0 - 1.0"),
  ),
  *_mistakes(
    "workdir.py",
    ("every configuration welcome", "  if differing:\n", "  if False:\n"),
    ("a folder bound to its sampling", 'FREE_BLOCKS = ("sample", "evaluate")',
     "FREE_BLOCKS = ()"),
    ("written over", "os.replace(part, path)", 'path.write_text(text, "utf-8")'),
  ),
  *_mistakes(
    "train.py",
    ("saved before the step", "save(number, state)", "save(number - 1, state)"),
    ("a signal while a step is logged", "is_stop = bool(stop)", "is_stop = stop"),
    ("a signal lost at the last step", "  if stop:\n    raise Stopped",
     "  if is_stop and not is_last:\n    raise Stopped"),
    ("data from the beginning after a resume", "start_step=first,\n    )",
     "start_step=0,\n    )"),
    ("other random numbers after a resume", "jax.random.key(config.seed), _stage",
     "jax.random.key(time.time_ns() % 2**31), _stage"),
    ("a broken last checkpoint is enough", 'if meta["step"] < steps:', "if False:"),
    ("not a number saved", "step.check_finite(number, scalars)", "pass"),
    tests="tests/jobs_test.py",
  ),
  *_mistakes(
    "main.py",
    ("the folder claimed before the data is seen", "      train.rehearse(config)",
     "      pass"),
    ("a stop without its status", "return stopped.exit_status", "return 0"),
    ("mistakes with status 1", "  return 2\n", "  return 1\n"),
  ),
]  # fmt: skip


def run_tests(folder: pathlib.Path, tests: str) -> bool:
  """Whether a test file of a copy passes; stops at its first failure."""
  command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", tests]
  try:
    result = subprocess.run(
      command,
      cwd=folder,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      timeout=TIMEOUT,
      env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
  except subprocess.TimeoutExpired:
    return False
  return result.returncode == 0


def check(mistakes: list[Mistake], folder: pathlib.Path) -> None:
  """Leaves with a message unless everything is there and the tests pass."""
  for mistake in mistakes:
    path = folder / mistake.file
    if not path.is_file() or path.read_text().count(mistake.old) != 1:
      sys.exit(f"{mistake.name}: {mistake.old!r} is not once in {mistake.file}")
    if not (folder / mistake.tests).is_file():
      sys.exit(f"{mistake.name}: there is no {mistake.tests}")
  for tests in dict.fromkeys(mistake.tests for mistake in mistakes):
    if not run_tests(folder, tests):
      sys.exit(f"{tests} fails before any mistake: nothing can be learned")


def main(words: list[str]) -> int:
  """Returns 1 if a mistake was missed, 0 if all were caught."""
  mistakes = [m for m in MISTAKES if not words or any(w in m.file for w in words)]
  if not mistakes:
    sys.exit(f"no mistake in a file with {' or '.join(words)} in its path")
  missed, start = 0, time.monotonic()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary) / "copy"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs")
    shutil.copytree(ROOT, folder, ignore=ignored)
    check(mistakes, folder)
    for mistake in mistakes:
      path = folder / mistake.file
      text = path.read_text()
      path.write_text(text.replace(mistake.old, mistake.new))
      passed = run_tests(folder, mistake.tests)
      path.write_text(text)
      missed += passed
      verdict = "MISSED" if passed else "caught"
      print(f"{verdict}  {mistake.file}: {mistake.name}", flush=True)
  seconds = time.monotonic() - start
  print(f"{len(mistakes) - missed} of {len(mistakes)} caught in {seconds:.0f} s")
  return int(missed > 0)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
