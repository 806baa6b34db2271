"""The launchers: what each worker would run, down to the last quote."""

import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "launch" / "tpu_vm.sh"
WORKERS = 2

# Plays gcloud: notes its arguments, and is the workers, each a folder as its home.
GCLOUD = r"""#!/usr/bin/env bash
set -euo pipefail
printf '%s\n' "$*" | head -n 1 >> "$FAKE/gcloud.log"
for worker in "$FAKE"/worker_*; do
  case "$4" in
    scp) cp "$5" "$worker/" ;;
    ssh) for word in "$@"; do
      case "$word" in
        --command=*) (cd "$worker" && HOME="$worker" bash -c "${word#--command=}") ;;
      esac
    done ;;
  esac
done
"""
# Plays the worker's Python: makes an environment whose python and pip take notes.
PYTHON = r"""#!/usr/bin/env bash
set -euo pipefail
[[ "$1 $2" == "-m venv" ]]
mkdir -p "$3/bin"
echo "PATH=\"$PWD/$3/bin:\$PATH\"" > "$3/bin/activate"
for tool in python pip; do
  printf '#!/usr/bin/env bash\nprintf "%%s\\0" "$@" > "$HOME/%s.args"\n' $tool \
    > "$3/bin/$tool"
  chmod +x "$3/bin/$tool"
done
"""


class TpuVmTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.workers = [self.folder / f"worker_{n}" for n in range(WORKERS)]
    tools = self.folder / "tools"
    self.tree = self.folder / "tree"
    for folder in (*self.workers, tools, self.tree / "launch"):
      folder.mkdir(parents=True)
    for name, text in (("gcloud", GCLOUD), ("python3.11", PYTHON)):
      (tools / name).write_text(text)
      (tools / name).chmod(0o755)
    shutil.copy(SCRIPT, self.tree / "launch")
    (self.tree / ".gitignore").write_text("runs/\n")
    (self.tree / "runs").mkdir()
    (self.tree / "runs" / "large").write_text("not for the workers")
    (self.tree / "a new file.txt").write_text("for the workers")
    subprocess.run(["git", "init", "-q"], cwd=self.tree, check=True)
    self.environment = {
      "PATH": f"{tools}:{os.environ['PATH']}",
      "FAKE": str(self.folder),
      "NAME": "pod",
      "ZONE": "zone-b",
      "PROJECT": "mine",
    }

  def launch(self, *arguments):
    return subprocess.run(
      [str(self.tree / "launch" / "tpu_vm.sh"), *arguments],
      env=self.environment,
      cwd=self.folder,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=60,
    )

  def noted(self, worker, tool):
    return (worker / f"{tool}.args").read_text().split("\0")[:-1]

  @parameterized.parameters(
    (),
    ("--config=configs/bair.py", "--workdir=/mnt/shared/bair"),
    ("--config=my configs/a b.py:smoke", "", '--config.data.path=it\'s "here"'),
    ("--x=$HOME", "--y=`id`;exit 3", "--z=a\\b\nc", "*", "&& false"),
  )
  def test_every_worker_runs_main_with_the_very_same_arguments(self, *arguments):
    result = self.launch(*arguments)
    self.assertEqual(result.returncode, 0, result.stderr)
    for worker in self.workers:
      self.assertEqual(
        self.noted(worker, "python"),
        ["-m", "lamd_jax.main", "--distributed", *arguments],
      )

  def test_the_workers_get_the_working_tree_and_install_it(self):
    self.assertEqual(self.launch("--config=c.py").returncode, 0)
    for worker in self.workers:
      with tarfile.open(worker / "lamd_jax.tar.gz") as archive:
        names = set(archive.getnames())
      self.assertEqual(names, {".gitignore", "launch/tpu_vm.sh", "a new file.txt"})
      self.assertTrue((worker / "lamd_jax_run" / "a new file.txt").is_file())
      self.assertEqual(self.noted(worker, "pip")[-2:], ["-e", ".[tpu]"])

  def test_gcloud_is_told_which_machine_and_all_its_workers(self):
    self.assertEqual(self.launch().returncode, 0)
    calls = (self.folder / "gcloud.log").read_text().splitlines()
    self.assertLen(calls, 2)
    for call, verb in zip(calls, ("scp", "ssh"), strict=True):
      self.assertStartsWith(call, f"compute tpus tpu-vm {verb} ")
      self.assertIn("--zone=zone-b --project=mine --worker=all", call)
      self.assertIn(" pod", call)

  @parameterized.parameters("NAME", "ZONE", "PROJECT")
  def test_a_missing_variable_is_named_in_one_line_before_anything_runs(self, name):
    del self.environment[name]
    result = self.launch("--config=c.py")
    self.assertEqual(result.returncode, 2)
    self.assertLen(result.stderr.splitlines(), 1)
    self.assertIn(f"{name} is not set", result.stderr)
    self.assertFalse((self.folder / "gcloud.log").exists())

  def test_a_failing_worker_fails_the_launch(self):
    self.environment["PYTHON"] = "false"
    self.assertNotEqual(self.launch().returncode, 0)

  def test_every_launcher_is_short_and_parses(self):
    scripts = sorted((ROOT / "launch").glob("*.sh"))
    self.assertNotEmpty(scripts)
    for script in scripts:
      self.assertLess(len(script.read_text().splitlines()), 40, script.name)
      self.assertTrue(os.access(script, os.X_OK), script.name)
      subprocess.run(["bash", "-n", str(script)], check=True)


if __name__ == "__main__":
  absltest.main()
