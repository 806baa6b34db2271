r"""VDM from captions: 9 frames of 128x128, the second model of the cascade.

    python -m lamd_jax.main --config=configs/vdm_text_upsampler.py \
      --config.data.path=FOLDER --config.data.csv=train.csv \
      --config.data.eval_csv=eval.csv
    python -m lamd_jax.main --config=configs/vdm_text_upsampler.py --mode=sample \
      --video=runs/vdm_text/samples/sample_0_0.mp4 --task=upsample --factor=2 --every=4

The first command trains the model on whole videos and images. The second turns a sample
of `vdm_text.py`, 16 frames of 64x64, into 61 frames of 128x128: windows of 9 frames
that share one, of which 0, 4 and 8 are known in the low resolution. `:small` is for one
GPU; `:smoke` goes through the whole job in a few minutes, on moving shapes.

Sizes, optimizer and sampler are the paper's, appendix A; the weights of guidance are
not in it. Expected: not measured yet. Paper: Ho et al. 2022, arXiv:2204.03458.
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
    num_frames=9,
    frame_stride=1,
    resolution=128,
  )
  config.images = dict(num=7, source=dict())  # Frames of the same videos.
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
      model_channels=128,
      channel_mults=(1, 2, 4, 8, 16),
      num_res_blocks=2,
      attention_factors=(4, 8, 16),
      head_channels=128,
      embedding_channels=1024,
      num_embedding_layers=4,
      max_frames=9,
      dropout_rate=0.0,
    ),
    diffusion=dict(schedule="cosine", parameterization="eps"),
    train=dict(steps=800_000, batch_size=128, accumulate=1),
  )
  config.base.train.update(optimizer="adam", learning_rate=2e-4, b2=0.99)
  config.base.train.update(weight_decay=0.0, ema_decay=0.9999)
  config.base.train.update(warmup_steps=1000, schedule="constant")
  config.base.train.update(log_every=100, checkpoint_every=5000, sample_every=0)

  # Checkpoints: "latest", or "best" by run.keep_best. A guidance of 1 is none.
  config.sample = dict(checkpoint="latest", batch_size=64)
  config.sample.update(num_steps=256, gamma=0.3, langevin_delta=0.0, guidance=2.0)
  config.sample.update(given_frames=0, overlap=1, method="reconstruction")
  config.sample.update(frames_weight=9.0, size_weight=4.0)
  config.evaluate = dict(
    num_clips=2048,
    samples_per_clip=1,
    metrics=("fvd", "kvd"),
    weights="weights",  # Folder of the networks that other metrics than FVD need.
  )

  if args["small"]:  # One GPU.
    config.base.model.update(model_channels=64, attention_factors=(8, 16))
    config.base.model.update(head_channels=32, embedding_channels=256)
    config.base.train.update(steps=200_000, batch_size=16, checkpoint_every=2000)
    config.sample.batch_size = 8
  if args["smoke"]:
    smoke.shrink(config, num_frames=5, overlap=1)
  return config
