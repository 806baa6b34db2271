r"""VDM on moving shapes: a video diffusion model in pixels, on two cores of a laptop.

    python -m lamd_jax.main --config=configs/vdm_shapes.py

Needs no data. Videos and single images are trained together; captions are a condition
with `:caption`, and `:smoke` goes through the whole job in a minute or two. Go on with
a video, or fill it in, with the trained model:

    python -m lamd_jax.main --config=configs/vdm_shapes.py --mode=sample \
      --video=runs/vdm_shapes/samples/real_0.mp4 --task=extend --frames=20

Paper: Ho et al. 2022, arXiv:2204.03458; all of it at a small size.
"""

import ml_collections

from lamd_jax.config import parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, caption=False)
  smoke = args["smoke"]
  config = ml_collections.ConfigDict()
  config.system = "vdm"
  config.seed = 0
  config.compute_dtype = "float32"
  config.mesh = dict(data=-1, fsdp=1, tensor=1, context=1)
  # How it is run, not what is learned: configs/README.md.
  config.run = dict(
    remat="none", on_nonfinite="stop", keep_best="", log_examples=False, wandb=""
  )

  config.data = dict(
    name="shapes",
    num_frames=8,
    frame_stride=2,
    resolution=16,
    num_train=64 if smoke else 4096,
    num_eval=4 if smoke else 128,
  )
  config.images = dict(num=4, source=dict())  # For each video; of the same videos.
  config.augment = dict(flip=False)
  config.condition = dict(
    kind="caption" if args["caption"] else "none",
    dropout=0.1,
    encoder="",  # A folder with a BERT; the installed MiniLM if there is none.
    num_tokens=48,
    text_channels=384,
  )

  config.stages = ("base",)
  config.base = dict(
    model=dict(
      model_channels=8 if smoke else 32,
      channel_mults=(1, 2),
      num_res_blocks=1,
      attention_factors=(2,),
      head_channels=8 if smoke else 32,
      embedding_channels=16 if smoke else 128,
      num_embedding_layers=2,
      max_frames=8,
    ),
    diffusion=dict(schedule="cosine", parameterization="v"),
    train=dict(
      steps=20 if smoke else 1500,
      batch_size=4 if smoke else 16,
      accumulate=1,
      optimizer="adam",
      learning_rate=1e-3,
      warmup_steps=5 if smoke else 50,
      schedule="cosine",
      b2=0.99,
      ema_decay=0.99,
      log_every=10,
      checkpoint_every=10 if smoke else 200,
      sample_every=0,
    ),
  )

  config.sample = dict(
    checkpoint="latest",  # Or "best", by run.keep_best.
    num_steps=8 if smoke else 64,
    gamma=0.1,
    langevin_delta=0.0,
    guidance=1.0,
    given_frames=0,
    overlap=4,
    method="reconstruction",
    frames_weight=9.0,
    size_weight=4.0,
    batch_size=16,
  )
  config.evaluate = dict(
    num_clips=4 if smoke else 32,
    samples_per_clip=2,
    metrics=(),
    weights="weights",  # A folder with networks other than I3D, if metrics need them.
  )
  return config
