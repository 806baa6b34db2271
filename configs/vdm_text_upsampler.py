r"""VDM from captions: 9 frames of 128x128, the second model of the cascade.

    python -m lamd_jax.main --config=configs/vdm_text_upsampler.py \
      --config.data.path=FOLDER --config.data.csv=train.csv \
      --config.data.eval_csv=eval.csv
    python -m lamd_jax.main --config=configs/vdm_text_upsampler.py --mode=sample \
      --video=runs/vdm_text/samples/sample_0_0.mp4 --task=upsample --factor=2 --every=4

The first line trains it, on whole videos and images; the second makes of a sample of
`vdm_text.py`, 16 frames of 64x64, its 61 frames of 128x128: windows of 9 frames that
share one, of which 0, 4 and 8 are known in the low resolution. `:small` is for one GPU;
`:smoke` goes through the whole job in a few minutes, on moving shapes.

Sizes, optimizer and sampler are the paper's, appendix A; the weights of guidance are
not in it. Expected: not measured yet. Paper: Ho et al. 2022, arXiv:2204.03458.
"""

import ml_collections

from lamd_jax.config import parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the configuration; see the module docstring."""
  args = parse_arg(arg, smoke=False, small=False)
  smoke, small = args["smoke"], args["small"]

  def pick(full, for_small, for_smoke):
    return for_smoke if smoke else for_small if small else full

  config = ml_collections.ConfigDict()
  config.system = "vdm"
  config.seed = 0
  config.compute_dtype = "float32" if smoke else "bfloat16"
  config.mesh = dict(data=-1, fsdp=1, tensor=1, context=1)
  # How it is run, not what is learned: configs/README.md.
  config.run = dict(
    remat="none", on_nonfinite="stop", keep_best="", log_examples=False, wandb=""
  )

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
  if smoke:
    config.data = dict(
      name="shapes",
      num_frames=5,
      frame_stride=1,
      resolution=8,
      num_train=64,
      num_eval=4,
    )
  config.images = dict(num=pick(7, 7, 2), source=dict())  # Of the same videos.
  config.augment = dict(flip=False)
  config.condition = dict(
    kind="caption",
    dropout=0.1,
    encoder="",  # A folder with BERT-large for the paper's; else the installed MiniLM.
    num_tokens=pick(77, 77, 48),
    text_channels=384,  # 1024 of BERT-large.
  )

  config.stages = ("base",)
  config.base = dict(
    model=dict(
      model_channels=pick(128, 64, 8),
      channel_mults=pick((1, 2, 4, 8, 16), (1, 2, 4, 8, 16), (1, 2)),
      num_res_blocks=pick(2, 2, 1),
      attention_factors=pick((4, 8, 16), (8, 16), (2,)),
      head_channels=pick(128, 32, 8),
      embedding_channels=pick(1024, 256, 16),
      num_embedding_layers=4,
      max_frames=pick(9, 9, 5),
      dropout_rate=0.0,
    ),
    diffusion=dict(schedule="cosine", parameterization="eps"),
    train=dict(
      steps=pick(800_000, 200_000, 10),
      batch_size=pick(128, 16, 4),
      accumulate=1,
      optimizer="adam",
      learning_rate=2e-4,
      b2=0.99,
      weight_decay=0.0,
      warmup_steps=pick(1000, 1000, 5),
      schedule="constant",
      ema_decay=pick(0.9999, 0.9999, 0.9),
      log_every=pick(100, 100, 5),
      checkpoint_every=pick(5000, 2000, 5),
      sample_every=0,
    ),
  )

  config.sample = dict(
    checkpoint="latest",  # Or "best", by run.keep_best.
    num_steps=pick(256, 256, 4),
    gamma=0.3,
    langevin_delta=0.0,
    guidance=2.0,
    given_frames=0,
    overlap=pick(1, 1, 1),
    method="reconstruction",
    frames_weight=9.0,
    size_weight=4.0,
    batch_size=pick(64, 8, 4),
  )
  config.evaluate = dict(
    num_clips=pick(2048, 2048, 2),
    samples_per_clip=pick(1, 1, 2),
    metrics=pick(("fvd", "kvd"), ("fvd", "kvd"), ("motion",)),
    weights="weights",  # A folder with networks other than I3D, if metrics need them.
  )
  return config
