"""The state of training: all that a run needs to go on from where it was."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lamd_jax.types import Params


@flax.struct.dataclass
class TrainState:
  """Arrays only: the same tree is the checkpoint and the tree of shardings.

  Networks, the optimizer and the configuration belong to the program, not to the
  state. Nor are there random keys: each step derives its own from the run's key
  and `step`.

  Attributes:
    step: Updates made so far, an int32 scalar.
    params: What is trained, float32.
    ema_params: Moving average of `params`, for sampling and evaluation.
    opt_state: The optimizer's.
  """

  step: Any  # Not annotated as arrays: leaves are also shapes and shardings.
  params: Any
  ema_params: Any
  opt_state: Any


def init_state(params: Params, tx: optax.GradientTransformation) -> TrainState:
  """Returns the state before the first update."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # A copy, because a donated buffer may appear only once.
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=tx.init(params),
  )


@flax.struct.dataclass
class AdversarialState(TrainState):
  """The state of training against a discriminator.

  Attributes:
    critic_params: Of the discriminator, float32.
    critic_opt_state: Of its optimizer.
  """

  critic_params: Any
  critic_opt_state: Any


def init_adversarial_state(
  params: Params, critic_params: Params, tx: optax.GradientTransformation
) -> AdversarialState:
  """Returns the state before the first update; one optimizer, used twice."""
  state = init_state(params, tx)
  return AdversarialState(
    **vars(state), critic_params=critic_params, critic_opt_state=tx.init(critic_params)
  )
