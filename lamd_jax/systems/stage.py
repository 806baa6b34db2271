"""What a job knows of a system: its stages, each of which is trained once.

A stage is a `flax.struct.dataclass`: networks and numbers are static fields, the
frozen parameters of earlier stages are leaves. So a stage is an argument of the
compiled step, and what it holds is not baked into the program as constants.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

from lamd_jax.nn import probe
from lamd_jax.systems.lamd import dmg as dmg_lib
from lamd_jax.systems.lamd import mcd_vae as lamd_autoencoder
from lamd_jax.systems.vdm import base as base_lib
from lamd_jax.types import Batch, Config, Metrics, Params, PRNGKey, UserError


@runtime_checkable
class Stage(Protocol):
  """One training of one paper. All methods are pure."""

  @property
  def given_frames(self) -> int:
    """How many first frames of a batch `sample` looks at; an autoencoder at all."""
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
    self, params: Params, batch: Batch, key: PRNGKey
  ) -> Float[Array, "b f h w 3"]:
    """Returns videos in about [-1, 1]: reconstructed or generated."""
    ...

  def protocol(self) -> dict[str, Any]:
    """Returns how it samples, for the card of a score: given frames, sampler, steps."""
    ...


@runtime_checkable
class WindowStage(Stage, Protocol):
  """A stage that samples any frames of a window, given any others."""

  @property
  def overlap(self) -> int:
    """How many frames neighbouring windows of a longer video share."""
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
  ) -> Float[Array, "b f h w 3"]:
    """Returns videos in which known frames are kept; see `windows.Window`."""
    ...


@runtime_checkable
class AdversarialStage(Stage, Protocol):
  """A stage that is trained against a discriminator, which it trains too.

  Its gradients are not those of one scalar, so it gives them itself; `loss` is what it
  would minimize alone.
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
    """Returns loss, metrics, gradients, and what the discriminator is to judge."""
    ...

  def critic_loss(
    self, critic_params: Params, batch: Batch, decoded: Float[Array, "b f h w 3"]
  ) -> tuple[Float[Array, ""], Metrics]:
    """Returns the discriminator's loss, and scalars worth logging."""
    ...


@runtime_checkable
class PrecomputingStage(Stage, Protocol):
  """A stage of which part is frozen, and can look at clips once and for all."""

  def precompute(self, batch: Batch) -> Batch:
    """Returns what `loss` needs of the videos of a batch, and takes in their place.

    Rows of examples, by names; `video` among them, cut to what is still looked at.
    """
    ...


MakeStage = Callable[[Config, Mapping[str, Params]], Stage]

# System -> stage -> (config, parameters of earlier stages) -> stage. The last stage
# of a system generates; one called by an autoencoder's name before it reconstructs.
SYSTEMS: dict[str, dict[str, MakeStage]] = {
  "lamd": {"mcd_vae": lamd_autoencoder.make_mcd_vae, "dmg": dmg_lib.make_dmg},
  "vdm": {"base": base_lib.make_base},
}
AUTOENCODERS = ("mcd_vae",)


def make_stage(config: Config, name: str, earlier: Mapping[str, Params]) -> Stage:
  """Builds one stage of the system that a configuration names.

  Args:
    config: The whole configuration.
    name: One of `config.stages`.
    earlier: Parameters of the stages before it, by name; and as `perceptual` those of
      the network that `<stage>.loss.perceptual` names, to train with it.

  Raises:
    UserError: A name is unknown, or a value impossible.
  """
  if config.system not in SYSTEMS:
    raise UserError(
      f"config.system is {config.system!r}; known: {', '.join(sorted(SYSTEMS))}"
    )
  stages = SYSTEMS[config.system]
  if name not in stages:
    raise UserError(
      f"config.stages has {name!r}; {config.system} has {', '.join(stages)}"
    )
  return stages[name](config, earlier)


def make_probe() -> Callable[[Stage, Params, Batch, PRNGKey], str]:
  """Returns what names the first module that a loss becomes not finite in; or ""."""
  return probe.make_probe(
    lambda stage, params, batch, key: stage.loss(params, batch, key, train=True)
  )
