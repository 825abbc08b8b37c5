"""The shards of inputs, by their names."""

from __future__ import annotations

from aesthetic_curate.inputs import InputOptions, find_shards

OPTIONS = InputOptions()


def names(*inputs: object, options: InputOptions = OPTIONS) -> list[str]:
    return [shard.name for shard in find_shards([str(one) for one in inputs], options)]
