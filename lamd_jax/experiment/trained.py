"""Trained stages out of a work folder, and the frozen parts that a stage needs."""

from collections.abc import Mapping
import contextlib
import pathlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp

from lamd_jax.experiment import batches, statistics
from lamd_jax.experiment.run import Run
from lamd_jax.experiment.workdir import CHECKPOINTS, CONFIG
from lamd_jax.files import reading
from lamd_jax.metrics import features, lpips
from lamd_jax.systems import autoencoder
from lamd_jax.systems.blocks import Drawing
from lamd_jax.systems.pipeline import Devices, Pipeline, Stages, Trained
from lamd_jax.systems.stage import Part, Stage
from lamd_jax.training import checkpoint, sharding
from lamd_jax.types import Params, UserError


def load_parts(
  run: Run, stage: str, *, for_training: bool = False, abstract: bool = False
) -> dict[str, Part]:
  """Returns the trained stages that a stage needs.

  Args:
    run: The experiment.
    stage: The stage that is about to be made.
    for_training: Whether to add `perceptual`, the frozen network of its loss.
    abstract: Whether shapes are enough: nothing is then read.

  Raises:
    UserError: A stage is not trained yet, or weights are missing.
  """
  stages = TrainedStages(run)
  parts = {
    need: Part(abstract_params(run, need)) if abstract else stages[need].part
    for need in run.system.stages[stage].needs
  }
  if for_training:
    network = _abstract_perceptual if abstract else load_perceptual
    parts |= {name: Part(params) for name, params in network(run, stage).items()}
  return parts


def make_stage(
  run: Run,
  stage: str,
  *,
  for_training: bool = False,
  abstract: bool = False,
  parts: Mapping[str, Part] | None = None,
) -> Stage:
  """Builds a stage around the parts it needs; by default those of `load_parts`."""
  if parts is None:
    parts = load_parts(run, stage, for_training=for_training, abstract=abstract)
  return run.system.stages[stage].make(run.config, parts)


def load(run: Run, stage: str) -> Trained:
  """Restores a stage and the stages it needs; see `TrainedStages`."""
  return TrainedStages(run)[stage]


def around(
  run: Run,
  stage: str,
  others: Stages,
  params: Params,
  meta: Mapping[str, Any],
  measured: Mapping[str, Any] | None = None,
) -> Trained:
  """Builds a trained stage from its parameters and the trained stages it needs.

  Args:
    run: The experiment.
    stage: Name of the stage.
    others: The stages it needs.
    params: Its parameters, on the devices.
    meta: The meta of its checkpoint.
    measured: Numbers measured after its training; none by default.
  """
  spec = run.system.stages[stage]
  parts = {need: others[need].part for need in spec.needs}
  return Trained(spec.make(run.config, parts), params, measured or {}, meta)


def abstract_params(run: Run, stage: str) -> Params:
  """Returns the shapes of a stage's parameters; reads nothing."""
  # The stage is an argument, because its leaves are shapes here.
  init = lambda stage, key, batch: stage.init(key, batch)
  key = jax.eval_shape(jax.random.key, 0)
  batch = batches.abstract_batch(run, stage)
  return jax.eval_shape(init, make_stage(run, stage, abstract=True), key, batch)


def is_trained(run: Run, stage: str) -> bool:
  """Whether a stage has its last checkpoint and was measured; reads no arrays."""
  folder = run.stage_folder(stage) / CHECKPOINTS
  is_last = (checkpoint.latest_step(folder) or 0) >= run.config[stage].train.steps
  return is_last and statistics.is_there(run, stage)


def digests(run: Run, stages: Stages | Mapping[str, Part]) -> dict[str, str]:
  """Returns a digest of the parameters of each stage, for what is made with them.

  Args:
    run: The experiment.
    stages: Its trained stages; one that is not there is left out.
  """
  found = {}
  for name in run.stages:
    with contextlib.suppress(KeyError, UserError):
      found[name] = statistics.digest(stages[name].params)
  return found


def check_needs(stage: str, meta: Mapping[str, Any], now: Mapping[str, str]) -> None:
  """Warns if a stage was trained with other parameters of those it needs.

  Args:
    stage: Name of the stage.
    meta: The meta of its checkpoint; "needs" has digests of what it was trained with.
    now: Digests of the stages it needs, as they are.
  """
  for need, digest in now.items():
    if meta.get("needs", {}).get(need, digest) != digest:
      logging.warning(
        "stage %s was trained with other parameters of %s than those there now: train"
        " it for more steps, or again in another work folder",
        *(stage, need),
      )


def is_readable(run: Run, stage: str) -> bool:
  """Whether the last checkpoint of a trained stage can be read, by reading it."""
  _, meta = _restore(run, stage, None)
  return meta["step"] >= run.config[stage].train.steps


