"""Whole blocks and networks on the kernels, against autograd in float64 and against the plain network."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bagnet.kernels import fuse
from bagnet.kernels.blocks import normalize_relu, run_block
from bagnet.model.network import BagNet, Bottleneck
from tests.bagnet.kernels.checks.reference import (
    DEVICE,
    check,
    dtypes,
    error,
    in_float64,
    random,
    randomize,
    small_bagnet,
)


def gradients_and_statistics(found: nn.Module, expected: nn.Module):
    """Pairs to check, by their names."""
    addresses = [parameter.grad.data_ptr() for parameter in found.parameters()]
    assert len(set(addresses)) == len(addresses)  # or what adds to one changes another
    for (name, mine), theirs in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert mine.grad.stride() == mine.stride(), name  # or DDP copies it once more
        yield name, mine.grad, theirs.grad
    for (name, mine), theirs in zip(found.named_buffers(), expected.buffers(), strict=True):
        yield name, mine, theirs


def check_block(block: Bottleneck, x: torch.Tensor) -> None:
    """Output, gradients and running statistics after a step."""
    reference = in_float64(block, x.dtype)
    block.fused = run_block
    mine, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    out, expected = block(mine), reference(theirs)
    gradient = random(*out.shape, dtype=x.dtype, seed=9)
    out.backward(gradient)
    expected.backward(gradient.double())
    assert out.dtype == x.dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    check([("out", out, expected), ("x", mine.grad, theirs.grad)], x.dtype)
    # Sums over all rows, in which much cancels: twice the rounding of their terms.
    check(gradients_and_statistics(block, reference), x.dtype, least=1e-3, times=2)


@dtypes()
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("kernel", "stride", "channels", "shape"),
    [
        (1, 1, 40, (2, 7, 5)),
        (1, 1, 24, (1, 6, 7)),  # another number of channels: its residual is a convolution
        (1, 2, 40, (2, 7, 6)),
        (1, 2, 24, (1, 8, 9)),
        (3, 1, 40, (2, 7, 6)),  # cropped
        (3, 2, 24, (2, 9, 8)),
        (3, 1, 24, (1, 5, 9)),
    ],
)
def test_a_block(dtype, training, kernel, stride, channels, shape):
    torch.manual_seed(0)
    block = Bottleneck(channels, 10, kernel, stride).to(DEVICE).train(training)
    randomize(block)
    batch, *rest = shape
    check_block(block, random(batch, channels, *rest, dtype=dtype).relu())


@pytest.mark.parametrize("change", ["no momentum", "frozen", "no running statistics"])
def test_a_normalization_that_is_set_otherwise(change):
    torch.manual_seed(0)
    block = Bottleneck(40, 10, 3, 1).to(DEVICE)
    randomize(block)
    if change == "no momentum":  # the mean over all batches
        block.bn2.momentum = None
        block.bn2.num_batches_tracked.fill_(3)
    elif change == "frozen":
        block.bn2.eval()
    else:
        block.bn2 = nn.BatchNorm2d(10, track_running_stats=False, device=DEVICE).eval()
    block.bn1.eps = 0.1
    check_block(block, random(2, 40, 7, 5).relu())


@dtypes()
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_end_of_the_stem(dtype, training):
    norm = nn.BatchNorm2d(10).to(DEVICE).train(training)
    randomize(norm)
    reference = copy.deepcopy(norm).double()
    x = random(3, 10, 7, 5, dtype=dtype)
    mine, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    out, expected = normalize_relu(norm, mine), F.relu(reference(theirs))
    gradient = random(*x.shape, dtype=dtype, seed=9)
    out.backward(gradient)
    expected.backward(gradient.double())
    pairs = [("out", out, expected), ("x", mine.grad, theirs.grad)]
    check([*pairs, *gradients_and_statistics(norm, reference)], dtype, least=1e-3)


def test_one_row_has_no_variance():
    norm = nn.BatchNorm2d(10).to(DEVICE)
    with pytest.raises(ValueError, match="one entry has no variance.*use larger"):
        normalize_relu(norm, random(1, 10, 1, 1))
    normalize_relu(norm.eval(), random(1, 10, 1, 1))


def test_float64_is_refused():
    with pytest.raises(ValueError, match="not in torch.float64: use the plain"):
        networks()[1].double()(random(1, 3, 17, 17).double())


def networks() -> tuple[BagNet, BagNet]:
    """Plain and fused, of the same weights."""
    plain = small_bagnet(blocks=2)
    fused = copy.deepcopy(plain)
    fuse(fused, DEVICE)
    return plain, fused


def test_three_steps_of_training_are_those_of_the_plain_network():
    models = networks()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models]
    labels, losses = torch.tensor([0, 3], device=DEVICE), []
    for step in range(3):
        images = random(2, 3, 25, 20, seed=step)
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(F.cross_entropy(model(images), labels))
            losses[-1].backward()
            optimizer.step()
        assert error(losses[-1].detach(), losses[-2].detach()) < 1e-5
    plain, fused = models
    for name, mine, theirs in gradients_and_statistics(fused, plain):
        assert error(mine, theirs) < 1e-4, name
    for (name, mine), theirs in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert error(mine.detach(), theirs.detach()) < 1e-5, name
    assert losses[-1] < losses[0]


def test_evidence_gradients_of_pixels_and_autocast_are_those_of_the_plain_network():
    plain, fused = (model.eval() for model in networks())
    images = random(1, 3, 21, 18).requires_grad_()
    gradients = []
    for model in (plain, fused):
        evidence = model.logits_map(images)
        gradients.append(torch.autograd.grad(evidence.sum(), images)[0])
    assert error(gradients[1], gradients[0]) < 1e-5
    with torch.no_grad():
        assert error(fused.logits_map(images), plain.logits_map(images)) < 1e-5
        exact = plain(images)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            features = fused.features(images)
            rounded = fused(images)
    assert features.dtype == torch.bfloat16
    assert error(rounded, exact) < 0.05


def test_names_hooks_and_copies_stay_as_they_are():
    plain, fused = networks()
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in fused.named_modules()] == [n for n, _ in plain.named_modules()]
    seen = []
    for module in (fused.layer4, fused.layer1[0], fused.fc):
        module.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    images = random(1, 3, 17, 17)
    fused.eval()(images)
    assert seen == [16, 128, 5]
    again = pickle.loads(pickle.dumps(networks()[1])).eval()
    assert torch.equal(again(images), networks()[1].eval()(images))
