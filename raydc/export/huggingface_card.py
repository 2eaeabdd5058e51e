"""The README of an exported encoder: how it is loaded, and what its outputs mean. Pure."""

from __future__ import annotations

from raydc.bundle import Bundle
from raydc.spec.sequence_models import HuggingFace

_VECTORS = {
    "mean": "found.last_hidden_state.mul(mask).sum(1) / mask.sum(1)",
    "cls": "found.last_hidden_state[:, 0]",
    "pooler": "found.pooler_output",
}
_LOADED = """\
texts = ["a text", "another text"]
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
given = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
"""
_HEAD = """\
head = load_file(f"{FOLDER}/2_Dense/model.safetensors")
mask = given["attention_mask"][:, :, None]
found = encoder(**given)
"""


def render(loaded: Bundle, model: HuggingFace) -> str:
    """Renders the README of a folder.

    Args:
        loaded: Model that was exported.
        model: Its section `model`.
    """
    from raydc.export.huggingface_folder import is_classifier

    signature = loaded.features.signature
    code = ["from transformers import AutoTokenizer"]
    if is_classifier(model):
        code[0] += ", AutoModelForSequenceClassification"
        code += ["", _LOADED + "network = AutoModelForSequenceClassification.from_pretrained("]
        code[-1] += "FOLDER).eval()"
        code += ["outputs = network(**given).logits"]
    else:
        code = ["from safetensors.torch import load_file", f"{code[0]}, AutoModel"]
        encoder = "AutoModel.from_pretrained(FOLDER)"
        if model.lora is not None:
            code.insert(0, "from peft import PeftModel")
            encoder = "PeftModel.from_pretrained(AutoModel.from_pretrained(BASE), FOLDER)"
        code += ["", f"{_LOADED}encoder = {encoder}.eval()", _HEAD.rstrip()]
        code += [f"vectors = {_VECTORS[str(model.pooling)]}"]
        code += ['outputs = vectors @ head["linear.weight"].T + head["linear.bias"]']
    lines = [
        f"# {loaded.spec.name}",
        "",
        f"A {signature.task} of `{loaded.features.target}`, exported by raydc.",
        "",
        "```python",
        *code,
        "```",
        "",
    ]
    if model.lora is not None:
        lines += [f"BASE is the encoder that was trained with adapters: `{model.path}`.", ""]
    if signature.task == "regression":
        features = loaded.features
        lines += [f"A value is output * {features.target_scale} + {features.target_mean}.", ""]
    else:
        function = "softmax" if signature.task == "classification" else "sigmoid"
        names = ", ".join(signature.classes)
        lines += [f"Scores are the {function} of the outputs, in this order: {names}.", ""]
    lines += ["A missing text, which has no tokens in raydc, has no counterpart here.", ""]
    return "\n".join(lines)
