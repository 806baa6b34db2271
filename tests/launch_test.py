"""The launchers: the command that each worker runs, down to the last quote."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from absl import flags
from absl.testing import absltest, parameterized
import pytest
import real_processes
import yaml

from lamd_jax import main  # noqa: F401  Defines the flags.

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "launch" / "tpu_vm.sh"
WORKERS = 2

# Stand-in for gcloud: records its arguments, and plays workers with a folder as home.
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
# Stand-in for the worker's Python: its environments' python and pip record arguments.
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


# Stand-in for xpk: records its arguments and the files it would put into an image.
XPK = r"""#!/usr/bin/env bash
set -euo pipefail
printf '%s\0' "$@" > "$FAKE/xpk.args"
for word in "$@"; do
  case "$word" in
    --script-dir=*) (cd "${word#*=}" && find . -type f | sort > "$FAKE/xpk.files") ;;
  esac
done
"""


class XpkTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    tree, tools = self.folder / "tree", self.folder / "tools"
    for folder in (tools, tree / "launch", tree / "runs"):
      folder.mkdir(parents=True)
    (tools / "xpk").write_text(XPK)
    (tools / "xpk").chmod(0o755)
    self.script = shutil.copy(ROOT / "launch" / "xpk.sh", tree / "launch")
    (tree / ".gitignore").write_text("runs/\n")
    (tree / "runs" / "large").write_text("not for the image")
    (tree / "a new file.txt").write_text("for the image")
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    self.environment = {
      "PATH": f"{tools}:{os.environ['PATH']}",
      "FAKE": str(self.folder),
      "NAME": "bair-1",
      "CLUSTER": "mine",
      "ZONE": "zone-b",
      "PROJECT": "ours",
      "TPU": "v5litepod-16",
    }

  def launch(self, *arguments):
    return subprocess.run(
      [self.script, *arguments],
      env=self.environment,
      cwd=self.folder,
      capture_output=True,
      text=True,
      timeout=60,
    )

  @parameterized.parameters(
    ("--config=configs/bair.py", "--workdir=/mnt/shared/bair"),
    ("--x=$HOME", "--y=`id`;exit 3", "--z=a\\b\nc", "*", "", 'it\'s "here"'),
  )
  def test_the_command_has_the_very_same_arguments_in_a_shell(self, *arguments):
    done = self.launch(*arguments)
    self.assertEqual(done.returncode, 0, done.stderr)
    words = (self.folder / "xpk.args").read_text().split("\0")[:-1]
    self.assertEqual(words[:2], ["workload", "create"])
    for word in (
      *("--workload=bair-1", "--cluster=mine", "--zone=zone-b", "--project=ours"),
      *("--tpu-type=v5litepod-16", "--num-slices=1", "--max-restarts=20"),
    ):
      self.assertIn(word, words)
    self.assertEqual(
      (self.folder / "xpk.files").read_text().split("\n")[:-1],
      ["./.gitignore", "./a new file.txt", "./launch/xpk.sh"],
    )
    [command] = [x.partition("=")[2] for x in words if x.startswith("--command=")]
    play = "pip() { :; }; exec() { printf '%s\\0' \"$@\"; }; "
    ran = subprocess.run(["bash", "-c", play + command], capture_output=True, text=True)
    self.assertEqual(
      ran.stdout.split("\0")[:-1],
      ["python", "-u", "-m", "lamd_jax.main", "--distributed", *arguments],
    )

  @parameterized.parameters("NAME", "CLUSTER", "ZONE", "PROJECT", "TPU")
  def test_a_missing_variable_is_named_in_one_line(self, name):
    del self.environment[name]
    done = self.launch("--config=c.py")
    self.assertEqual(done.returncode, 2)
    self.assertLen(done.stderr.splitlines(), 1)
    self.assertIn(f"{name} is not set", done.stderr)
    self.assertFalse((self.folder / "xpk.args").exists())


# Stand-in for lamd_jax.main, told by its arguments what to do.
PLAYED = """
import os, signal, sys, time
options = dict(x[2:].split("=", 1) for x in sys.argv[1:] if x.startswith("--"))
number = int(options["process_id"])
signal.signal(signal.SIGTERM, lambda *unused: sys.exit(143))
print("out", number, options.get("say"), os.environ["JAX_NUM_CPU_DEVICES"],
      os.environ["JAX_LOCAL_DEVICE_IDS"], options["num_processes"])
print("err", number, file=sys.stderr)
if str(number) == options.get("fails"):
  sys.exit(3)
if str(number) == options.get("is_killed"):
  os.kill(os.getpid(), signal.SIGKILL)
end = time.monotonic() + float(options.get("sleep", 0))
while time.monotonic() < end:  # Short sleeps: a signal just before one does not end it.
  time.sleep(0.05)
