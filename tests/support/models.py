"""Small files of the formats that models come in, made byte by byte after their specifications."""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence


def safetensors_raw(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def safetensors(tensors: Mapping[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors by name: type, shape, bytes."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    raw = json.dumps(header).encode()
    return safetensors_raw(raw + b" " * (-len(raw) % 8), b"".join(data for _, _, data in tensors.values()))


Tensor = tuple[str, list[int], int, int, bytes]  # name, sizes, type, offset, bytes


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_text(text: str) -> tuple[int, bytes]:
    return 8, _text(text)


def gguf_texts(texts: Sequence[str]) -> tuple[int, bytes]:
    return 9, struct.pack("<IQ", 8, len(texts)) + b"".join(map(_text, texts))


def gguf(
    members: Mapping[str, tuple[int, bytes]] | None = None,
    *,
    architecture: str | None = "llama",
    tensors: Sequence[Tensor] = (),
    version: int = 3,
    repeat: bool = False,
) -> bytes:
    """A GGUF file; values are a type and the bytes behind it."""
    values = dict(members or {})
    if architecture is not None:
        values["general.architecture"] = gguf_text(architecture)
    items = [_text(key) + struct.pack("<I", kind) + raw for key, (kind, raw) in values.items()]
    items = items * 2 if repeat else items
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(items)) + b"".join(items)
    for name, sizes, kind, offset, _data in tensors:
        out += _text(name) + struct.pack("<I", len(sizes)) + b"".join(struct.pack("<Q", size) for size in sizes)
        out += struct.pack("<IQ", kind, offset)
    for tensor in tensors:
        out = out.ljust(-(-len(out) // 32) * 32, b"\0") + tensor[4]
    return out


def npy(descr: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """A NumPy array; `descr` that begins with a bracket is a record type."""
    described = descr if descr.startswith("[") else repr(descr)
    header = f"{{'descr': {described}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def _field(number: int, raw: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def onnx(location: str | None = None, domain: str = "") -> bytes:
    """An ONNX model of one node and one tensor, whose bytes are here or in another file."""
    tensor = b"\x08\x01\x10\x01" + _field(8, b"w")
    if location is None:
        tensor += _field(9, bytes(4))
    else:
        tensor += _field(13, _field(1, b"location") + _field(2, location.encode())) + b"\x70\x01"
    node = _field(1, b"w") + _field(2, b"y") + _field(4, b"Identity") + (_field(7, domain.encode()) if domain else b"")
    graph = _field(1, node) + _field(2, b"g") + _field(5, tensor)
    return b"\x08\x09" + _field(2, b"tests") + _field(7, graph) + _field(8, b"\x10\x12")


def sentencepiece(pieces: Sequence[str] = ("<unk>", "<s>", "</s>", "\u2581the", "a")) -> bytes:
    """A vocabulary as SentencePiece writes it."""
    body = b"".join(
        _field(1, _field(1, piece.encode()) + b"\x15" + struct.pack("<f", -1.0) + b"\x18\x01") for piece in pieces
    )
    return body + _field(2, b"\x18\x01") + _field(3, _field(1, b"identity"))


CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
TOOLS = """{#- A template with tools, as larger models have them. -#}
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- macro render(tool, indent=4) -%}
    {{- tool.name ~ ': ' ~ (tool.parameters.properties | tojson(indent=indent)) }}
{%- endmacro %}
{%- set ns = namespace(found=false, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and not ns.found %}{%- set ns.found = true %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}{%- endif %}
{%- for tool in tools or [] %}{{ render(tool) }}{%- endfor %}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}{{ raise_exception('Unknown role: ' ~ message.role) }}{%- endif %}
    {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
    {%- for name, value in (message.arguments | default({})).items() %}{{ name }}={{ value | string }}{%- endfor %}
    {{- '<' + message.role + '>' + content + eos_token }}
{%- endfor %}
{% raw %}{{ this is not read }}{% endraw %}
{%- generation %}{{ messages[messages | length - 1]['content'][:20] }}{% endgeneration %}
"""


def _tensors(count: int) -> bytes:
    tensors = {f"model.layers.{n}.weight": ("F16", [4, 8], bytes(range(64))) for n in range(count)}
    return safetensors(tensors, {"format": "pt"})


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode()


def clean() -> dict[str, dict[str, bytes]]:
    """Artifacts as they are really laid out, by name; nothing in them may be blocked, or even mentioned."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
        "_name_or_path": "/home/somebody/models/base",
        "_attn_implementation_autoset": True,
        "attn_implementation": "sdpa",
        "quantization_config": {"quant_method": "gptq", "bits": 4, "modules_to_not_convert": ["lm_head"]},
    }
    vocabulary = {
        token: number for number, token in enumerate(["<s>", "auto_map", "trust_remote_code", "_target_", "__init__"])
    }
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<s>", "special": True}],
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"], "c d"]},
    }
    index = {
        "metadata": {"total_size": 128},
        "weight_map": {
            "model.layers.0.weight": "model-00001-of-00002.safetensors",
            "lm_head.weight": "model-00002-of-00002.safetensors",
        },
    }
    transformers = {
        "README.md": b"---\nlicense: apache-2.0\nbase_model: acme/base\n---\n# Model\n\n```python\nimport os\nos.system('x')\n```\n",
        "LICENSE": b"Apache License\n",
        ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
        "config.json": _json(config),
        "generation_config.json": _json({"do_sample": True, "eos_token_id": [1, 2], "temperature": 0.6}),
        "model.safetensors.index.json": _json(index),
        "model-00001-of-00002.safetensors": _tensors(1),
        "model-00002-of-00002.safetensors": safetensors({"lm_head.weight": ("BF16", [2], bytes(4))}),
        "tokenizer.json": _json(tokenizer),
        "tokenizer_config.json": _json(
            {"chat_template": CHATML, "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"}
        ),
        "special_tokens_map.json": _json({"bos_token": {"content": "<s>", "lstrip": False}}),
        "added_tokens.json": _json({"<s>": 0}),
        "vocab.json": _json(vocabulary),
        "merges.txt": "#version: 0.2\n\u0120 t\n\u0120 a\n".encode(),
        "chat_template.jinja": TOOLS.encode(),
        "tokenizer.model": sentencepiece(),
        "trainer_state.json": b'{"log_history": [{"loss": NaN, "grad_norm": Infinity}]}',
        "notes/labels.txt": b"cat\ndog\nbird\n",
        "notes/empty.txt": b"",
        "assets/logo.png": png(),
    }
    sentence = {
        "modules.json": _json(
            [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            ]
        ),
        "1_Pooling/config.json": _json({"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True}),
        "config_sentence_transformers.json": _json({"__version__": {"transformers": "4.57.0"}, "prompts": {}}),
        "sentence_bert_config.json": _json({"max_seq_length": 256}),
        "config.json": _json({"model_type": "bert"}),
        "vocab.txt": "[PAD]\n[unused0]\n\u2581the\ncat\nd\n".encode(),
        "model.safetensors": _tensors(3),
        "onnx/model.onnx": onnx(),
        "onnx/large.onnx": onnx(location="large.onnx_data.safetensors"),
        "onnx/large.onnx_data.safetensors": _tensors(1),
    }
    adapter = {
        "adapter_config.json": _json(
            {
                "auto_mapping": {"base_model_class": "X", "parent_library": "transformers.models.llama.modeling_llama"},
                "base_model_name_or_path": "acme/base",
                "peft_type": "LORA",
                "megatron_config": None,
                "megatron_core": "megatron.core",
                "target_modules": ["q_proj"],
            }
        ),
        "adapter_model.safetensors": safetensors({"base_model.lora_A.weight": ("F32", [1, 4], bytes(16))}),
        "README.md": b"# Adapter\n",
    }
    diffusers = {
        "model_index.json": _json(
            {
                "_class_name": "StableDiffusionPipeline",
                "_diffusers_version": "0.35.0",
                "unet": ["diffusers", "UNet2DConditionModel"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "safety_checker": [None, None],
            }
        ),
        "unet/config.json": _json({"_class_name": "UNet2DConditionModel", "act_fn": "silu"}),
        "unet/diffusion_pytorch_model.safetensors": _tensors(2),
        "scheduler/scheduler_config.json": _json({"_class_name": "DDIMScheduler"}),
        "tokenizer/merges.txt": b"#version: 0.2\ni n\n",
        "v1-inference.yaml": b"model:\n  base: !!float 1.0\n  text: 'ready! now'\n  list: [a, b]\n",
    }
    quantized = {
        "model-Q4_0.gguf": gguf(
            {
                "general.name": gguf_text("tests"),
                "general.alignment": (4, struct.pack("<I", 32)),
                "tokenizer.ggml.tokens": gguf_texts(["<s>", "a", "b"]),
                "tokenizer.ggml.scores": (9, struct.pack("<IQ3f", 6, 3, 0, -1, -2)),
                "tokenizer.ggml.token_type": (9, struct.pack("<IQ3i", 5, 3, 3, 1, 1)),
                "tokenizer.ggml.bos_token_id": (4, struct.pack("<I", 0)),
                "tokenizer.ggml.unknown_token_id": (4, struct.pack("<I", 2**32 - 1)),
                "tokenizer.chat_template": gguf_text(CHATML),
                "llama.use_parallel_residual": (7, b"\1"),
            },
            tensors=[("token_embd.weight", [32, 2], 2, 0, bytes(36)), ("norm.weight", [4], 0, 64, bytes(16))],
        ),
        "model-v2.gguf": gguf(version=2, tensors=[("w", [2, 2], 1, 0, bytes(8))]),
        "vocabulary-only.gguf": gguf({"tokenizer.ggml.tokens": gguf_texts(["a"])}),
        "Modelfile": b"FROM ./model-Q4_0.gguf\nPARAMETER temperature 0.6\n",
        "imatrix.txt": b"calibration\n",
    }
    arrays = {
        "stats.npy": npy("<f4", (2, 2), bytes(16)),
        "scalar.npy": npy("|u1", (), bytes(1)),
        "record.npy": npy("[('id', '<i4'), ('name', '<U4'), ('v', '<f4', (2,))]", (1,), bytes(28)),
        "config.yaml": b"a: 1\n",
        "data.jsonl": b'{"a": 1}\n{"a": 2}\n',
        "table.csv": b"a,b\n1,2\n",
        "vocab.tiktoken": b"IQ== 0\nIg== 1\n",
        "original/tokenizer.model": b"IQ== 0\nIg== 1\n",
        "grammar.gbnf": b'root ::= "a"\n',
        "version-1.5": b"text\n",
    }
    return {
        "transformers": transformers,
        "sentence-transformers": sentence,
        "adapter": adapter,
        "diffusers": diffusers,
        "quantized": quantized,
        "arrays": arrays,
    }
