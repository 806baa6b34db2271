"""BAIR robot pushing, small: the standard set for stochastic video prediction.

A robot arm pushes objects around in a bin at random, seen by one camera from the front
(`image_main`) and one from the side (`image_aux1`). Videos have 30 frames of 64x64; the
arm's actions and positions come with them and are not used here.

Source: Ebert et al. 2017 (arXiv:1710.05268); home page
https://sites.google.com/view/sna-visual-mpc/; one archive of 30 GB,
http://rail.eecs.berkeley.edu/datasets/bair_robot_pushing_dataset_v0.tar. The authors
state no license: ask them before passing the videos on.

Splits, by TFDS 2.0.0: `train` 43,264 videos; `test` 256, whose first files are those
that papers call traj_0_to_255. Preparing the data is the only step that needs
TensorFlow, in any environment:

    pip install tensorflow tensorflow-datasets
    python -c "import tensorflow_datasets as tfds; \
      tfds.builder('bair_robot_pushing_small', file_format='array_record', \
      data_dir='DATA_DIR').download_and_prepare()"

Protocol for numbers comparable with papers: one frame given, 15 generated; the first 16
frames of all 256 test videos, `image_main`; FVD on clips of 16 frames, the given one
included, with one sample for each video (256 against 256) or 100, never mixed. Training
takes random windows of 16 of the 30 frames.
"""

NAME = "bair_robot_pushing_small"
IMAGE_KEY = "image_main"
FPS = 10.0
"""Frames per second at which clips are shown; the data states no rate."""
