"""Turn ImageNet as people have it into shards with a manifest: ``python -m datamodules.pack``.

A source (``imagefolder``, ``ilsvrc``, ``wds``) makes a listing of each split; ``job`` shuffles the
listing by the seed, cuts it into shards and remembers what is done; ``workers`` write the shards in
parallel; ``verify`` reads everything again. ``index`` writes a manifest only, for shards that stay
where they are.
"""
