"""Whole architectures through the bridge: small random models of transformers and six convolutional networks.

Each is drawn by at most twelve lines of a user's: that is counted. Outputs are PyTorch's to 1e-4.
"""

import inspect
import warnings

import jax
import numpy as np
import pytest

import landscape as ls

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

MOST_LINES, TOLERANCE = 12, 1e-4
COUNT = 4
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
SPECIAL = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tokens():
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(3, 50, (COUNT, 7), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def sentences():
    return tokens() | {"labels": torch.tensor([1, 0, 0, 1])}


def pixels(size=8):
    return torch.linspace(-1.2, 1.1, COUNT * 3 * size * size).reshape(COUNT, 3, size, size).sin()


def images():
    return {"pixel_values": pixels(), "labels": torch.tensor([1, 0, 2, 1])}


# ----------------------------------------------------------------------------------- what a user writes: transformers


def gpt2(hf):
    config = hf.GPT2Config(
        n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=16, bos_token_id=1, eos_token_id=1
    )
    return ls.bridges.torch.problem(hf.GPT2LMHeadModel(config), None, tokens())


def llama(hf):
    config = hf.LlamaConfig(**SIZES, **SPECIAL, num_key_value_heads=2)
    return ls.bridges.torch.problem(hf.LlamaForCausalLM(config), None, tokens())


def mistral(hf):
    config = hf.MistralConfig(**SIZES, **SPECIAL, num_key_value_heads=2, sliding_window=4)
    return ls.bridges.torch.problem(hf.MistralForCausalLM(config), None, tokens())


def qwen2(hf):
    config = hf.Qwen2Config(**SIZES, **SPECIAL, num_key_value_heads=2)
    return ls.bridges.torch.problem(hf.Qwen2ForCausalLM(config), None, tokens())


def gpt_neox(hf):
    return ls.bridges.torch.problem(hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES, **SPECIAL)), None, tokens())


def opt(hf):
    config = hf.OPTConfig(
        hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=16,
        max_position_embeddings=16, **SPECIAL,
    )  # fmt: skip
    return ls.bridges.torch.problem(hf.OPTForCausalLM(config), None, tokens())


def bert(hf):
    config = hf.BertConfig(**SIZES, vocab_size=50)
    return ls.bridges.torch.problem(hf.BertForSequenceClassification(config), None, sentences())


def roberta(hf):
    config = hf.RobertaConfig(**SIZES, **SPECIAL, max_position_embeddings=16)
    return ls.bridges.torch.problem(hf.RobertaForSequenceClassification(config), None, sentences())


def distilbert(hf):
    config = hf.DistilBertConfig(dim=16, hidden_dim=24, n_layers=2, n_heads=4, vocab_size=50)
    return ls.bridges.torch.problem(hf.DistilBertForSequenceClassification(config), None, sentences())


def t5(hf):
    config = hf.T5Config(
        d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, vocab_size=50, decoder_start_token_id=0
    )  # fmt: skip
    return ls.bridges.torch.problem(hf.T5ForConditionalGeneration(config), None, tokens())


def vit(hf):
    config = hf.ViTConfig(**SIZES, image_size=8, patch_size=4, num_labels=3)
    return ls.bridges.torch.problem(hf.ViTForImageClassification(config), None, images())


TRANSFORMERS = (gpt2, llama, mistral, qwen2, gpt_neox, opt, bert, roberta, distilbert, t5, vit)


# ------------------------------------------------------------------------------------------------------- convolutions


