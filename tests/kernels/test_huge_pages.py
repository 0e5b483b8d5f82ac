"""Tensors in huge pages: the same values, each in a place of its own."""

import torch

from kernels.huge_pages import TensorStack


def test_copies_are_equal_and_stand_one_behind_the_other() -> None:
    stack = TensorStack()
    originals = [torch.randn(count, 3) for count in (1, 7, 1000)] + [torch.arange(33, dtype=torch.int8)]
    copies = [stack.copy(each) for each in originals]
    for original, copy in zip(originals, copies, strict=True):
        assert copy.is_contiguous()
        assert copy.dtype == original.dtype
        assert copy.data_ptr() % 64 == 0
        assert torch.equal(copy, original)
    ends = [copy.data_ptr() + copy.nbytes for copy in copies]
    assert all(0 <= copy.data_ptr() - end < 64 for end, copy in zip(ends, copies[1:], strict=False))


def test_a_copy_of_a_view_is_contiguous() -> None:
    view = torch.arange(12.0).view(3, 4).T
    copy = TensorStack().copy(view)
    assert copy.is_contiguous()
    assert torch.equal(copy, view)


def test_tensors_larger_than_what_is_mapped_at_a_time_and_those_after_them_have_room() -> None:
    stack = TensorStack()
    first = stack.copy(torch.ones(5))
    large = stack.zeros((65 << 20,), torch.uint8)
    last = stack.copy(torch.ones(7))
    large.fill_(3)
    assert large.count_nonzero() == len(large)
    assert first.tolist() == [1.0] * 5
    assert last.tolist() == [1.0] * 7


def test_tensors_outlive_the_stack() -> None:
    kept = [TensorStack().zeros((1000, 1000), torch.float32) for _ in range(4)]
    for number, each in enumerate(kept):
        each.fill_(number)
    assert [each[999, 999].item() for each in kept] == [0, 1, 2, 3]
