from typing import Literal

Role = Literal["attention", "mlp", "norms", "final_norm", "embeddings", "head"]


def tensor_roles(model, structure):
    found = {}
    for n in model.state_dict():
        w = structure.split(n)
        if w is None:
            found[n] = (
                "embeddings" if "emb" in n or "wte" in n or "wpe" in n else "head" if "head" in n else "final_norm"
            )
        else:
            found[n] = "attention" if "attn" in w[1] else "norms" if "norm" in w[1] or "ln" in w[1] else "mlp"
    return found


def silencing_values(block):
    return {n: 0.0 for n in block.state_dict() if "o_proj" in n or "down_proj" in n or "c_proj" in n}
