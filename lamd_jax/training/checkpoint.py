"""Checkpoints: the training state and a few numbers, in one folder per step.

Orbax writes a step into a folder with a temporary name and renames it once it is
complete. A killed process therefore leaves whole steps and, at worst, one temporary
folder, which the next `open_manager` removes. `retention` decides which steps stay,
`damage` what happens to a step that cannot be read.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import math
import os
import pathlib
import sys
from typing import Any

from absl import logging
import jax
import orbax.checkpoint as ocp

from lamd_jax.files.reading import parse_json
from lamd_jax.files.writing import explain_full_disk, is_full_disk
from lamd_jax.training import damage, processes, retention
from lamd_jax.training.state import TrainState
from lamd_jax.types import Params, UserError, reason

Folder = str | os.PathLike[str]
STATE, META, SCALARS = "state", "meta", "metrics"  # The last name is orbax's.
FILES = {META: "metadata", SCALARS: "metrics"}  # These names are orbax's too.
# Numbers that a meta may have.
NUMBERS = {"step", "passed_over", "seconds", "num_parameters", "peak_memory_gb", "fps"}


class Manager(ocp.CheckpointManager):
  """Orbax's manager, tolerant of damaged scalars and deaf to preemption.

  Attributes:
    keep_best: Scalar whose best step stays; emptied once a warning has said that
      `save` is not given such a scalar.
  """

  keep_best = ""

  def metrics(self, step: int) -> dict[str, float] | None:
    """Returns the scalars that a step was saved with, None if they are unreadable."""
    try:
      return super().metrics(step)
    except Exception:  # Damage takes the form of any exception; the step is unranked.
      return None

  def reached_preemption(self, step: int) -> bool:
    """Returns False: the loop asks for itself, and orbax would upset its count."""
    del step
    return False


@contextlib.contextmanager
def open_manager(
  folder: Folder,
  *,
  max_to_keep: int = 2,
  every: int = 0,
  keep_best: str = "",
  read_only: bool = False,
) -> Iterator[Manager]:
  """Yields a manager for a folder; on exit waits for pending writes.

  Args:
    folder: Folder of the checkpoints, such as `workdir/dmg/checkpoints`; created if
      missing.
    max_to_keep: Number of newest steps that stay; a step is deleted only after a newer
      one is complete.
    every: Regular interval in updates: the newest step that it divides stays too; 0 for
      none.
    keep_best: Scalar given to `save` whose best step stays too, with a leading "-"
      where lower is better; empty for none.
    read_only: Whether to leave the folder unchanged.
  """
  if read_only:  # At their defaults, orbax warns about each of these.
    options = ocp.CheckpointManagerOptions(
      read_only=True, save_interval_steps=0, max_to_keep=None, create=False
    )
  else:
    # The policy decides what stays, but without `best_fn` orbax writes no scalars.
    best_fn = lambda scalars: retention.score(scalars, keep_best)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=retention.policy(max_to_keep, every, keep_best),
      best_fn=best_fn if keep_best else None,
      cleanup_tmp_directories=True,
    )
  path = pathlib.Path(folder).absolute()
  with damage.quiet(), explain_full_disk(folder):
    try:
      manager = Manager(path, options=options)
    except Exception as e:  # It looks at all steps; damage takes any form.
      if is_full_disk(e) or (processes.are_several() and processes.is_peer_lost(e)):
        raise
      raise UserError(
        f"the checkpoints in {os.fspath(folder)} cannot be read ({reason(e)}); move the"
        " damaged step out of that folder"
      ) from e
    manager.keep_best = keep_best
    is_peer_lost = False
    try:
      yield manager
    except Exception as e:
      is_peer_lost = processes.are_several() and processes.is_peer_lost(e)
      raise
    finally:
      if not is_peer_lost:  # Pending writes would wait for the lost process.
        manager.close()


def save(
  manager: Manager,
  step: int,
  state: TrainState,
  meta: Mapping[str, Any],
  scalars: Mapping[str, float] | None = None,
) -> None:
  """Starts to write a checkpoint; returns as soon as the state may change again.

  Writing continues in the background; `finish` waits for it. An error there is raised
  by the next `save` or by `finish`.

  Args:
    manager: Manager from `open_manager`.
    step: Number of updates made; greater than every step saved before.
    state: Arrays on devices.
    meta: JSON values to save with the state, such as the seconds spent so far.
    scalars: Logged scalars, from which `keep_best` ranks the step.
  """
  args = ocp.args.Composite(
    **{STATE: ocp.args.StandardSave(state), META: ocp.args.JsonSave(dict(meta))}
  )
  with explain_full_disk(manager.directory):
    finite = {k: v for k, v in (scalars or {}).items() if math.isfinite(v)}
    name = retention.scalar_name(manager.keep_best)
    if name and name not in (scalars or {}):
      logging.warning(
        "config.run.keep_best=%r: step %d has no such scalar and is not ranked; it has"
        " %s",
        *(manager.keep_best, step, ", ".join(scalars or {})),
      )
      manager.keep_best = ""  # One warning is enough.
    if not manager.save(step, args=args, metrics=finite, force=True):
      raise RuntimeError(f"orbax did not save step {step} in {manager.directory}")


def finish(manager: Manager) -> None:
  """Waits until everything is on disk; raises any error from writing it."""
  with explain_full_disk(manager.directory):
    manager.wait_until_finished()
  processes.wait_for_all("checkpoint")


def latest_step(folder: Folder) -> int | None:
  """Returns the newest finished step in a folder, None if there is none.

  Reads names only: whether the step is whole is not known yet.
  """
  return max(_steps(folder), default=None)


def restore_latest(
  manager: Manager, abstract_state: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
  """Returns state and meta of the newest whole step, None if there are no steps.

  Steps that cannot be read cause a warning. Once an older one has been read, they are
  renamed to `<step>.damaged`, so that the same step can be saved again.

  Args:
    manager: Manager from `open_manager`.
    abstract_state: Shapes, dtypes and shardings to restore into, from
      `sharding.place`.

  Raises:
    UserError: There are checkpoints, and none can be read.
  """
  return _restore(manager, abstract_state, manager.all_steps())


def restore_before(
  manager: Manager,
  abstract_state: TrainState,
  step: int,
  every: int,
  *,
  in_place_of: TrainState | None = None,
) -> tuple[TrainState, dict[str, Any]] | None:
  """Returns state and meta of the step to roll back to, and deletes later steps.

  That is the newest whole step below `step` that `every` divides. It does not depend
  on where runs were stopped and saved in between, so an interrupted run rolls back to
  the same step as an uninterrupted one.

  Args:
    manager: Manager from `open_manager`, opened with the same `every`.
    abstract_state: Shapes, dtypes and shardings, as for `restore_latest`.
    step: First step that is no longer wanted.
    every: Updates between regular checkpoints.
    in_place_of: State that is no longer needed; its memory is freed first.

  Returns:
    State and meta; None if there is no such step and the stage has to start over.
  """
  finish(manager)
  jax.tree.map(lambda x: x.delete(), in_place_of)
  regular = [x for x in manager.all_steps() if x < step and x % every == 0]
  restored = _restore(manager, abstract_state, regular)
  kept = 0 if restored is None else int(restored[0].step)
  for later in [x for x in manager.all_steps() if x > kept]:
    manager.delete(later)
  return restored


def _restore(
  manager: Manager, abstract_state: TrainState, steps: Iterable[int]
) -> tuple[TrainState, dict[str, Any]] | None:
  """Returns state and meta of the newest whole step among some, None if none given."""
  args = ocp.args.Composite(
    **{
      STATE: ocp.args.StandardRestore(abstract_state),
      META: ocp.args.JsonRestore(),
    }
  )
  found = damage.first_whole(
    manager.directory,
    sorted(steps, reverse=True),
    lambda step: _with_numbers(manager.restore(step, args=args)),
  )
  if found is None:
    return None
  if found.damaged:
    damage.set_aside(manager.directory, found.damaged)
    manager.reload()
  return found.content[STATE], found.content[META]


def restore_ema_params(
  folder: Folder, abstract_params: Params, *, best: str | None = None
) -> tuple[Params, dict[str, Any]]:
  """Returns the averaged parameters of the newest whole step, and its meta.

  Reads no optimizer state and leaves the folder unchanged.

  Args:
    folder: Folder of the checkpoints, as for `open_manager`.
    abstract_params: Shapes, dtypes and shardings to restore into.
    best: Scalar to choose by, as `keep_best` of `open_manager`: reads the best step
      instead of the newest.

  Raises:
    UserError: There is no checkpoint, or none can be read.
  """
  steps = _steps_to_try(folder, best)
  item = {"ema_params": abstract_params}
  args = ocp.args.Composite(
    **{
      STATE: ocp.args.PyTreeRestore(
        item,
        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True,
      ),
      META: ocp.args.JsonRestore(),
    }
  )
  with open_manager(folder, read_only=True) as manager:
    found = damage.first_whole(
      folder, steps, lambda step: _with_numbers(manager.restore(step, args=args))
    )
  assert found is not None
  params = found.content[STATE]["ema_params"]
  # A partial restore leaves shapes in place of arrays that it does not find.
  if missing := [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, x in jax.tree.leaves_with_path(params)
    if isinstance(x, jax.ShapeDtypeStruct)
  ]:
    raise UserError(
      f"the checkpoint in {os.fspath(folder)} has no {missing[0]}"
      f" ({len(missing)} arrays are missing): it is of another version of this model;"
      " choose another --workdir and train it again"
    )
  return params, found.content[META]


def read_meta(folder: Folder, *, best: str | None = None) -> tuple[int, dict[str, Any]]:
  """Returns the newest step and its meta.

  Reads one small file and no array, and waits for no other process.

  Args:
    folder: Folder of the checkpoints, as for `open_manager`.
    best: Scalar to choose by, as for `restore_ema_params`.

  Raises:
    UserError: There is no checkpoint, or no meta can be read.
  """
  found = damage.first_whole(
    folder,
    _steps_to_try(folder, best),
    lambda step: (step, _with_numbers({META: _read_json(folder, step, META)})[META]),
  )
  assert found is not None
  return found.content


def _steps(folder: Folder) -> list[int]:
  """Returns the finished steps in a folder, which may be missing."""
  return ocp.path.step.checkpoint_steps(pathlib.Path(folder).absolute())


def _steps_to_try(folder: Folder, best: str | None) -> list[int]:
  """Returns all steps, newest first; or the ranked ones only, best first."""
  steps = sorted(_steps(folder), reverse=True)
  if not steps:
    raise UserError(f"no checkpoint in {os.fspath(folder)}: train this stage first")
  if best is None:
    return steps
  ranked = retention.best_first({step: _scalars(folder, step) for step in steps}, best)
  if not ranked:
    raise UserError(
      f"no best checkpoint in {os.fspath(folder)}: config.run.keep_best={best!r} has"
      " to name a scalar of scalars.jsonl while the stage is trained, with a '-' before"
      " it where lower is better; or choose --config.sample.checkpoint=latest"
    )
  return ranked


def _scalars(folder: Folder, step: int) -> dict[str, float] | None:
  """Returns the scalars that a step was saved with, None if there are none to read."""
  try:
    return _read_json(folder, step, SCALARS)
  except Exception:  # Damage takes the form of any exception; the step is unranked.
    return None


def _with_numbers(content: Any) -> Any:
  """Returns a checkpoint; raises a `ValueError` if a number of its meta is none."""
  for name in NUMBERS & dict(content[META]).keys():
    if not 0 <= content[META][name] <= sys.float_info.max:
      raise ValueError(f"{name} is {content[META][name]}")
  return content


def _read_json(folder: Folder, step: int, item: str) -> dict[str, Any]:
  """Returns an item that orbax has written as JSON."""
  path = pathlib.Path(folder) / str(step) / item / FILES[item]
  return parse_json(path.read_text(encoding="utf-8"))