def best_of(run: Run, stage: str) -> str | None:
  """Returns the scalar that chooses a stage's checkpoint; None for the newest.

  `config.sample.checkpoint` chooses for the last stage. Stages before it were part of
  its training with their newest checkpoints.
  """
  which = run.config.sample.get("checkpoint", Drawing.checkpoint)
  if which == "latest" or stage != run.stages[-1]:
    return None
  if not run.config.run.keep_best:
    raise UserError(
      "config.sample.checkpoint='best' needs config.run.keep_best, the scalar that it"
      " is best by: such as --config.run.keep_best=-loss while training and sampling"
    )
  return run.config.run.keep_best


def read_meta(run: Run, stage: str) -> tuple[int, dict[str, Any]]:
  """Returns the step of the checkpoint that a stage samples with, and its meta."""
  folder = run.stage_folder(stage) / CHECKPOINTS
  return checkpoint.read_meta(folder, best=best_of(run, stage))


def devices_of(run: Run) -> Devices:
  """Returns the run's mesh as pipelines and samplers use it."""
  everywhere = sharding.replicated(run.mesh)
  return Devices(
    put=lambda batch: sharding.put_batch(batch, run.mesh),
    jit=lambda fn: jax.jit(fn, out_shardings=everywhere),
    parts=sharding.batch_parts(run.mesh),
  )


class TrainedStages:
  """The trained stages of a work folder by name, each restored when looked up.

  Parameters are averaged ones, laid over the mesh by the rules: those of the newest
  checkpoint, or of the best for the last stage with `config.sample.checkpoint=best`. A
  stage that needs another holds the same arrays.
  """

  def __init__(self, run: Run):
    """Restores nothing yet."""
    self._run = run
    self._loaded: dict[str, Trained] = {}

  def __getitem__(self, stage: str) -> Trained:
    """Restores a stage, once."""
    if stage not in self._loaded:
      run, best = self._run, best_of(self._run, stage)
      for need in run.system.stages[stage].needs:
        self[need]  # First: one that is not trained is told in the order of training.
      params, meta = _restore(run, stage, best)
      if needs := meta.get("needs"):
        now = {need: statistics.digest(self[need].params) for need in needs}
        check_needs(stage, meta, now)
      if best is not None:
        logging.info("stage %s: step %d, best by %s", stage, meta["step"], best)
      measured = statistics.read(run, stage, params)
      self._loaded[stage] = around(run, stage, self, params, meta, measured)
    return self._loaded[stage]


def make_pipeline(run: Run, stages: Stages) -> Pipeline:
  """Builds the pipeline of a run's system around its trained stages."""
  return run.system.pipeline(run.config, stages, devices_of(run))


def _restore(run: Run, stage: str, best: str | None) -> tuple[Params, dict[str, Any]]:
  folder = run.stage_folder(stage) / CHECKPOINTS
  with reading.explain_damage(run.folder / CONFIG, "restore it from a copy"):
    placed = sharding.place(run.mesh, abstract_params(run, stage))
  params, meta = checkpoint.restore_ema_params(folder, placed, best=best)
  with reading.explain_damage(folder, "move its newest step away"):
    if not (meta["step"] and meta["fps"]):
      raise ValueError("no step or no rate of frames")
  return params, meta


def load_perceptual(run: Run, stage: str) -> dict[str, Params]:
  """Returns the weights of the network that `<stage>.loss.perceptual` names, if any."""
  values = run.config[stage].get("loss", {})
  kind = values.get("perceptual", "none")
  try:
    match kind:
      case "lpips_vgg":
        files = (None, None)
        if values.get("perceptual_weights"):
          folder = pathlib.Path(values.perceptual_weights).expanduser()
          files = folder / "vgg16.safetensors", folder / "lpips_vgg.safetensors"
        return {"perceptual": lpips.load("vgg", *files).params}
      case "i3d":
        params = features.load_i3d()[0]["params"]
        return {"perceptual": {"params": {"network": params}}}
  except UserError as e:
    raise UserError(
      f"{stage}.loss.perceptual={kind!r}: {e}; --config.{stage}.loss.perceptual=none"
      " does without"
    ) from e
  return {}


def _abstract_perceptual(run: Run, stage: str) -> dict[str, Params]:
  kind = run.config[stage].get("loss", {}).get("perceptual", "none")
  if kind == "none":
    return {}
  shape = batches.abstract_batch(run, stage)["video"].shape
  shape = (1, *shape[2:]) if kind == "lpips_vgg" else shape  # Of images, or videos.
  pixels = jax.ShapeDtypeStruct(shape, jnp.float32)
  key = jax.eval_shape(jax.random.key, 0)
  init = autoencoder.DISTANCES[kind].init
  return {"perceptual": jax.eval_shape(init, key, pixels, pixels)}
