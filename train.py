"""Train and evaluate BagNets; `python train.py --help` lists the flags.

python train.py --patch 33 --gpus 8 --data.root /data/imagenet-shards
python train.py validate --name bagnet33

The command itself is `bagnet.training.command_line.command`, which the installed program `bagnet`
runs too.
"""

import sys

from bagnet.training.command_line.command import main

if __name__ == "__main__":
    sys.exit(main())
