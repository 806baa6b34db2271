r"""VDM on moving shapes: a video diffusion model in pixels, on two cores of a laptop.

    python -m lamd_jax.main --config=configs/vdm_shapes.py

Needs no data. Trains on videos and single images together; `:caption` adds captions as
a condition, and `:smoke` goes through the whole job in a minute or two. Extend a video,
or fill in frames, with the trained model:

    python -m lamd_jax.main --config=configs/vdm_shapes.py --mode=sample \
      --video=runs/vdm_shapes/samples/real_0.mp4 --task=extend --frames=20

Paper: Ho et al. 2022, arXiv:2204.03458; everything in it, at a small size.
"""

import ml_collections

from lamd_jax.config import experiment_config, parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, caption=False)
  config = experiment_config()
  config.system = "vdm"
  config.seed = 0
  config.compute_dtype = "float32"

  config.data = dict(name="shapes", num_frames=8, frame_stride=2, resolution=16)
  config.data.update(num_train=4096, num_eval=128)
  config.images = dict(num=4, source=dict())  # For each video, frames of the same set.
  config.augment = dict(flip=False)
  config.condition = dict(
    kind="caption" if args["caption"] else "none",
    dropout=0.1,
    encoder="",  # Folder of a BERT; without one, the installed MiniLM.
    num_tokens=48,
    text_channels=384,
  )

  config.stages = ("base",)
  config.base = dict(
    model=dict(
      model_channels=32,
      channel_mults=(1, 2),
      num_res_blocks=1,
      attention_factors=(2,),
      head_channels=32,
      embedding_channels=128,
      num_embedding_layers=2,
      max_frames=8,
    ),
    diffusion=dict(schedule="cosine", parameterization="v"),
    train=dict(steps=1500, batch_size=16, accumulate=1),
  )
  config.base.train.update(optimizer="adam", learning_rate=1e-3, b2=0.99)
  config.base.train.update(warmup_steps=50, schedule="cosine", ema_decay=0.99)
  config.base.train.update(log_every=10, checkpoint_every=200, sample_every=0)

  # Checkpoints: "latest", or "best" by run.keep_best. A guidance of 1 is none.
  config.sample = dict(checkpoint="latest", batch_size=16)
  config.sample.update(num_steps=64, gamma=0.1, langevin_delta=0.0, guidance=1.0)
  config.sample.update(given_frames=0, overlap=4, method="reconstruction")
  config.sample.update(frames_weight=9.0, size_weight=4.0)
  config.evaluate = dict(
    num_clips=32,
    samples_per_clip=2,
    metrics=(),  # For example ("fvd",), with the extra `metrics`; from 64 clips on.
    weights="weights",  # Folder of the networks that other metrics than FVD need.
  )

  if args["smoke"]:
    config.data.update(num_train=64, num_eval=4)
    config.base.model.update(model_channels=8, head_channels=8, embedding_channels=16)
    config.base.train.update(steps=20, batch_size=4, warmup_steps=5)
    config.base.train.checkpoint_every = 10
    config.sample.num_steps = 8
    config.evaluate.num_clips = 4
  return config
