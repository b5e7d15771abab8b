"""The torchmetrics classes against the pure functions, in one process and in two."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from diapir.metrics.score import summarize, tile_counts
from diapir.metrics.torch_metrics import (
    CompetitionScore,
    PixelAccuracy,
    SaltDice,
    SaltIoU,
    SaltMetrics,
    SaltPresence,
    torch_counts,
)

KEYS = ("score", "iou", "dice", "accuracy", "presence_precision", "presence_recall")


def make_case(tiles=23, side=21):
    """Return probabilities (N, 1, H, W) and truth: tiles of all qualities, some empty."""
    generator = torch.Generator().manual_seed(5)
    truth = torch.zeros(tiles, 1, side, side)
    for i in range(tiles):
        truth[i, :, : (2 * i) % side, : side - i % 4] = i % 3 > 0
    noise = torch.rand(truth.shape, generator=generator)
    quality = torch.linspace(0, 1, tiles)[:, None, None, None]
    probs = quality * (0.1 + 0.8 * truth) + (1 - quality) * noise
    probs[::5] = 0.01
    return probs, truth


@pytest.fixture(scope="module")
def case():
    return make_case()


def expected(probs, truth, threshold=0.5):
    pred = (probs > threshold).numpy().squeeze(1)
    return summarize(tile_counts(pred, truth.bool().numpy().squeeze(1)))


def single_metrics(threshold=0.5):
    return {
        "score": CompetitionScore(threshold),
        "iou": SaltIoU(threshold),
        "dice": SaltDice(threshold),
        "accuracy": PixelAccuracy(threshold),
    }


def plain(values):
    return {key: float(value) for key, value in values.items()}


def test_case_tells_metrics_apart(case):
    values = expected(*case)
    assert min(values.values()) > 0.1
    assert len({round(value, 3) for value in values.values()}) == len(KEYS)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.77])
def test_all_metrics_in_batches_are_those_of_the_whole(case, threshold):
    metrics = SaltMetrics(threshold)
    for probs, truth in zip(*(x.split(4) for x in case), strict=True):
        metrics.update(probs, truth)
    values = metrics.compute()
    assert tuple(values) == KEYS
    assert plain(values) == pytest.approx(expected(*case, threshold), abs=2e-7)


@pytest.mark.parametrize("threshold", [0.3, 0.77])
def test_each_metric_is_its_own_function(case, threshold):
    for key, metric in single_metrics(threshold).items():
        for probs, truth in zip(*(x.split(7) for x in case), strict=True):
            metric.update(probs, truth)
        assert float(metric.compute()) == pytest.approx(expected(*case, threshold)[key], abs=2e-7)
    presence = SaltPresence(threshold)
    presence.update(*case)
    assert plain(presence.compute()) == pytest.approx(
        {key: expected(*case, threshold)[key] for key in KEYS[4:]}
    )


def test_forward_gives_the_batch_and_keeps_the_epoch(case):
    probs, truth = case
    metric = CompetitionScore()
    first = metric(probs[:6], truth[:6])
    metric(probs[6:], truth[6:])
    assert float(first) == pytest.approx(expected(probs[:6], truth[:6])["score"])
    assert float(metric.compute()) == pytest.approx(expected(probs, truth)["score"])
    metric.reset()
    metric.update(probs[:6], truth[:6])
    assert float(metric.compute()) == float(first)


def test_results_do_not_depend_on_order_or_batches_to_the_last_bit(case):
    probs, truth = case
    order = torch.randperm(len(probs), generator=torch.Generator().manual_seed(0))
    one, other = SaltMetrics(), SaltMetrics()
    one.update(probs, truth)
    for i in order:
        other.update(probs[i : i + 1], truth[i : i + 1])
    assert plain(one.compute()) == plain(other.compute())


def test_a_reset_in_inference_mode_does_not_stick(case):
    # Lightning validates in inference mode; tensors made there refuse changes in place elsewhere.
    for metric in [SaltMetrics(), SaltPresence(), *single_metrics().values()]:
        fresh = copy.deepcopy(metric)
        with torch.inference_mode():
            metric.update(*case)
            metric.reset()
        for counted in (metric, fresh):
            counted.update(*case)
        assert str(metric.compute()) == str(fresh.compute())


def test_a_collection_does_not_merge_metrics_that_agree_on_the_first_batch(case):
    # All are perfect on it, so that their sums are equal; torchmetrics compares the states then.
    perfect = case[1][:4]
    collection = MetricCollection(single_metrics())
    collection.update(perfect, perfect)
    assert set(plain(collection.compute()).values()) == {1.0}
    collection.update(*case)
    whole = tuple(torch.cat([perfect, part]) for part in case)
    values = expected(*whole)
    assert plain(collection.compute()) == pytest.approx({k: values[k] for k in KEYS[:4]}, abs=2e-7)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_masks_are_taken_as_they_are(case, dtype):
    probs, truth = case
    mask = probs > 0.9
    metrics = SaltMetrics(threshold=0.9)
    metrics.update(mask.to(dtype).squeeze(1), truth.to(dtype).squeeze(1))
    assert plain(metrics.compute()) == pytest.approx(expected(*case, 0.9), abs=2e-7)


def test_counts_are_those_of_numpy(case):
    probs, truth = case
    here = torch_counts(probs, truth)
    there = tile_counts((probs > 0.5).numpy().squeeze(1), truth.bool().numpy().squeeze(1))
    for name in ("intersection", "predicted", "actual", "pixels"):
        np.testing.assert_array_equal(getattr(here, name).numpy(), getattr(there, name))


def test_a_probability_at_the_threshold_is_not_salt():
    probs = torch.full((1, 1, 2, 2), 0.3)
    assert torch_counts(probs, torch.zeros_like(probs), 0.3).predicted.tolist() == [0]


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 1, 4, 5)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="one shape"):
        SaltMetrics().update(torch.zeros(2, 1, 4, 4), torch.zeros(shape))


def test_a_lone_tile_without_batch_is_refused():
    with pytest.raises(ValueError, match="B, height, width"):
        SaltIoU().update(torch.zeros(4, 4), torch.zeros(4, 4))


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_without_tiles_there_is_no_score():
    assert torch.isnan(CompetitionScore().compute())
    assert torch.isnan(SaltMetrics().compute()["iou"])


WORKER = """
import importlib.util, json, sys, torch
import torch.distributed as dist
rank, store, source = int(sys.argv[1]), sys.argv[2], sys.argv[3]
spec = importlib.util.spec_from_file_location("case", source)
case = importlib.util.module_from_spec(spec)
spec.loader.exec_module(case)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
probs, truth = case.make_case()
mine = [slice(0, 9), slice(9, 14)] if rank == 0 else [slice(14, None)]
metrics = {"all": case.SaltMetrics(), "presence": case.SaltPresence(), **case.single_metrics()}
for part in mine:
    for metric in metrics.values():
        metric.update(probs[part], truth[part])
values = {name: metric.compute() for name, metric in metrics.items()}
print(json.dumps({k: case.plain(v) if type(v) is dict else float(v) for k, v in values.items()}))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Return what each of two gloo processes computes from its uneven share of the case."""
    store = tmp_path_factory.mktemp("gloo") / "store"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(store), __file__],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    results = []
    try:
        for worker in workers:
            out, err = worker.communicate(timeout=120)
            assert worker.returncode == 0, err
            results.append(json.loads(out.splitlines()[-1]))
    finally:
        for worker in workers:
            worker.kill()
    return results


def test_two_processes_agree_with_one_to_the_last_bit(two_processes, case):
    alone = {"all": SaltMetrics(), "presence": SaltPresence(), **single_metrics()}
    for metric in alone.values():
        metric.update(*case)
    for result in two_processes:
        assert result["all"] == plain(alone["all"].compute())
        assert result["presence"] == plain(alone["presence"].compute())
        for key in KEYS[:4]:
            assert result[key] == float(alone[key].compute())
        assert result["all"] == pytest.approx(expected(*case), abs=2e-7)
