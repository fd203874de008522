"""What users are told when a model cannot be captured. Every piece of advice is followed."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import trtcore
from trtcore.errors import ExportError, InputError
from trtcore.frontend import export_errors
from trtcore.frontend.export import trace
from trtcore.frontend.program import program_from_exported
from trtcore.ir.inputs import Input


def test_a_shape_in_place_of_an_input():
    conv = nn.Conv2d(3, 4, 3)
    with pytest.raises(InputError, match=r"\(2, 3, 8, 8\), and none is a tensor") as caught:
        trace(conv, [(2, 3, 8, 8)])
    wanted = re.search(r"trtcore\.Input\(.*\)", caught.value.advice).group()
    trace(conv, [eval(wanted)])
    with pytest.raises(InputError, match="do not fit") as caught:
        trace(conv, (2, 3, 8, 8))
    wanted = re.search(r"inputs=(\[.*\])", caught.value.advice).group(1)
    trace(conv, eval(wanted))


def test_ints_beside_tensors_are_no_shape():
    class Reshape(nn.Module):
        def forward(self, x, shape):
            return x.reshape(shape)

    trace(Reshape(), [torch.ones(6), (2, 3)])


def test_inputs_that_the_model_itself_refuses(capfd, caplog):
    with pytest.raises(InputError, match="itself fails with these inputs, in plain torch too") as caught:
        trace(nn.Conv2d(3, 4, 3), [Input((2, 5, 8, 8))])
    text = str(caught.value)
    assert "to have 3 channels, but got 5" in text
    assert "a tensor of shape (2, 5, 8, 8) and torch.float32" in text
    assert "draft_export" not in text
    assert len(text.splitlines()) <= 5
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


class Joined(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y):
        return self.function(x, y)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool, torch.float16])
@pytest.mark.parametrize(
    "function",
    [
        nn.functional.linear,
        torch.matmul,
        lambda x, y: torch.bmm(x[None], y[None]),
        lambda x, y: torch.addmm(x, y, y),
        lambda x, y: torch.einsum("ij,jk->ik", x, y),
        lambda x, y: nn.functional.scaled_dot_product_attention(x[None], y[None], y[None]),
    ],
)
def test_dtypes_that_only_a_trace_takes(function, dtype):
    """FakeTensors multiply ints by floats."""
    x, y = torch.eye(40).to(dtype), torch.randn(40, 40)
    try:
        function(x, y)
        taken = True
    except RuntimeError:
        taken = False
    if taken:
        trace(Joined(function), [x, y])
        return
    with pytest.raises(InputError, match="itself fails with these inputs, in plain torch too"):
        trace(Joined(function), [x, y])
    with pytest.raises(InputError, match="itself fails with these inputs"):
        trace(
            Joined(function),
            [Input(min_shape=(20, 40), opt_shape=(40, 40), max_shape=(80, 40), dtype=dtype), y],
        )


def test_a_model_is_not_run_for_dtypes_that_go_together():
    ran = []

    class Embeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.linear = nn.Embedding(50, 12), nn.Linear(12, 4)

        def forward(self, ids, mask):
            ran.append(type(ids))
            x = self.table(ids).masked_fill(mask[..., None], 0.0) * ids[..., None]
            return self.linear(torch.where(mask[..., None], x, x.half())).gather(1, ids[..., None] % 4)

    trace(Embeds().eval(), [torch.ones(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.bool)])
    assert ran
    assert torch.Tensor not in ran


def test_strict_capture():
    exported = trtcore.dynamo.trace(nn.Linear(4, 4).eval(), [torch.ones(2, 4)], strict=True)
    assert trtcore.dynamo.compile(exported, min_block_size=1)(torch.ones(2, 4)).shape == (2, 4)


class Detector(nn.Module):
    """What comes out depends on the data, after many ops."""

    def forward(self, boxes):
        kept = boxes[boxes[:, 0] > 0]
        for _ in range(300):
            kept = kept * 2 + 1
        return kept[:3] if kept.shape[0] > 3 else kept


def test_a_long_trace_goes_into_a_file_and_not_on_the_screen(capfd, caplog, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ExportError, match="could not capture Detector") as caught:
        trace(Detector(), [torch.randn(8, 4)])
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    text = str(caught.value)
    assert len(text) < 2500
    assert len(text.splitlines()[0]) < 120
    path = re.search(r"all of it: (.*)", text).group(1)
    with open(path, encoding="utf-8") as file:
        whole = file.read()
    assert whole.count("torch.ops.aten.mul.Tensor") == 300
    assert "kept.shape[0] > 3" in text


def test_the_newest_files_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("trtcore.frontend.export_errors._KEPT", 2)
    (tmp_path / "trtcore-export-of-the-user").write_text("another file")
    names = [Path(export_errors._write("all of an error")) for _ in range(3)]
    assert [name.exists() for name in names] == [False, True, True]
    assert (tmp_path / "trtcore-export-of-the-user").exists()


def test_a_full_disk_does_not_hide_the_error(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    with pytest.raises(ExportError, match="could not capture Detector") as caught:
        trace(Detector(), [torch.randn(8, 4)])
    assert "all of it" not in str(caught.value)


def test_a_trace_leaves_torch_as_talkative_as_it_was(capfd):
    trace(nn.ReLU(), [torch.ones(2)])
    with pytest.raises(Exception, match="data-dependent"):
        torch.export.export(Detector(), (torch.randn(8, 4),))
    assert "torch.ops.aten.mul.Tensor" in capfd.readouterr().err


def test_weights_made_under_inference_mode():
    with torch.inference_mode():
        model = nn.Linear(4, 4)
    with pytest.raises(ExportError, match="inference tensor") as caught:
        trace(model, [torch.ones(2, 4)])
    assert "call model.requires_grad_(False) first" in caught.value.advice
    model.requires_grad_(False)
    compiled = trtcore.compile(model, inputs=[torch.ones(2, 4)], min_block_size=1)
    torch.testing.assert_close(compiled(torch.ones(2, 4)), model(torch.ones(2, 4)))


class Scripted(nn.Module):
    def __init__(self, relu):
        super().__init__()
        self.a, self.relu = nn.Linear(4, 4), relu

    def forward(self, x):
        return self.relu(self.a(x))


def test_a_submodule_in_torchscript():
    x = torch.ones(2, 4)
    model = Scripted(torch.jit.script(nn.ReLU())).eval()
    trace(model, [x])
    trace(torch.jit.trace(model, (x,)), [x])
    model.relu = nn.ReLU()
    trace(model, [x])


def test_the_other_way_to_capture():
    """Strict capture is advised, and what it returns is taken."""

    class Print(nn.Module):
        def forward(self, x):
            return x.relu() if x.sum() > 0 else x

    with pytest.raises(ExportError) as caught:
        trace(Print(), [torch.ones(2)])
    assert "torch.export.export(model, args, strict=True)" in caught.value.advice
    model, args = nn.Linear(4, 4).eval(), (torch.ones(2, 4),)
    trtcore.dynamo.compile(torch.export.export(model, args, strict=True))


class Odd(nn.Module):
    def forward(self, x):
        return (x * 2 if x.shape[1] % 2 else x) + 1


def exported_odd():
    length = torch.export.Dim.DYNAMIC(min=8, max=32)
    return torch.export.export(Odd(), (torch.ones(1, 16),), dynamic_shapes=({1: length},))


def test_a_plan_alone_is_not_made_where_a_condition_would_be_forgotten():
    serialize = trtcore.dynamo.convert_exported_program_to_serialized_trt_engine
    with pytest.raises(
        ExportError, match=r"x.size\(\)\[1\] % 2 == 0, which leaves out .* = 9, 11, 13"
    ) as caught:
        serialize(exported_odd())
    assert "profiles=[shape, ...]" in caught.value.advice
    assert len(serialize(exported_odd(), [Input(profiles=[(1, 8), (1, 16)])])) > 100


@pytest.mark.parametrize("compile", [trtcore.dynamo.compile, trtcore.compile])
def test_a_program_with_a_condition_warns_and_refuses_the_calls(compile):
    with pytest.warns(UserWarning, match=r"% 2 == 0, which leaves out .*\(12 sizes\)"):
        compiled = compile(exported_odd(), min_block_size=1)
    torch.testing.assert_close(compiled(torch.ones(1, 10)), torch.full((1, 10), 2.0))
    with pytest.raises(InputError, match="captured under the condition"):
        compiled(torch.ones(1, 9))


def test_dynamo_entry_points_trace_a_module():
    model, x = nn.Linear(4, 4).eval(), torch.ones(2, 4)
    compiled = trtcore.dynamo.compile(model, inputs=[x], min_block_size=1)
    torch.testing.assert_close(compiled(x), model(x))
    assert trtcore.dynamo.explain(model, [x]) is not None
    assert len(trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(model, [x])) > 100
    with pytest.raises(InputError, match="no inputs were given"):
        trtcore.dynamo.compile(model)


def test_inputs_as_they_are_written_elsewhere():
    x = Input((1, 3, 8, 8), dtype="float16", format=torch.channels_last)
    assert x.dtype is torch.float16
    assert x.example_tensor().is_contiguous(memory_format=torch.channels_last)
    assert Input((2,), dtype="torch.int64").dtype is torch.int64
    assert Input.from_tensors([torch.ones(2), torch.ones(3)]) == [
        Input((2,), device="cpu"),
        Input((3,), device="cpu"),
    ]
    model = nn.Conv2d(3, 4, 3).eval()
    given = Input((1, 3, 8, 8), format=torch.channels_last)
    program = program_from_exported(trace(model, [given]), [given])
    (found,) = program.graph_module(example := torch.randn(1, 3, 8, 8))
    torch.testing.assert_close(found, model(example))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float31"}, "dtype must be a torch.dtype"),
        ({"dtype": "nn"}, "dtype must be a torch.dtype"),
        ({"format": "nhwc"}, "format must be one of torch.contiguous_format"),
        ({"format": torch.channels_last}, "has 1"),
    ],
)
def test_wrong_descriptions(arguments, message):
    with pytest.raises(InputError, match=message):
        Input((2,), **arguments)


def test_from_tensors_of_one_tensor():
    with pytest.raises(InputError, match="takes a list") as caught:
        Input.from_tensors(torch.ones(2))
    assert "Input.from_tensor(tensor)" in caught.value.advice


def test_a_minimum_of_one_that_torch_left_out():
    class Double(nn.Module):
        def forward(self, x):
            return x * 2

    exported = torch.export.export(
        Double(), (torch.ones(4, 4),), dynamic_shapes=({0: torch.export.Dim.AUTO(min=1, max=8)},)
    )
    one = Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
    with pytest.raises(InputError, match=r"1\.\.8, but the program was exported for 2\.\.8") as caught:
        trtcore.dynamo.compile(exported, inputs=[one])
    assert "trtcore.compile(model, inputs)" in caught.value.advice
    compiled = trtcore.compile(Double(), [one], min_block_size=1)
    torch.testing.assert_close(compiled(torch.ones(1, 4)), torch.full((1, 4), 2.0))


def test_a_condition_with_a_float_in_it():
    class Resize(nn.Module):
        def forward(self, x):
            return nn.functional.interpolate(x, scale_factor=0.6, recompute_scale_factor=True)

    x = Input(min_shape=(1, 3, 4), opt_shape=(2, 3, 10), max_shape=(4, 3, 20))
    program = program_from_exported(trace(Resize(), [x]), [x])
    for length in range(4, 21):
        example = torch.randn(2, 3, length)
        (found,) = program.graph_module(example)
        torch.testing.assert_close(found, Resize()(example))


def test_packed_sequences():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LSTM(6, 8, batch_first=True)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            y, (h, _) = self.layer(packed)
            return nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], h[0]

    class Padded(Packed):
        def forward(self, x, lengths):
            y, _ = self.layer(x)
            last = y.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, y.shape[2])).squeeze(1)
            inside = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
            return y * inside.unsqueeze(2), last

    model, x, lengths = Packed().eval(), torch.randn(3, 20, 6), torch.tensor([7, 20, 1])
    with pytest.raises(ExportError, match="padded batch, and set what it puts out") as caught:
        trace(model, [x, lengths])
    assert "output at length - 1" in caught.value.advice
    padded = Padded().eval()
    padded.load_state_dict(model.state_dict())
    with torch.no_grad():
        for own, wanted in zip(trace(padded, [x, lengths]).module()(x, lengths), model(x, lengths)):
            torch.testing.assert_close(own, wanted)
