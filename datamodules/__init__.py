"""The data side: packing images into shards, planning epochs, reading them back exactly."""
