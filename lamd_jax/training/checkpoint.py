"""Checkpoints: the training state and a few numbers, in a folder per step.

Orbax writes a step into a folder with a temporary name and renames it when it is
complete, so a process that is killed leaves whole steps and, at worst, one
temporary folder, which the next `open_manager` removes. What this module adds: a
finished step that cannot be read (cut off by a lost machine, a full or failing
disk) is set aside for an older one, and errors say what to do.

Which steps stay: the newest two; of those at the regular distance the newest, which a
rollback goes to whatever was saved in between when a run was stopped; and the best by
a logged scalar, where one is named.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import gc
import math
import os
import pathlib
import shutil
import sys
import time
from typing import Any

from absl import logging
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from lamd_jax.files.writing import explain_full_disk, is_full_disk
from lamd_jax.training import processes
from lamd_jax.training.state import TrainState
from lamd_jax.types import Params, UserError

Folder = str | os.PathLike[str]
STATE, META = "state", "meta"
DAMAGED = ".damaged"
WHICH = ("latest", "best")
ABANDONED_READ = ("Event loop is closed", "error while reading array index")


class Manager(ocp.CheckpointManager):
  """Orbax's manager, which also knows what was asked and what has failed.

  Attributes:
    has_failed_reads: Whether a restore has failed.
    keep_best: Of `open_manager`; empty once it was warned that it names nothing.
  """

  has_failed_reads = False
  keep_best = ""

  def metrics(self, step: int) -> dict[str, float] | None:
    """Returns the scalars that a step was saved with; None where none can be read."""
    try:
      return super().metrics(step)
    except Exception:  # Damage shows as any error at all; the step is not ranked.
      return None

  def reached_preemption(self, step: int) -> bool:
    """No: when to save is asked by the loop, whose count this would disturb."""
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
  alone: bool = False,
) -> Iterator[Manager]:
  """Yields a manager for a folder; waits at the end for what is being written.

  Args:
    folder: For example `workdir/dmg/checkpoints`; made where it is missing.
    max_to_keep: Newest steps that stay; one is deleted after a newer is complete.
    every: Of the steps that this divides, the newest stays too; 0 for none.
    keep_best: Name of a scalar given to `save`, after a "-" where lower is better: the
      step where it is best stays too.
    read_only: Whether to leave the folder as it is.
    alone: Whether to wait for no other process; where `read_only`.
  """
  if read_only:  # With these three at their defaults, orbax warns of each.
    index = jax.process_index()
    options = ocp.CheckpointManagerOptions(
      read_only=True,
      save_interval_steps=0,
      max_to_keep=None,
      create=False,
      multiprocessing_options=(
        ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})
        if alone
        else ocp.options.MultiprocessingOptions()
      ),
    )
  else:
    # That a step stays is decided by the policies; without `best_fn` orbax would not
    # write the scalars.
    options = ocp.CheckpointManagerOptions(
      preservation_policy=_preserved(max_to_keep, every, keep_best),
      best_fn=(lambda scalars: _value(scalars, keep_best)) if keep_best else None,
      cleanup_tmp_directories=True,
    )
  path = pathlib.Path(folder).absolute()
  with _quiet_about_what_is_raised_anyway(), explain_full_disk(folder):
    manager = Manager(path, options=options)
    manager.keep_best = keep_best
    is_peer_lost = False
    try:
      yield manager
    except Exception as e:
      is_peer_lost = processes.are_several() and processes.is_peer_lost(e)
      raise
    finally:
      if not is_peer_lost:  # What is being written would wait for it.
        manager.close()
      if manager.has_failed_reads:
        time.sleep(0.2)  # For those that are still under way.
        gc.collect()


def save(
  manager: Manager,
  step: int,
  state: TrainState,
  meta: Mapping[str, Any],
  scalars: Mapping[str, float] | None = None,
) -> None:
  """Starts to write a checkpoint; returns when the state may change again.

  Writing goes on in the background; `finish` waits for it. What went wrong there
  is raised by the next `save` or by `finish`.

  Args:
    manager: From `open_manager`.
    step: Updates made; above every step saved before.
    state: Arrays on devices.
    meta: Values for JSON, such as the seconds spent so far.
    scalars: What `keep_best` chooses by.
  """
  args = ocp.args.Composite(
    **{STATE: ocp.args.StandardSave(state), META: ocp.args.JsonSave(dict(meta))}
  )
  with explain_full_disk(manager.directory):
    finite = {k: v for k, v in (scalars or {}).items() if math.isfinite(v)}
    if manager.keep_best and manager.keep_best.removeprefix("-") not in (scalars or {}):
      logging.warning(
        "config.run.keep_best=%r: step %d has no such scalar and is not ranked; it has"
        " %s",
        *(manager.keep_best, step, ", ".join(scalars or {})),
      )
      manager.keep_best = ""  # Said once.
    if not manager.save(step, args=args, metrics=finite, force=True):
      raise RuntimeError(f"orbax did not save step {step} in {manager.directory}")


def finish(manager: Manager) -> None:
  """Waits until everything is on disk, and raises what went wrong."""
  with explain_full_disk(manager.directory):
    manager.wait_until_finished()
  processes.wait_for_all("checkpoint")


def latest_step(folder: Folder) -> int | None:
  """Returns the newest finished step in a folder, None where there is none."""
  path = pathlib.Path(folder)
  if not path.is_dir():
    return None
  return max(ocp.path.step.checkpoint_steps(path.absolute()), default=None)


def restore_latest(
  manager: Manager, abstract_state: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
  """Returns state and meta of the newest step that is whole; None if none exists.

  Steps that cannot be read are warned of and, once an older one has been read,
  renamed to `<step>.damaged`: they are no longer in the way of being saved again.

  Args:
    manager: From `open_manager`.
    abstract_state: Shapes, dtypes and shardings to restore into; see
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
  """Returns state and meta of a step to roll back to, and deletes the later ones.

  That is the newest whole one below `step` that `every` divides. So it does not depend
  on where runs were stopped and saved in between, and a run that was interrupted
  rolls back to where an uninterrupted one does.

  Args:
    manager: From `open_manager`, with the same `every`.
    abstract_state: As in `restore_latest`.
    step: Steps from here on are of no use.
    every: Updates between regular checkpoints.
    in_place_of: A state that is of no more use; its memory is given free first.

  Returns:
    None if there is no such step: the run has to begin again.
  """
  finish(manager)
  jax.tree.map(lambda x: x.delete(), in_place_of)
  regular = [x for x in manager.all_steps() if x < step and x % every == 0]
  restored = _restore(manager, abstract_state, regular)
  kept = 0 if restored is None else int(restored[0].step)
  for later in [x for x in manager.all_steps() if x > kept]:
    manager.delete(later)
  return restored


