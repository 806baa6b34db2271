"""A stage: one training of one paper, as the training loop and the samplers see it.

A stage is a `flax.struct.dataclass`: networks and numbers are static fields, the
frozen parameters of the stages it needs are leaves. So a stage is an argument of the
compiled step, and its frozen parameters are not baked into the program as constants.
"""

from collections.abc import Callable, Mapping
import types
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

from lamd_jax.nn import probe
from lamd_jax.types import Batch, Metrics, Params, PRNGKey

# Called on the host with the number of each denoising step, from 1 on.
OnStep = Callable[[Any], None]


class Part(NamedTuple):
  """A trained stage as another one holds it, frozen.

  Attributes:
    params: Averaged parameters: arrays, or their shapes where nothing is computed.
    statistics: Numbers measured after its training, such as the scale of its latents.
  """

  params: Params
  statistics: Mapping[str, Any] = types.MappingProxyType({})


@runtime_checkable
class Stage(Protocol):
  """One training of one paper. All methods are pure."""

  @property
  def given_frames(self) -> int:
    """Number of leading frames that `sample` looks at; all, for an autoencoder."""
    ...

  def init(self, key: PRNGKey, batch: Batch) -> Params:
    """Returns fresh parameters, for a batch of the shapes to come."""
    ...

  def loss(
    self, params: Params, batch: Batch, key: PRNGKey, *, train: bool
  ) -> tuple[Float[Array, ""], Metrics]:
    """Returns the loss, a mean over the batch, and scalars worth logging."""
    ...

  def sample(
    self, params: Params, batch: Batch, key: PRNGKey, on_step: OnStep | None = None
  ) -> Float[Array, "b f h w 3"]:
    """Returns videos in about [-1, 1]: reconstructed or generated."""
    ...

  def protocol(self) -> dict[str, Any]:
    """Returns how the stage samples, for the card of a score."""
    ...


@runtime_checkable
class WindowStage(Stage, Protocol):
  """A stage that samples any frames of a window given any others."""

  @property
  def overlap(self) -> int:
    """Number of frames that neighbouring windows of a longer video share."""
    ...

  def sample_window(
    self,
    params: Params,
    conditions: Batch,
    key: PRNGKey,
    video: Float[Array, "b f h w 3"],
    is_known: Bool[Array, " f"] | None = None,
    low: Float[Array, "b f h2 w2 3"] | None = None,
    has_low: Bool[Array, " f"] | None = None,
    on_step: OnStep | None = None,
  ) -> Float[Array, "b f h w 3"]:
    """Returns videos in which known frames are kept; see `windows.Window`."""
    ...


@runtime_checkable
class AdversarialStage(Stage, Protocol):
  """A stage trained against a discriminator, which it trains alongside.

  Its gradients are not those of one scalar, so it computes them itself; `loss` is what
  it would minimize alone.
  """

  @property
  def critic_start(self) -> int:
    """The first step, from 0, that trains the discriminator."""
    ...

  def init_critic(self, key: PRNGKey, batch: Batch) -> Params:
    """Returns fresh parameters of the discriminator."""
    ...

  def gradients(
    self,
    params: Params,
    critic_params: Params,
    batch: Batch,
    key: PRNGKey,
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], Metrics, Params, Float[Array, "b f h w 3"]]:
    """Returns loss, metrics, gradients, and the video for the discriminator."""
    ...

  def critic_loss(
    self, critic_params: Params, batch: Batch, decoded: Float[Array, "b f h w 3"]
  ) -> tuple[Float[Array, ""], Metrics]:
    """Returns the discriminator's loss, and scalars worth logging."""
    ...


@runtime_checkable
class PrecomputingStage(Stage, Protocol):
  """A stage whose frozen part can encode each clip once and for all."""

  def precompute(self, batch: Batch) -> Batch:
    """Returns arrays that `loss` accepts in place of the videos of a batch.

    One row for each example; `video` is among them, cut to the frames still needed.
    """
    ...


@runtime_checkable
class MeasuredStage(Stage, Protocol):
  """A stage whose latents are measured once, after the last update.

  Stages that need it find the result in `Part.statistics`; see `first_stage`.
  """

  def measure(
    self, params: Params, batch: Batch, key: PRNGKey
  ) -> Float[Array, "b *s c"]:
    """Returns the latents of a batch, before any normalization."""
    ...


def make_probe() -> Callable[[Stage, Params, Batch, PRNGKey], str]:
  """Returns a function that names the first module where a loss becomes non-finite.

  It returns "" if the loss is finite.
  """
  return probe.make_probe(
    lambda stage, params, batch, key: stage.loss(params, batch, key, train=True)
  )
