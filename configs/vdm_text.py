r"""VDM from captions: 16 frames of 64x64, every fourth of the video.

    python -m lamd_jax.main --config=configs/vdm_text.py --config.data.path=FOLDER \
      --config.data.csv=train.csv --config.data.eval_csv=eval.csv

The data are a folder of videos and csv files with their paths and captions. This is the
first model of the cascade: `vdm_text_upsampler.py` makes 64 frames of 128x128 of its
samples. `:small` is for one GPU; `:smoke` goes through the whole job in a few minutes,
on moving shapes.

Sizes, optimizer and sampler are those of the paper's large model, appendix A, whose 10
million captioned videos are not public; warm-up and clipping of gradients are not in
it. Expected: not measured yet. Paper: Ho et al. 2022, arXiv:2204.03458, table 5.
"""

import ml_collections

from lamd_jax.config import experiment_config, parse_arg
from lamd_jax.systems.vdm import smoke


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, small=False)
  config = experiment_config()
  config.system = "vdm"
  config.seed = 0
  config.compute_dtype = "bfloat16"

  config.data = dict(
    name="video_csv",
    path="",
    csv="",
    eval_csv="",
    caption_column="caption",
    num_frames=16,
    frame_stride=4,
    resolution=64,
  )
  config.images = dict(num=8, source=dict())  # Frames of the same videos.
  config.augment = dict(flip=False)
  config.condition = dict(
    kind="caption",
    dropout=0.1,
    encoder="",  # Folder of the paper's BERT-large; without one, the installed MiniLM.
    num_tokens=77,
    text_channels=384,  # 1024 for BERT-large.
  )

  config.stages = ("base",)
  config.base = dict(
    model=dict(
      model_channels=256,
      channel_mults=(1, 2, 4, 8),
      num_res_blocks=2,
      attention_factors=(2, 4, 8),
      head_channels=64,
      embedding_channels=1024,
      num_embedding_layers=4,
      max_frames=16,
      dropout_rate=0.0,
    ),
    diffusion=dict(schedule="cosine", parameterization="eps"),
    train=dict(steps=700_000, batch_size=128, accumulate=1),
  )
  config.base.train.update(optimizer="adam", learning_rate=3e-4, b2=0.99)
  config.base.train.update(weight_decay=0.0, ema_decay=0.9999)
  config.base.train.update(warmup_steps=1000, schedule="constant")
  config.base.train.update(log_every=100, checkpoint_every=5000, sample_every=0)

  # Checkpoints: "latest", or "best" by run.keep_best. A guidance of 1 is none.
  config.sample = dict(checkpoint="latest", batch_size=64)
  config.sample.update(num_steps=256, gamma=0.3, langevin_delta=0.0, guidance=2.0)
  config.sample.update(given_frames=0, overlap=8, method="reconstruction")
  config.sample.update(frames_weight=9.0, size_weight=4.0)
  config.evaluate = dict(
    num_clips=2048,
    samples_per_clip=1,
    metrics=("fvd", "kvd"),
    weights="weights",  # Folder of the networks that other metrics than FVD need.
  )

  if args["small"]:  # One GPU.
    config.base.model.update(model_channels=64, attention_factors=(4, 8))
    config.base.model.update(head_channels=32, embedding_channels=256)
    config.base.train.update(steps=200_000, batch_size=16, checkpoint_every=2000)
    config.sample.batch_size = 16
  if args["smoke"]:
    smoke.shrink(config)
  return config
