"""ResNet checkpoints from files: what is taken, what is reported, what is refused."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

import pesi
from pesi.nn.pretrained import CheckpointError, load_pretrained, read_checkpoint


@pytest.fixture
def plain() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return dict(pesi.create_model("pesi18", num_classes=10, attention="none").state_dict())


def test_safetensors_half_precision(tmp_path, plain):
    path = tmp_path / "w.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in plain.items()}, path)
    model = pesi.create_model("pesi18", num_classes=3)
    head = model.fc.weight.clone()
    report = load_pretrained(model, path)
    assert report.head == "new"
    assert sum(name.endswith("alpha") for name in report.missing) == 8
    assert {name for name in report.missing if not name.endswith("alpha")} == {"fc.weight", "fc.bias"}
    assert torch.equal(model.conv1.weight, plain["conv1.weight"].half().float())
    assert torch.equal(model.fc.weight, head)
    assert "8 alphas" in str(report)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_pth_with_and_without_wrapping(tmp_path, plain, wrap):
    path = tmp_path / "w.pth"
    torch.save(wrap(plain), path)
    model = pesi.create_model("pesi18", num_classes=10)
    report = load_pretrained(model, path)
    assert report.head == "kept"
    assert report.unused == ()
    assert torch.equal(model.fc.weight, plain["fc.weight"])
    model.eval()
    with torch.no_grad():
        for alpha in model.alphas().values():
            alpha.zero_()
        twin = pesi.create_model("pesi18", num_classes=10, attention="none").eval()
        twin.load_state_dict(plain)
        x = torch.randn(1, 3, 64, 64)
        assert torch.equal(model(x), twin(x))


def test_unused_tensors_are_reported(tmp_path, plain):
    path = tmp_path / "w.safetensors"
    save_file(plain | {"extra.weight": torch.zeros(2)}, path)
    assert load_pretrained(pesi.create_model("pesi18", num_classes=10), path).unused == ("extra.weight",)


def test_another_depth_is_refused(tmp_path, plain):
    path = tmp_path / "w.safetensors"
    save_file(plain, path)
    model = pesi.create_model("pesi34", num_classes=3)
    before = model.conv1.weight.clone()
    with pytest.raises(CheckpointError, match="lacks"):
        load_pretrained(model, path)
    with pytest.raises(CheckpointError, match=r"lacks|another shape"):
        load_pretrained(pesi.create_model("pesi50", num_classes=3), path)
    assert torch.equal(model.conv1.weight, before)


class Bomb:
    def __reduce__(self):
        return (print, ("the pickle ran",))


def test_pickled_code_never_runs(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    with path.open("wb") as file:
        pickle.dump({"state_dict": Bomb()}, file)
    torch.save({"a": Bomb()}, tmp_path / "evil2.pth")
    for evil in (path, tmp_path / "evil2.pth"):
        with pytest.raises(CheckpointError, match=r"opened safely"):
            read_checkpoint(evil)
    assert "the pickle ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["missing.pth", "text.pth", "text.safetensors", "empty.safetensors"])
def test_bad_files_name_themselves(tmp_path, name):
    if name.startswith("text"):
        (tmp_path / name).write_text("not weights at all")
    elif name.startswith("empty"):
        save_file({}, tmp_path / name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read_checkpoint(tmp_path / name)


def test_the_real_imagenet_weights(shared):
    for name, file in (("pesi18", "resnet18"), ("pesi50", "resnet50")):
        report = load_pretrained(
            pesi.create_model(name, num_classes=3), shared / "weights" / f"{file}_imagenet_pqf_fp16.safetensors"
        )
        assert report.unused == ()
        assert all(n.endswith(("alpha", "num_batches_tracked")) or n.startswith("fc.") for n in report.missing)
