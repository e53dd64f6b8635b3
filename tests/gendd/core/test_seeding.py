"""Random numbers depend on seed, step and purpose only; the plan divides a batch without gaps."""

import pytest
import torch

from gendd.core.seeding import BatchPlan, Shuffled, StepRandom, generator


def draw(seed=0, purpose="crop", step=0):
    random = StepRandom(seed, step, batch=8, rows=slice(0, 8))
    return torch.rand(16, generator=random.generator(purpose, "cpu"))


def test_same_key_gives_same_numbers():
    first = draw(seed=3, purpose="noise", step=7)
    torch.manual_seed(123)
    torch.rand(5)
    assert torch.equal(first, draw(seed=3, purpose="noise", step=7))


@pytest.mark.parametrize("other", [{"seed": 1}, {"purpose": "noise"}, {"step": 1}])
def test_different_key_gives_different_numbers(other):
    assert not torch.isclose(draw(), draw(**other)).any()


def test_swapped_seed_and_step_give_different_seeds():
    keys = [(seed, "crop", step) for seed in (0, 1, 11, 111) for step in (0, 1, 11, 111)]
    assert len({generator("cpu", *key).initial_seed() for key in keys}) == len(keys)


def test_random_numbers_do_not_depend_on_rows_of_a_part():
    parts = [StepRandom(0, 5, 8, rows) for rows in (slice(0, 4), slice(4, 8))]
    first, second = (torch.rand(8, generator=part.generator("noise", "cpu")) for part in parts)
    assert torch.equal(first, second)


@pytest.mark.parametrize(("world", "grad_accum_steps"), [(1, 1), (1, 4), (3, 1), (2, 3), (4, 2)])
def test_parts_of_all_processes_cover_the_batch_once(world, grad_accum_steps):
    rows = []
    for rank in range(world):
        parts = list(
            BatchPlan(seed=9, batch=24, rank=rank, world=world, grad_accum_steps=grad_accum_steps).micro_batches(step=5)
        )
        assert len(parts) == grad_accum_steps
        assert all((part.seed, part.step, part.batch) == (9, 5, 24) for part in parts)
        assert {len(range(24)[part.rows]) for part in parts} == {24 // (world * grad_accum_steps)}
        rows += [row for part in parts for row in range(24)[part.rows]]
    assert sorted(rows) == list(range(24))


def test_one_process_takes_parts_in_order():
    rows = [range(12)[part.rows] for part in BatchPlan(0, 12, grad_accum_steps=3).micro_batches(0)]
    assert [list(part) for part in rows] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_each_pass_shuffles_every_index_once():
    order, passes = Shuffled(11), {}
    for step in range(4):
        for rank in (0, 1):
            for part in BatchPlan(0, 4, rank, 2).micro_batches(step):
                number, numbers = order.locate(part)
                passes.setdefault(number, []).extend(numbers.tolist())
    assert list(passes) == [0, 1] and passes[0] != passes[1]
    for numbers in passes.values():
        assert len(set(numbers)) == 8 and set(numbers) <= set(range(11))
