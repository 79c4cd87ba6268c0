"""Linear layers with packed weights: the same answers as torch's own, and only where they are meant to be."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from support import builders
from torch import nn

from dray.pipelines.internals import linear
from dray.pipelines.internals.linear import PackedLinear, is_faster, pack_linears, speed

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")
BFLOAT16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor does not pack weights of bfloat16: no AVX-512"
)
SIZE = 128  # of layers: 64 rows and more of float32 are multiplied with packed weights, and any of bfloat16


@pytest.fixture
def faster(monkeypatch):
    """Whatever this processor does best."""
    monkeypatch.setattr(linear, "is_faster", lambda dtype: True)


@pytest.fixture
def multiplied(monkeypatch):
    """Shapes that packed weights were multiplied with."""
    shapes, multiply = [], linear._multiply
    monkeypatch.setattr(linear, "_multiply", lambda *given: shapes.append(tuple(given[0].shape)) or multiply(*given))
    return shapes


def made(kind=nn.Linear, **options):
    torch.manual_seed(0)
    return kind(SIZE, SIZE, **options)


@pytest.mark.parametrize("shape", [(64, SIZE), (4, 16, SIZE), (2, 2, 16, SIZE), (1, SIZE), (0, SIZE), (SIZE,)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 0.02, marks=BFLOAT16)])
def test_gives_what_the_layer_gives(shape, bias, dtype, tolerance, multiplied):
    layer = made(bias=bias).to(dtype)
    inputs = torch.randn(shape).to(dtype)
    with torch.no_grad():
        wanted, found = layer(inputs), PackedLinear(layer)(inputs)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
    is_packed = inputs.numel() and (dtype == torch.bfloat16 or inputs.numel() * SIZE >= linear.SMALLEST)
    assert multiplied == ([shape] if is_packed else [])


def test_inputs_may_lie_in_memory_in_any_order(multiplied):
    layer = made()
    inputs = torch.randn(SIZE, 64).t()
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(layer)(inputs), layer(inputs), atol=1e-5, rtol=1e-5)
    assert multiplied


def test_gradients_are_those_of_the_layer(faster):
    layer = made()
    model = nn.Sequential(layer)
    assert pack_linears(model) == 1
    model(torch.randn(64, SIZE)).sum().backward()
    assert layer.weight.grad is not None


@BFLOAT16
def test_a_model_that_was_converted_computes_in_its_new_dtype(faster, multiplied):
    model = nn.Sequential(made())
    pack_linears(model)
    model.to(torch.bfloat16)
    inputs = torch.randn(64, SIZE).to(torch.bfloat16)
    with torch.no_grad():
        before = model(inputs)
        assert (before.dtype, multiplied) == (torch.bfloat16, [])
        assert pack_linears(model) == 1
        torch.testing.assert_close(model(inputs), before, atol=0.02, rtol=0.02)
    assert multiplied == [(64, SIZE)]


def test_copies_share_what_is_packed(faster):
    model = nn.Sequential(made(), made())
    pack_linears(model)
    copy_with_shared_weights = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    assert [layer.forward for layer in copy_with_shared_weights] == [layer.forward for layer in model]


class Special(nn.Linear):
    """A layer of somebody's own."""


class Held(nn.Parameter):
    """Weights in somebody's own form."""


def held():
    layer = made()
    layer.weight = Held(layer.weight.detach())
    return layer


def hooked():
    layer = made()
    layer.register_forward_pre_hook(lambda module, inputs: inputs)
    return layer


def patched():
    layer = made()
    layer.forward = lambda inputs: inputs
    return layer


def normed():
    return nn.utils.parametrizations.weight_norm(made())


@pytest.mark.parametrize(
    "layer",
    [lambda: made(Special), held, hooked, patched, normed, lambda: made(device="meta"), lambda: nn.Conv1d(1, 1, 1)],
)
def test_layers_that_are_not_plain_are_left_alone(faster, layer):
    layer = layer()
    before = vars(layer).get("forward")
    assert pack_linears(nn.Sequential(layer)) == 0
    assert vars(layer).get("forward") is before


@pytest.mark.parametrize(
    "known", [{"hf_device_map": {"": "cpu"}}, {"config": transformers.BertConfig(quantization_config={"quant_method": "x"})}]
)
def test_offloaded_and_quantized_models_are_left_alone(faster, known):
    model = nn.Sequential(made())
    vars(model).update(known)
    assert pack_linears(model) == 0


def test_weights_that_take_too_much_are_not_packed(faster, monkeypatch):
    monkeypatch.setattr(linear, "free_memory", lambda: SIZE * SIZE * 4 * 2 - 1)
    assert pack_linears(nn.Sequential(made())) == 0
    monkeypatch.setattr(linear, "free_memory", lambda: SIZE * SIZE * 4 * 2)
    assert pack_linears(nn.Sequential(made())) == 1


def test_free_memory_is_some():
    assert 0 < linear.free_memory() < 1 << 60


def test_weights_that_were_changed_count(faster, multiplied):
    layer = made()
    pack_linears(nn.Sequential(layer))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        assert not layer(torch.randn(64, SIZE)).any()
    assert not multiplied


def test_under_autocast_the_layer_computes_as_ever(faster, multiplied):
    layer = made()
    pack_linears(nn.Sequential(layer))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(64, SIZE)).dtype == torch.bfloat16
    assert not multiplied


def test_several_threads_multiply_at_once(faster):
    layer = made()
    inputs = [torch.randn(64 + count, SIZE) for count in range(32)]
    with torch.no_grad():
        wanted = [layer(each) for each in inputs]
    pack_linears(nn.Sequential(layer))

    def multiply(each):
        with torch.no_grad():
            return layer(each)

    with ThreadPoolExecutor(4) as threads:
        for found, right in zip(threads.map(multiply, inputs * 8), wanted * 8, strict=True):
            torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)


def test_a_torch_without_these_operators_multiplies_as_ever(monkeypatch):
    def missing(weight):
        raise AttributeError("no such operator")

    monkeypatch.setattr(linear, "_pack", missing)
    is_faster.cache_clear()
    try:
        assert not is_faster(torch.float32)
    finally:
        is_faster.cache_clear()
    assert not is_faster(torch.float16)


def test_speed_is_that_of_one_thread_and_leaves_the_others(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(linear, "_fastest", lambda *calls: [float(torch.get_num_threads()), 0.5])
        speed.cache_clear()
        assert speed(torch.float32) == speed(torch.int8) == 2 * 256 * 768 * 768 / 0.5
        assert linear._seconds(torch.float32, 8) == (1.0, 0.5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        speed.cache_clear()


def test_what_is_faster_is_taken(monkeypatch):
    is_faster.cache_clear()
    monkeypatch.setattr(linear, "_fastest", lambda *calls: [1.5, 1.0])
    assert is_faster(torch.float32)
    is_faster.cache_clear()
    monkeypatch.setattr(linear, "_fastest", lambda *calls: [1.0, 1.0])
    assert not is_faster(torch.float32)
    is_faster.cache_clear()


def test_loaded_models_have_them(tmp_path, faster):
    from support.loading import load

    model = builders.text_classifier(tmp_path)
    packed = [
        type(layer.forward) for layer in load(model, "text-classification").pipe.model.modules() if "forward" in vars(layer)
    ]
    assert set(packed) == {PackedLinear}