def _restore(manager: Manager, abstract_state: TrainState, steps: Iterable[int]):
  """State and meta of the newest of some steps that is whole; None of no steps."""
  args = ocp.args.Composite(
    **{
      STATE: ocp.args.StandardRestore(abstract_state),
      META: ocp.args.JsonRestore(),
    }
  )
  found = _first_whole(
    manager, sorted(steps, reverse=True), lambda step: manager.restore(step, args=args)
  )
  if found is None:
    return None
  restored, damaged = found
  _set_aside(manager, damaged)
  return restored[STATE], restored[META]


def restore_ema_params(
  folder: Folder, abstract_params: Params, *, best: str | None = None
) -> tuple[Params, dict[str, Any]]:
  """Returns the averaged parameters of the newest whole step, and its meta.

  Reads no optimizer state and changes nothing in the folder.

  Args:
    folder: As given to `open_manager`.
    abstract_params: Shapes, dtypes and shardings to restore into.
    best: As `keep_best` of `open_manager`: of the best step in place of the newest.

  Raises:
    UserError: There is no checkpoint, or none can be read.
  """
  _check_trained(folder)
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
    steps = _in_order(manager, best)
    found = _first_whole(manager, steps, lambda step: manager.restore(step, args=args))
  assert found is not None
  restored, _ = found
  params = restored[STATE]["ema_params"]
  # What a partial restore does not find, it leaves as it was asked for.
  is_missing = lambda x: isinstance(x, jax.ShapeDtypeStruct)
  if missing := [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, x in jax.tree.leaves_with_path(params)
    if is_missing(x)
  ]:
    raise UserError(
      f"the checkpoint in {os.fspath(folder)} has no {missing[0]}"
      f" ({len(missing)} arrays are missing): it is of another version of this model;"
      " choose another --workdir and train it again"
    )
  return params, restored[META]


def read_meta(folder: Folder, *, best: str | None = None) -> tuple[int, dict[str, Any]]:
  """Returns the newest step and its meta, without reading any array.

  Any process may ask by itself.

  Args:
    folder: As given to `open_manager`.
    best: As in `restore_ema_params`.

  Raises:
    UserError: There is no checkpoint, or no meta can be read.
  """
  _check_trained(folder)
  args = ocp.args.Composite(**{META: ocp.args.JsonRestore()})
  with open_manager(folder, read_only=True, alone=True) as manager:
    found = _first_whole(
      manager,
      _in_order(manager, best),
      lambda step: (step, manager.restore(step, args=args)[META]),
    )
  assert found is not None
  return found[0]


