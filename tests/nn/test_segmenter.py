"""The segmenter: any size in and out, only what the pyramid needs, small enough to ship."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pesi.errors import ChoiceError
from pesi.nn.models import create_model
from pesi.nn.segmenter import DecoderBlock, PesiSegmenter, create_segmenter


@pytest.fixture(scope="module")
def lite() -> PesiSegmenter:
    torch.manual_seed(0)
    return create_segmenter("pesi_lite0", width=4).eval()


@pytest.mark.parametrize("name", ["pesi14", "pesi18", "pesi_lite0"])
@pytest.mark.parametrize("shape", [(64, 64), (72, 101)])
def test_one_logit_a_pixel_at_any_size(name, shape):
    segmenter = create_segmenter(name, width=2).eval()
    with torch.inference_mode():
        assert segmenter(torch.randn(1, 3, *shape)).shape == (1, 1, *shape)


def test_images_do_not_see_each_other(lite):
    x = torch.randn(3, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(lite(x)[1:2], lite(x[1:2]), rtol=1e-3, atol=1e-4)


def test_what_the_pyramid_does_not_need_is_gone_and_the_rest_is_as_it_was():
    for name, gone in (("pesi_lite0", {"fc", "conv_top", "bn_top"}), ("pesi18", {"fc"})):
        torch.manual_seed(3)
        whole = create_model(name, num_classes=1).train()
        before = {key: value.clone() for key, value in whole.state_dict().items()}
        x = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            expected = whole.eval().forward_pyramid(x)
        segmenter = PesiSegmenter(whole.train(), width=2)
        assert segmenter.encoder.training
        kept = segmenter.encoder.state_dict()
        assert {key.split(".")[0] for key in before if key not in kept} == gone
        for key, value in kept.items():  # the look at what runs has not moved the norms' statistics
            assert torch.equal(value, before[key])
        with torch.inference_mode():
            for ours, theirs in zip(segmenter.eval().encoder.forward_pyramid(x), expected, strict=True):
                assert torch.equal(ours, theirs)


def test_every_parameter_learns():
    torch.manual_seed(0)
    segmenter = create_segmenter("pesi_lite0", width=4, attention="spatial").train()
    segmenter(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, p in segmenter.named_parameters() if p.grad is None] == []


def test_the_shipped_kind_is_small_enough():
    """What the bundle holds: kernels in float16, vectors in float32; at most 9 MB."""
    state = create_segmenter("pesi_lite0", attention="none").state_dict().values()
    assert sum(t.numel() * (2 if t.ndim > 1 else 4) for t in state) < 9e6


def test_decoder_block_is_the_formula():
    """Against the same steps in torch's own modules."""
    torch.manual_seed(0)
    block = DecoderBlock(3, 2, 4).eval()
    x, skip = torch.randn(1, 3, 2, 2), torch.randn(1, 2, 4, 4)
    steps = nn.Sequential(block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2, nn.ReLU())
    expected = steps(torch.cat([x.repeat_interleave(2, 2).repeat_interleave(2, 3), skip], 1))
    torch.testing.assert_close(block(x, skip), expected)


def test_it_exports(lite):
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        exported, own = torch.export.export(lite, (x,)).module()(x), lite(x)
        torch.testing.assert_close(exported, own, rtol=1e-4, atol=1e-5 * float(own.abs().max()))


def test_mistakes():
    with pytest.raises(ChoiceError, match="pesi_lite0"):
        create_segmenter("pesi15")
    with pytest.raises(ValueError, match="width"):
        create_segmenter("pesi18", width=0)
