import pytest
import torch

from sae.threads import fitting_threads


@pytest.fixture(autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)


def test_small_blocks_take_one_thread_and_large_ones_keep_all() -> None:
    with fitting_threads(128, 1024):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with fitting_threads(768, 24_576):
        assert torch.get_num_threads() == 2


def test_threads_come_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), fitting_threads(8, 8):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2