"""


class LocalTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    (self.folder / "lamd_jax").mkdir()
    (self.folder / "lamd_jax" / "__init__.py").touch()
    (self.folder / "lamd_jax" / "main.py").write_text(PLAYED)

  def start(self, *arguments):
    return subprocess.Popen(
      [sys.executable, str(ROOT / "launch" / "local.py"), *arguments],
      cwd=self.folder,
      env=os.environ | {"PYTHONPATH": str(self.folder)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def launch(self, *arguments):
    process = self.start(*arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, sorted(out.splitlines()), err.splitlines()

  def test_each_process_knows_its_number_and_its_devices(self):
    status, out, err = self.launch(
      "--processes=3", "--devices_per_process=2", "--say=a b"
    )
    self.assertEqual(status, 0)
    self.assertEqual(
      out, ["[1] out 1 a b 2 2,3 3", "[2] out 2 a b 2 4,5 3", "out 0 a b 2 0,1 3"]
    )
    self.assertEqual(sorted(err), ["[1] err 1", "[2] err 2", "err 0"])

  @pytest.mark.slow
  def test_where_one_fails_the_others_are_ended_and_it_is_named(self):
    for how, seconds, status, said in (
      ("--fails=1", 1, 3, "status 3"),  # The others leave by themselves, or do not.
      ("--is_killed=0", 600, 137, "signal SIGKILL"),
    ):
      begin = time.monotonic()
      found, _, err = self.launch("--processes=2", f"--sleep={seconds}", how)
      self.assertEqual(found, status)
      self.assertLess(time.monotonic() - begin, 60)
      self.assertRegex(
        err[-1], rf"\Alaunch/local.py: process {how[-1]} of 2 ended with {said}, "
      )

  def test_signals_are_passed_on_once_to_each(self):
    for number in (signal.SIGTERM, signal.SIGINT):
      process = self.start("--processes=2", "--sleep=600")
      for _ in range(2):  # Both have started.
        process.stderr.readline()
      process.send_signal(number)
      _, err = process.communicate(timeout=60)
      self.assertEqual((process.returncode, err), (143, ""))


# Known fields, from jobset_types.go of v1alpha2 and the API of Kubernetes.
JOBSET = {
  "": {"apiVersion", "kind", "metadata", "spec"},
  "metadata": {"name", "labels", "annotations"},
  "spec": {"network", "coordinator", "failurePolicy", "replicatedJobs"},
  "spec.network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
  "spec.coordinator": {"replicatedJob", "jobIndex", "podIndex"},
  "spec.failurePolicy": {"maxRestarts", "rules", "restartStrategy"},
  "spec.replicatedJobs.*": {"name", "groupName", "replicas", "template", "dependsOn"},
}
JOB = {
  "": {"spec", "metadata"},
  "spec": {"completionMode", "parallelism", "completions", "backoffLimit", "template"},
  "spec.template": {"spec", "metadata"},
  "spec.template.spec": {
    *("restartPolicy", "terminationGracePeriodSeconds", "nodeSelector", "containers"),
    *("volumes", "tolerations", "subdomain", "serviceAccountName"),
  },
  "spec.template.spec.containers.*": {
    *("name", "image", "command", "args", "env", "ports", "resources", "volumeMounts"),
  },
}


def at(values, path):
  """Returns the values at a path of keys; `*` stands for each element of a list."""
  found = [values]
  for key in filter(None, path.split(".")):
    found = [
      y for x in found for y in (x if key == "*" else [x[key]] if key in x else [])
    ]
  return found


class JobSetTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    text = (ROOT / "launch" / "jobset.yaml").read_text()
    sets = list(yaml.safe_load_all(text))
    self.sets = {x["metadata"]["labels"]["accelerator"]: x for x in sets}

  def test_there_is_one_for_each_accelerator(self):
    self.assertEqual(list(self.sets), ["tpu", "gpu"])

  @parameterized.parameters("tpu", "gpu")
  def test_every_field_is_known_and_has_its_type(self, kind):
    jobset = self.sets[kind]
    self.assertEqual(jobset["apiVersion"], "jobset.x-k8s.io/v1alpha2")
    self.assertEqual(jobset["kind"], "JobSet")
    jobs = at(jobset, "spec.replicatedJobs.*")
    self.assertNotEmpty(jobs)
    for values, known in ((jobset, JOBSET), *((x["template"], JOB) for x in jobs)):
      for path, names in known.items():
        for block in at(values, path):
          self.assertLessEqual(block.keys(), names, path)
    self.assertIsInstance(jobset["spec"]["network"]["enableDNSHostnames"], bool)
    for job in jobs:
      spec = job["template"]["spec"]
      counts = job["replicas"], spec["parallelism"], jobset["spec"]["failurePolicy"]
      for count in (*counts[:2], counts[2]["maxRestarts"]):
        self.assertIsInstance(count, int)
        self.assertGreaterEqual(count, 1)
      # Every pod is numbered, and one lost pod restarts all.
      self.assertEqual(spec["completionMode"], "Indexed")
      self.assertEqual(spec["completions"], spec["parallelism"])
      self.assertEqual(spec["backoffLimit"], 0)
      self.assertEqual(spec["template"]["spec"]["restartPolicy"], "Never")
      # Names of pods become host names, which have at most 63 characters.
      pod = f"{jobset['metadata']['name']}-{job['name']}-99-9999-abcde"
      self.assertRegex(pod, r"\A[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
      self.assertLessEqual(len(pod), 63)

  @parameterized.parameters("tpu", "gpu")
  def test_what_pods_use_is_there(self, kind):
    [pod] = at(self.sets[kind], "spec.replicatedJobs.*.template.spec.template.spec")
    volumes = {x["name"] for x in pod["volumes"]}
    for container in pod["containers"]:
      self.assertLessEqual({x["name"] for x in container["volumeMounts"]}, volumes)
      resources = {"tpu": "google.com/tpu", "gpu": "nvidia.com/gpu"}
      self.assertIn(resources[kind], container["resources"]["limits"])
      selector = {"tpu": "gke-tpu-accelerator", "gpu": "gke-accelerator"}
      self.assertIn(f"cloud.google.com/{selector[kind]}", pod["nodeSelector"])
      words = [*container["command"], *container["args"]]
      self.assertEqual(words[:4], ["python", "-u", "-m", "lamd_jax.main"])
      for word in words[4:]:
        self.assertIn(re.match(r"--(\w+)", word)[1], flags.FLAGS)
      variables = {x["name"] for x in container.get("env", ())}
      used = set(re.findall(r"\$\((\w+)\)", " ".join(words)))
      self.assertEqual(used, variables)
      ports = {x["containerPort"] for x in container["ports"]}
      for word in words:
        if match := re.match(r"--coordinator=.*:(\d+)", word):
          self.assertIn(int(match[1]), ports)

  def test_on_gpus_the_pods_are_told_who_they_are(self):
    spec = self.sets["gpu"]["spec"]
    [job] = spec["replicatedJobs"]
    self.assertEqual(
      spec["coordinator"], {"replicatedJob": job["name"], "jobIndex": 0, "podIndex": 0}
    )
    [container] = at(job, "template.spec.template.spec.containers.*")
    pods = job["replicas"] * job["template"]["spec"]["completions"]
    self.assertIn(f"--num_processes={pods}", container["args"])
    paths = {
      x["name"]: x["valueFrom"]["fieldRef"]["fieldPath"] for x in container["env"]
    }
    self.assertEqual(
      paths,
      {
        "COORDINATOR": "metadata.annotations['jobset.sigs.k8s.io/coordinator']",
        "PROCESS_ID": (
          "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        ),
      },
    )

  def test_on_tpus_they_find_each_other(self):
    [container] = at(
      self.sets["tpu"], "spec.replicatedJobs.*.template.spec.template.spec.containers.*"
    )
    self.assertEqual(container["command"][-1], "--distributed")


class SlurmTest(absltest.TestCase):
  @pytest.mark.slow
  def test_two_tasks_of_a_real_slurm_find_each_other_and_train_to_the_end(self):
    for tool in ("munged", "slurmctld", "slurmd", "sbatch"):
      if shutil.which(tool) is None:
        self.skipTest(f"no {tool}; on Debian: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
      self.skipTest("Slurm's daemons need root")
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    command = [ROOT / "tests/benchmarks/slurm_node.sh", "sbatch", "--wait"]
    command += ["--gres=none", "--nodes=1", "--ntasks-per-node=2"]
    command += [f"--output={folder}/log", ROOT / "launch" / "slurm.sbatch"]
    command += [f"--config={real_processes.CONFIG}:steps=3", "--mode=train"]
    done = subprocess.run(
      [*map(str, command), f"--workdir={folder}/run"],
      cwd=ROOT,
      env=real_processes.environment() | {"PYTHON": sys.executable},
      capture_output=True,
      text=True,
      timeout=900,
    )
    log = folder / "log"
    said = log.read_text() if log.exists() else done.stdout + done.stderr
    self.assertEqual(done.returncode, 0, said)
    self.assertIn(", 2 device(s)", said)
    self.assertEqual(list(real_processes.losses(folder / "run")), [1, 2, 3])


class ScriptsTest(absltest.TestCase):
  def test_every_launcher_is_short_and_parses(self):
    launch = ROOT / "launch"
    scripts = sorted((*launch.glob("*.sh"), *launch.glob("*.sbatch")))
    self.assertLen(scripts, 3)
    for script in scripts:
      self.assertLess(len(script.read_text().splitlines()), 50, script.name)
      self.assertTrue(os.access(script, os.X_OK), script.name)
      subprocess.run(["bash", "-n", str(script)], check=True)

  def test_every_launcher_is_listed(self):
    text = (ROOT / "launch" / "README.md").read_text()
    for path in (ROOT / "launch").iterdir():
      if path.name not in ("README.md", "__pycache__"):
        self.assertIn(f"| `{path.name}` |", text)


if __name__ == "__main__":
  absltest.main()
