"""The training state: everything a run needs to resume."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lamd_jax.types import Params


@flax.struct.dataclass
class TrainState:
  """Training state of one network: arrays only.

  The same tree structure serves for checkpoints and shardings. Networks, the optimizer
  and the configuration belong to the program. There are no random keys either: each
  step derives its own from the run's key and `step`.

  Attributes:
    step: Number of updates made, an int32 scalar.
    params: Trained parameters, float32.
    ema_params: Moving average of `params`, for sampling and evaluation.
    opt_state: State of the optimizer.
  """

  step: Any  # Leaves may also be shapes and shardings, so arrays are not annotated.
  params: Any
  ema_params: Any
  opt_state: Any


def init_state(params: Params, tx: optax.GradientTransformation) -> TrainState:
  """Returns the state before the first update."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # A copy, because a donated buffer must appear only once.
    ema_params=jax.tree.map(jnp.copy, params),
    opt_state=tx.init(params),
  )


@flax.struct.dataclass
class AdversarialState(TrainState):
  """Training state of a network and its discriminator.

  Attributes:
    critic_params: Parameters of the discriminator, float32.
    critic_opt_state: State of the discriminator's optimizer.
  """

  critic_params: Any
  critic_opt_state: Any


def init_adversarial_state(
  params: Params, critic_params: Params, tx: optax.GradientTransformation
) -> AdversarialState:
  """Returns the state before the first update, with one optimizer for both networks."""
  state = init_state(params, tx)
  return AdversarialState(
    **vars(state), critic_params=critic_params, critic_opt_state=tx.init(critic_params)
  )