def _check_trained(folder: Folder) -> None:
  if latest_step(folder) is None:
    raise UserError(f"no checkpoint in {os.fspath(folder)}: train this stage first")


def _value(scalars: Mapping[str, float] | None, keep_best: str) -> float:
  """How good a step is: the higher the better, -inf where it is not known."""
  value = (scalars or {}).get(keep_best.removeprefix("-"), -math.inf)
  return -value if keep_best.startswith("-") and math.isfinite(value) else value


def _preserved(max_to_keep: int, every: int, keep_best: str):
  """Which steps stay; see `open_manager`."""
  policies: list[Any] = [checkpoint_managers.LatestN(max_to_keep)]
  if every:
    policies.append(checkpoint_managers.EveryNSteps(every, max_to_keep=1))
  if keep_best:
    best = checkpoint_managers.BestN(
      get_metric_fn=lambda scalars: _value(scalars, keep_best),
      n=1,
      keep_checkpoints_without_metrics=False,
    )
    policies.append(best)
  return checkpoint_managers.AnyPreservationPolicy(policies)


def _in_order(manager: Manager, best: str | None) -> list[int]:
  """Steps to try, the newest first; or the best first, and only those ranked."""
  steps = sorted(manager.all_steps(), reverse=True)
  if best is None:
    return steps
  values = {step: _value(manager.metrics(step), best) for step in steps}
  if not (ranked := [step for step in steps if math.isfinite(values[step])]):
    raise UserError(
      f"no best checkpoint in {manager.directory}: config.run.keep_best={best!r} has"
      " to name a scalar of scalars.jsonl while the stage is trained, with a '-' before"
      " it where lower is better; or choose --config.sample.checkpoint=latest"
    )
  return sorted(ranked, key=lambda step: values[step], reverse=True)


def _first_whole(
  manager: Manager, steps: Iterable[int], restore_fn: Callable[[int], Any]
) -> tuple[Any, list[int]] | None:
  """Returns what `restore_fn` gives for the first of some steps that it can read.

  And the steps before it that it could not.
  """
  damaged: list[int] = []
  reason, restored = "", None
  for step in steps:
    try:
      restored = restore_fn(step)
      break
    except Exception as e:  # Damage shows as any error at all.
      reason = reason or _first_line(e)
      manager.has_failed_reads = True
      damaged.append(step)
  if restored is not None:
    if damaged:
      logging.warning(
        "checkpoint of step %s in %s cannot be read (%s); using step %d instead",
        ", ".join(map(str, damaged)),
        manager.directory,
        reason,
        step,
      )
    return restored, damaged
  if damaged:
    raise UserError(
      f"no checkpoint in {manager.directory} can be read (step {damaged[0]}:"
      f" {reason}); delete that folder to start this stage again"
    )
  return None


def _set_aside(manager: Manager, steps: list[int]) -> None:
  if not steps:
    return
  if jax.process_index() == 0:
    for step in steps:
      path = pathlib.Path(manager.directory) / str(step)
      aside = path.with_name(path.name + DAMAGED)
      if aside.exists():
        shutil.rmtree(aside)
      path.rename(aside)
  ocp.multihost.sync_global_processes("lamd_jax:set_aside")
  manager.reload()


def _first_line(error: BaseException) -> str:
  """Returns the root of an error in one line: TensorStore tells whole stories."""
  while error.__cause__ is not None:
    error = error.__cause__
  text = str(error).strip().partition("\n")[0][:200].rstrip(" :.")
  return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def _quiet_about_what_is_raised_anyway() -> Iterator[None]:
  """Hides the tracebacks that orbax prints of errors that its caller also gets.

  On a full disk each of its threads logs what `save` or `finish` then raise. When
  one array cannot be read, the reads of all others are left alone: they end later,
  in threads of TensorStore or in the garbage collector, and raise into nowhere,
  where Python prints them.
  """
  logger, hook = logging.get_absl_logger(), sys.unraisablehook

  def is_news(record):
    error = record.exc_info[1] if record.exc_info else None
    is_expected = record.getMessage().startswith("Given directory is read only")
    return not is_expected and (error is None or not is_full_disk(error))

  def print_news(unraisable):
    text = str(unraisable.exc_value)
    if not any(words in text for words in ABANDONED_READ):
      hook(unraisable)

  logger.addFilter(is_news)
  sys.unraisablehook = print_news
  try:
    yield
  finally:
    logger.removeFilter(is_news)
    sys.unraisablehook = hook
