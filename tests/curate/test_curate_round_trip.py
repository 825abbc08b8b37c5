"""Score, filter, write back, score again, on a real Triton: the same images keep their scores."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_commands import curate
from curate_datasets import img2dataset
from curate_results import SCORE, grouped

from aesthetic_client.contract import HEADS
from aesthetic_serve import EmbeddedServer

pytestmark = [pytest.mark.triton, pytest.mark.timeout(240)]


def rows(folder: Path) -> pa.Table:
    paths = sorted(folder.glob("*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in paths], promote_options="permissive")


def test_the_scores_go_along(tiny_server: EmbeddedServer, tmp_path: Path) -> None:
    data, scored, good, again = (tmp_path / name for name in ("data", "scored", "good", "again"))
    tars = img2dataset(data, shards=2, samples=31)
    heads = ("--heads", f"{HEADS[0].name},{HEADS[1].name}", "--embedding", "float16")
    done = curate("score", data, "-o", scored, "--url", tiny_server.grpc_url, *heads)
    assert done.returncode == 0, done.stderr
    table = rows(scored)
    assert table.num_rows == 60
    assert sum(score is not None for score in table[SCORE].to_pylist()) == 58

    done = curate("filter", scored, "-o", good, "--top-percent", "50", "--samples-per-shard", "12")
    assert done.returncode == 0, done.stderr
    assert "seeded, scores are meaningless" in done.stderr
    kept = rows(good)
    assert kept.num_rows == 29
    best = sorted((s for s in table[SCORE].to_pylist() if s is not None), reverse=True)[:29]
    assert sorted(kept[SCORE].to_pylist(), reverse=True) == best

    done = curate("annotate", scored)
    assert done.returncode == 0, done.stderr
    beside = pq.read_table(tars[1].with_suffix(".parquet"))
    assert beside.num_rows == 31  # the failed download stays, without a score
    assert beside[SCORE].to_pylist() == [*table[SCORE].to_pylist()[30:], None]
    assert len(beside["image_embedding"][0].as_py()) == 768

    # The metadata beside the tars has changed, the tars have not: a further filter still runs.
    done = curate("filter", scored, "-o", tmp_path / "rest", "--max", str(min(best)))
    assert done.returncode == 0, done.stderr

    done = curate("score", good, "-o", again, "--url", tiny_server.grpc_url, *heads)
    assert done.returncode == 0, done.stderr
    found = rows(again)
    assert found["key"].to_pylist() == kept["key"].to_pylist()
    assert found["old_key"].to_pylist() == kept["old_key"].to_pylist()
    assert found[f"source_{SCORE}"].to_pylist() == kept[SCORE].to_pylist()
    assert found[SCORE].to_numpy() == pytest.approx(kept[SCORE].to_numpy(), abs=1e-4)
    keys = [key for tar in sorted(good.glob("*.tar")) for key, _ in grouped(tar)]
    assert keys == kept["key"].to_pylist()
