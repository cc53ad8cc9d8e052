"""Parameters and bytes of a detector by arithmetic, and those of a real file."""

import io

import pytest
import torch
import torchvision.ops as vision
from meta_tensors import META, empty
from torch import nn

from bench.meters.bytes import MIB, file_bytes, mb, mib_ceil, stored_state
from bench.meters.params import count_params


def test_shared_parameters_count_once_and_frozen_norms_count():
    layer = nn.Linear(3, 4)
    assert count_params(layer, layer, nn.Sequential(layer, vision.FrozenBatchNorm2d(5))) == 3 * 4 + 4 + 2 * 5


def test_file_bytes_are_those_of_a_real_file():
    net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.Linear(500, 1000))
    file = io.BytesIO()
    torch.save({f"net.{name}": tensor for name, tensor in net.state_dict().items()}, file, _use_new_zipfile_serialization=False)
    ours = file_bytes(stored_state({"net": net.to(META)}))
    assert ours == pytest.approx(len(file.getvalue()), abs=8 * 2 * len(net.state_dict()))  # storages are named by address
    assert mib_ceil({"net": net}) == -(-ours // MIB)


def test_the_file_holds_the_weights():
    sizes = [file_bytes({"a": empty(*shape)}) for shape in ((1000,), (2000,))]
    assert sizes[1] - sizes[0] == 4000


def test_a_frozen_norm_is_stored_as_a_batch_norm():
    frozen, plain = vision.FrozenBatchNorm2d(5), nn.BatchNorm2d(5)
    shapes = [{name: (tensor.shape, tensor.dtype) for name, tensor in stored_state({"n": one}).items()} for one in (frozen, plain)]
    assert shapes[0] == shapes[1]
    plain.num_batches_tracked = None
    assert stored_state({"n": plain}).keys() == shapes[1].keys()


def test_decimal_megabytes():
    assert mb({"a": nn.Linear(1000, 250, bias=False, device=META)}) == 1.0