def block(inputs, outputs, stride=1, groups=1, kernel=3):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def head(channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first, self.second = block(inputs, outputs, stride), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return F.relu(self.second(self.first(x)) + self.skip(x))


class Dense(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.layers = nn.ModuleList(block(inputs + i * growth, growth) for i in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.deep, self.deeper = block(3, 4), block(4, 8, 2), block(8, 8, 2)
        self.up, self.join = nn.ConvTranspose2d(8, 8, 2, 2), block(16, 4)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        high = self.down(x)
        low = self.deep(high)
        low = self.join(torch.cat([low, self.up(self.deeper(low))], 1))
        low = F.interpolate(low, size=high.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(torch.cat([high, low], 1))


def mobile(inputs, outputs):
    return nn.Sequential(
        block(inputs, 12, kernel=1), block(12, 12, groups=12), nn.Conv2d(12, outputs, 1), nn.Hardswish()
    )


NETWORKS = {
    "plain": lambda: nn.Sequential(block(3, 6), nn.AvgPool2d(2), block(6, 6), head(6)),
    "residual": lambda: nn.Sequential(block(3, 6), Residual(6, 6, 1), Residual(6, 8, 2), head(8)),
    "VGG": lambda: nn.Sequential(
        block(3, 6), block(6, 6), nn.MaxPool2d(2), block(6, 8), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3),
    ),
    "MobileNet": lambda: nn.Sequential(block(3, 6, 2), mobile(6, 6), mobile(6, 8), head(8)),
    "U-Net": UNet,
    "DenseNet": lambda: nn.Sequential(Dense(3, 4), block(15, 6, kernel=1), nn.AvgPool2d(2), Dense(6, 4), head(18)),
}  # fmt: skip


def network(module):
    labels = torch.tensor([1, 0, 2, 1])
    targets = labels[:, None, None].expand(COUNT, 8, 8) if isinstance(module, UNet) else labels
    return ls.bridges.torch.problem(module, F.cross_entropy, (pixels(), targets))


# -------------------------------------------------------------------------------------------------------------- tests

QUICK = {"gpt2", "bert", "residual", "U-Net"}


def some_slow(named):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in named]


def assert_can_be_drawn(problem, name):
    """Its directions are scaled filter by filter without a warning; the surface of some is finite and not flat."""
    assert 0 < problem.difference <= TOLERANCE
    directions = ls.subspace.random_directions(jax.random.key(2), problem.params)
    directions = ls.subspace.filter_normalize(directions, problem.params)
    if name not in QUICK:  # one more program to compile for each
        return
    surface = ls.LossSurface(ls.Subspace(problem.params, directions), problem.objectives["train"])
    found = ls.sweep(surface, ls.Grid.square(0.5, 2), batch=1, progress=False)["loss"]
    assert np.all(np.isfinite(found))
    assert np.ptp(found) > 1e-4


@pytest.mark.parametrize("name", some_slow(fn.__name__ for fn in TRANSFORMERS))
def test_transformers(name):
    hf = pytest.importorskip("transformers", reason="needs transformers")
    hf.logging.set_verbosity_error()
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of transformers about itself
        problem = next(fn for fn in TRANSFORMERS if fn.__name__ == name)(hf)
    assert_can_be_drawn(problem, name)


@pytest.mark.parametrize("name", some_slow(NETWORKS))
def test_convolutional_networks(name):
    torch.manual_seed(5)
    module = NETWORKS[name]()
    with torch.no_grad():
        module(pixels())  # statistics that are not those of a new network
    assert_can_be_drawn(network(module), name)


def test_a_users_code_is_short():
    longest = max(len(inspect.getsource(fn).strip().splitlines()) for fn in (*TRANSFORMERS, network))
    assert longest <= MOST_LINES


def test_conv1d_of_transformers_has_its_filters_on_the_last_axis():
    hf = pytest.importorskip("transformers", reason="needs transformers")
    from landscape.bridges import _module

    config = hf.GPT2Config(n_layer=1, n_head=2, n_embd=16, n_inner=16, vocab_size=50, n_positions=16)
    module = hf.GPT2Model(config)
    axes = _module.filter_axes(module, dict(module.named_parameters()))
    assert axes["h.0.mlp.c_fc.weight"] == axes["h.0.attn.c_attn.weight"] == (1,)  # square: shapes tell nothing
    assert axes["wte.weight"] == axes["wpe.weight"] == (0,)
    assert axes["h.0.ln_1.weight"] is axes["h.0.mlp.c_fc.bias"] is None
